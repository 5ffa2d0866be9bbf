"""What the page draws is what the policy draws; the grid and the names of files."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.demo.compare_tab import check_second
from corl_jax.demo.draw_tab import draw_on_page
from corl_jax.demo.drawing import DrawRequest, make_set, make_sheet
from corl_jax.demo.policies import LARGE_WAIT, SMALL_WAIT, Policies


def decode(html):
    """Images of an HTML text, in order."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(text)))) for text in found]


def test_pictures_are_those_of_the_policy(policies, dot_policy):
    values = ("a red circle", 2, 1.5, 0.9, 7)
    busy, (status, html, drawn) = draw_on_page(policies, [""], values)
    expected = dot_policy.generate(["a red circle"], 2, seed=7, guidance=1.5, temperature=0.9)[0]
    np.testing.assert_array_equal(drawn, expected)
    np.testing.assert_array_equal(decode(html)[:2], expected)
    np.testing.assert_array_equal(decode(html)[2], np.asarray(make_sheet(expected)))

    assert "compiles" in busy[0] and "2 pictures in" in status
    names = re.findall(r'data-download="([^"]+)"', html)
    assert names == [f"a-red-circle-seed7-{i:02d}.png" for i in range(2)] + [
        "a-red-circle-seed7-grid.png"
    ]


def test_waiting_is_announced_only_where_something_compiles(policies):
    request = DrawRequest("a red circle", 2)
    program = policies.drawing_program(request)
    assert policies.wait(program).startswith("The first picture compiles")
    policies.run(program, lambda: None)
    policies.compiled[program] = 12.4
    assert policies.wait(program) == ""

    # Another number of pictures, a scale of 1, or many more words are programs of their own.
    for other in (
        DrawRequest("a red circle", 3),
        DrawRequest("a red circle", 2, guidance=1.0),
        DrawRequest("a red circle left of a blue square and two green triangles", 2),
    ):
        assert "about 12 s" in policies.wait(policies.drawing_program(other))
    same = DrawRequest("two blue squares", 2, seed=9, temperature=0.5)
    assert policies.drawing_program(same) == program
    assert policies.guess() == SMALL_WAIT != LARGE_WAIT


@pytest.mark.parametrize(
    ("values", "text"),
    [
        (("a red bicycle", 2, 2, 1, 0), "does not know &#39;bicycle&#39;"),
        (("", 2, 2, 1, 0), "the prompt is empty"),
        (("a red circle", 17, 2, 1, 0), "samples must be a whole number from 1 to 16; got 17"),
        (("a red circle", 2, 2, 1, None), "seed must be a whole number"),
        (("a red circle " * 2000, 2, 2, 1, 0), "an image must have at most"),
    ],
)
def test_bad_requests_are_sentences(policies, values, text):
    *_, (status, html, drawn) = draw_on_page(policies, [""], values)
    assert text in status and 'role="alert"' in status
    assert html == drawn == {"__type__": "update"}


def test_two_policies_draw_from_one_seed(policies, dot_policy):
    policies.loaded["other"] = dot_policy
    *_, (_, html, drawn) = draw_on_page(policies, ["", "other"], ("a red circle", 2, 2, 1, 0))
    np.testing.assert_array_equal(drawn[:2], drawn[2:])
    assert re.findall('data-ask="([0-9]+)"', html) == ["0", "1", "2", "3"]
    assert 'data-download="tiny-a-red' in html and 'data-download="other-a-red' in html


def test_a_full_device_is_a_sentence(policies):
    import jax

    def fail():
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")

    program = policies.drawing_program(DrawRequest("a red circle", 9))
    with pytest.raises(UserError, match="ask for fewer pictures"):
        policies.run(program, fail)
    assert program not in policies.compiled

    def break_down():
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    with pytest.raises(jax.errors.JaxRuntimeError):
        policies.run(program, break_down)


def test_only_two_policies_are_kept(dot_policy, monkeypatch):
    loads = []

    def load(name, devices):
        loads.append(name)
        return dot_policy

    monkeypatch.setattr("corl_jax.demo.policies.Policy.load", load)
    policies = Policies("a")
    for name in ("", "a", "b", "", "b", "c", "a", "c", "b"):
        policies.get(name)
    assert loads == ["a", "b", "c", "b"] and set(policies.loaded) == {"a", "b"}


@pytest.mark.parametrize(
    ("name", "allowed", "text"),
    [
        (None, None, "must be another one than tiny; got none"),
        (" tiny ", None, "must be another one than tiny; got 'tiny'"),
        ("/home/other", ["runs/a"], "must be one of those offered; got '/home/other'"),
    ],
)
def test_the_other_policy_is_checked(policies, name, allowed, text):
    with pytest.raises(UserError, match=text):
        check_second(policies, name, allowed)
    assert check_second(policies, "runs/a", allowed) == "runs/a"


def test_the_grid_is_nearly_square():
    images = np.arange(5, dtype=np.uint8)[:, None, None, None] * np.ones((1, 48, 48, 3), np.uint8)
    sheet = make_sheet(images)
    assert sheet.width > 3 * 192 and sheet.height > 2 * 192
    large = make_sheet(np.zeros((1, 384, 384, 3), np.uint8))
    assert 384 < large.width < 2 * 384
    shown = make_set(images, DrawRequest("../ü?", 5), "title")
    assert shown.pictures[4].file_name == "ü-seed0-04.png"
