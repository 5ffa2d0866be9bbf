"""Drawing: 20 prompts of GenEval, the same pictures in any batch and after a kill."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.suites.generation import drawing
from corl_jax.suites.generation.drawing import draw_suite
from corl_jax.suites.generation.picture_files import read_pictures
from corl_jax.suites.generation.picture_stream import DrawSettings
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import generation_suites

sys.path.insert(0, str(Path(__file__).parent))
import official_layouts  # noqa: E402
from small_policy import open_small_policy, write_small_policy  # noqa: E402

GENEVAL = generation_suites["geneval"]
SETTINGS = DrawSettings(samples=4, seed=3, guidance=2.0, temperature=1.0, batch_size=16)
WORDS = ("bench", "cow", "giraffe", "red cup", "bird left of a cat")


def geneval_prompts(number):
    """Prompts of different lengths."""
    return tuple(
        GenerationPrompt(
            f"{i:05d}",
            f"a photo of a {WORDS[i % 5]}",
            "single_object",
            {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": f"{i}"},
        )
        for i in range(number)
    )


@pytest.fixture(scope="module")
def policy(tmp_path_factory):
    return open_small_policy(write_small_policy(tmp_path_factory.mktemp("policy") / "small"))


@pytest.fixture(scope="module")
def draw(policy):
    """A function that draws prompts into a folder."""

    def draw(prompts, folder, settings=SETTINGS, suite=GENEVAL, about="small"):
        folder.mkdir(exist_ok=True)
        return draw_suite(*policy, suite, prompts, folder, settings, {"name": about}, quiet=True)

    return draw


@pytest.fixture(scope="module")
def unbroken(draw, tmp_path_factory):
    """Folder and records of all 20 prompts."""
    folder = tmp_path_factory.mktemp("unbroken") / "out"
    return folder, draw(geneval_prompts(20), folder)


def contents(folder):
    """Every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_twenty_prompts_are_as_the_judge_reads_them(unbroken):
    folder, records = unbroken
    found = official_layouts.geneval_pictures(folder / "pictures")
    assert sorted(found) == [f"{i:05d}" for i in range(20)]
    for i, prompt in enumerate(geneval_prompts(20)):
        metadata, pictures = found[prompt.id]
        assert metadata == prompt.metadata and len(pictures) == 4
        # Samples differ, and so do prompts with the same words.
        kinds = {picture.tobytes() for picture in pictures.values()}
        assert len(kinds) == 4 and {p.shape for p in pictures.values()} == {(16, 16, 3)}
        if i >= 5:
            _, others = found[f"{i - 5:05d}"]
            assert not kinds & {picture.tobytes() for picture in others.values()}

    assert len(records) == 80 and len({record.id for record in records}) == 80
    assert {record.cluster for record in records} == set(found)
    record = records[7]
    assert (record.id, record.category) == ("00001/3", "single_object")
    assert record.picture == "pictures/00001/samples/0003.png"
    assert all((folder / record.picture).is_file() for record in records)


def test_a_killed_run_goes_on_with_the_same_pictures(unbroken, draw, tmp_path, monkeypatch):
    folder, records = unbroken
    write, written = drawing.write_pictures, []

    def killed_write(*args):
        if len(written) == 7:
            raise KeyboardInterrupt
        written.append(write(*args))

    with monkeypatch.context() as patch:
        patch.setattr(drawing, "write_pictures", killed_write)
        with pytest.raises(KeyboardInterrupt):
            draw(geneval_prompts(20), tmp_path / "out")
    assert len(list((tmp_path / "out/pictures").glob("*/grid.png"))) == 7

    # No prompt is drawn twice: what is there keeps its time.
    first = tmp_path / "out/pictures/00000/samples/0000.png"
    before = first.stat().st_mtime_ns
    assert draw(geneval_prompts(20), tmp_path / "out") == records
    assert first.stat().st_mtime_ns == before
    assert contents(tmp_path / "out") == contents(folder)


def test_neither_the_batch_nor_other_prompts_change_a_picture(unbroken, draw, tmp_path):
    folder, _ = unbroken
    few = geneval_prompts(20)[3:9:2]
    settings = dataclasses.replace(SETTINGS, batch_size=5)
    draw(few, tmp_path / "few", settings)
    # Another shape is another program, whose rounding may move a pixel by one level.
    for prompt in few:
        found, expected = (
            read_pictures(out / "pictures", GENEVAL.layout, prompt, 4)
            for out in (tmp_path / "few", folder)
        )
        np.testing.assert_allclose(found.astype(int), expected, atol=1)


def test_another_seed_gives_other_pictures(unbroken, draw, tmp_path):
    folder, _ = unbroken
    draw(geneval_prompts(20), tmp_path / "other", dataclasses.replace(SETTINGS, seed=4))
    for prompt in geneval_prompts(20):
        name = f"pictures/{prompt.id}/samples/0000.png"
        assert (folder / name).read_bytes() != (tmp_path / "other" / name).read_bytes()


@pytest.mark.parametrize(
    "change, expected",
    [
        ({"settings": dataclasses.replace(SETTINGS, seed=4)}, "'seed'; got 4, and 3 before"),
        ({"settings": dataclasses.replace(SETTINGS, samples=2)}, "'samples'; got 2, and 4"),
        ({"about": "other"}, "'policy'"),
        ({"prompts": geneval_prompts(19)}, "'prompts'; got 19, and 20"),
        ({"suite": generation_suites["prompts"]}, "'suite'; got 'prompts', and 'geneval'"),
    ],
)
def test_a_folder_has_the_pictures_of_one_setting(unbroken, draw, change, expected):
    folder, _ = unbroken
    before = contents(folder)
    with pytest.raises(UserError) as error:
        draw(**{"prompts": geneval_prompts(20), "folder": folder} | change)
    assert expected in str(error.value) and "\n" not in str(error.value)
    assert contents(folder) == before


def test_pictures_of_unknown_origin_stay(draw, tmp_path):
    (tmp_path / "out/pictures").mkdir(parents=True)
    with pytest.raises(UserError, match=r"must be a new folder, or have drawing\.json"):
        draw(geneval_prompts(1), tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pictures"]


def test_bad_prompts_and_settings_are_one_line(draw, tmp_path):
    long = dataclasses.replace(geneval_prompts(1)[0], prompt="cow " * 100)
    with pytest.raises(UserError, match=r"prompt '00000' of the suite 'geneval' must have at most"):
        draw([long], tmp_path / "a")
    marked = dataclasses.replace(long, prompt="a <begin_of_image> cow")
    with pytest.raises(UserError, match="prompt '00000' of the suite 'geneval'"):
        draw([marked], tmp_path / "a")
    with pytest.raises(UserError, match="guidance"):
        draw(geneval_prompts(1), tmp_path / "a", dataclasses.replace(SETTINGS, guidance=-1.0))
    with pytest.raises(UserError, match="samples of the suite 'dpg' must be 4"):
        few = dataclasses.replace(SETTINGS, samples=3)
        draw(geneval_prompts(1), tmp_path / "a", few, generation_suites["dpg"])
    with pytest.raises(UserError, match="at least one; got none"):
        draw([], tmp_path / "a")
    assert not list((tmp_path / "a").iterdir())


def test_settings_say_what_decides_the_pictures(unbroken):
    folder, _ = unbroken
    settings = json.loads((folder / "drawing.json").read_text("utf-8"))
    assert settings["policy"] == {"name": "small"} and settings["guidance"] == 2.0
    assert settings.keys() == {
        "suite", "prompts", "prompts_sha256", "policy", "samples", "seed", "guidance", "temperature",
    }  # fmt: skip
    assert np.all([not path.name.endswith(".part") for path in folder.iterdir()])
