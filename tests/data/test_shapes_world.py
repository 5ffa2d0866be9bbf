"""The embedded world: scenes, pictures, the parser, captions, questions and splits."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.shapes import captions, examples, parser, questions
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, SHAPES, Scene, Shape, sample_scene


def scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


def looks(found: Scene) -> list[tuple]:
    return [(thing.row, thing.col, *thing.look) for thing in found.objects]


def parsed(*things: Shape, clean: bool = True) -> parser.Parsed:
    return parser.Parsed(Scene(things), clean)


def test_parser_is_exact_on_rendered_pictures():
    drawn = scenes(3000)
    read = parser.parse_batch(np.stack([render(scene) for scene in drawn]))
    assert [found.scene for found in read] == drawn
    assert all(found.clean for found in read)


def test_parser_survives_blur_and_noise():
    drawn = scenes(300, seed=1)
    pictures = np.stack([render(scene) for scene in drawn]).astype(np.float64)
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    for axis in (1, 2):
        padded = np.pad(pictures, [(3, 3) if i == axis else (0, 0) for i in range(4)], mode="edge")
        pictures = sum(
            weight * np.take(padded, np.arange(48) + shift, axis)
            for shift, weight in enumerate(kernel / kernel.sum())
        )
    pictures += np.random.default_rng(0).normal(size=pictures.shape) * 12
    read = parser.parse_batch(np.clip(pictures, 0, 255).astype(np.uint8))
    right = [
        looks(found.scene) == looks(scene) and found.clean
        for found, scene in zip(read, drawn, strict=True)
    ]
    assert np.mean(right) > 0.99


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_parser_refuses_faint_two_coloured_and_smeared_blobs(colour, shape):
    whole = render(Scene((Shape(1, 1, colour, shape),)))
    other = render(Scene((Shape(1, 1, {"red": "blue"}.get(colour, "red"), shape),)))
    ground = np.broadcast_to(np.array(BACKGROUND, np.uint8), whole.shape)
    faint = (0.5 * whole + 0.5 * ground).astype(np.uint8)
    halves = np.where(np.arange(48)[None, :, None] < 24, whole, other)
    smear = np.repeat(np.repeat(whole.reshape(3, 16, 3, 16, 3).mean((1, 3)), 16, 0), 16, 1).astype(
        np.uint8
    )
    shifted = np.roll(whole, CELL // 2, 1)
    for picture in (faint, halves, smear, shifted):
        found = parser.parse(picture)
        assert not found.scene.objects and not found.clean


def test_parser_wants_pictures_of_the_world():
    with pytest.raises(UserError, match="float64"):
        parser.parse(np.zeros((48, 48, 3)))
    with pytest.raises(UserError, match="32"):
        parser.parse(np.zeros((32, 32, 3), np.uint8))


def test_captions_round_trip():
    rng = np.random.default_rng(0)
    related = 0
    for scene in scenes(2000):
        spec = captions.sample_spec(scene, rng)
        text = captions.write(spec, rng)
        assert captions.parse_caption(text) == spec
        assert captions.parse_caption(captions.describe(scene)) == captions.Spec(spec.groups)
        assert captions.satisfies(spec, parser.Parsed(scene, True))
        assert captions.agreement(spec, parser.Parsed(scene, True)) == 1
        related += spec.relation is not None
    assert 0.2 < related / 2000 < 0.25


def test_caption_texts():
    red, other = Shape(0, 0, "red", "circle"), Shape(0, 2, "orange", "square")
    assert captions.describe(Scene((red, Shape(2, 2, "red", "circle")))) == "two red circles"
    assert captions.describe(Scene((other, red))) == "an orange square and a red circle"
    assert captions.listing(Scene((other, red))) == "red circle, orange square"
    three = captions.parse_caption("a red circle, a blue square and a green triangle")
    assert three.groups == ((1, "blue", "square"), (1, "green", "triangle"), (1, "red", "circle"))
    assert captions.parse_caption("a red circle left of a blue square").relation == (
        ("red", "circle"),
        "left of",
        ("blue", "square"),
    )


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a red dog",
        "red circle",
        "a orange circle",
        "two red circle",
        "a red circle and a red circle",
        "a red circle left of a red circle",
        "two red circles left of a blue square",
        "a red circle left of a blue square above a green circle",
        "a red circle , a blue square",
    ],
)
def test_other_texts_are_no_captions(text):
    with pytest.raises(UserError, match="caption"):
        captions.parse_caption(text)


def test_binding_and_relations_matter():
    red, blue = Shape(0, 0, "red", "circle"), Shape(0, 2, "blue", "square")
    spec = captions.parse_caption("a red circle left of a blue square")
    right = parsed(red, blue)
    swapped = parsed(Shape(0, 0, "blue", "circle"), Shape(0, 2, "red", "square"))
    reverse = parsed(Shape(0, 2, "red", "circle"), Shape(0, 0, "blue", "square"))
    assert captions.satisfies(spec, right) and captions.agreement(spec, right) == 1
    for wrong in (swapped, reverse):
        assert not captions.satisfies(spec, wrong)
    assert captions.agreement(spec, reverse) == pytest.approx(0.6)
    assert captions.agreement(captions.Spec(spec.groups), swapped) == pytest.approx(0.4)
    assert captions.agreement(spec, swapped) == pytest.approx(0.24)
    assert (
        captions.agreement(spec, parsed(red))
        < captions.agreement(captions.Spec(spec.groups), parsed(red))
        < 1
    )
    assert captions.agreement(spec, parsed()) == 0
    extra = parsed(red, blue, Shape(2, 2, "green", "circle"))
    assert not captions.satisfies(spec, extra) and captions.agreement(spec, extra) < 1
    assert not captions.satisfies(spec, parsed(red, blue, clean=False))


def test_agreement_is_one_only_where_strict():
    rng = np.random.default_rng(3)
    drawn = scenes(400, seed=3)
    for asked, shown in zip(drawn, drawn[1:] + drawn[:1], strict=True):
        spec = captions.sample_spec(asked, rng)
        for scene in (asked, shown):
            value = captions.agreement(spec, parser.Parsed(scene, True))
            assert 0 <= value <= 1
            assert (value == 1) == captions.satisfies(spec, parser.Parsed(scene, True))


def true_answer(question: questions.Question, scene: Scene) -> str:
    """Answers by reading the text, without the code that asked."""
    words = question.text.split("\n")[0].rstrip("?").split()
    things = scene.objects

    def fits(thing, asked):
        return all(
            w == "object" or w in thing.look for w in (word.removesuffix("s") for word in asked)
        )

    if question.kind == "count":
        return captions.NUMBERS[sum(fits(thing, words[2:-2]) for thing in things)]
    if question.kind == "existence":
        return "yes" if any(fits(thing, words[3:]) for thing in things) else "no"
    if question.kind in ("colour", "shape"):
        (only,) = [thing for thing in things if fits(thing, words[4:])]
        return only.colour if question.kind == "colour" else only.shape
    (first,) = [thing for thing in things if fits(thing, words[2:4])]
    (second,) = [thing for thing in things if fits(thing, words[-2:])]
    name = " ".join(words[4:-3])
    places = {"left of": second.col - first.col, "right of": first.col - second.col}
    return (
        "yes"
        if {**places, "above": second.row - first.row, "below": first.row - second.row}[name] > 0
        else "no"
    )


def test_questions_are_answered_truly_and_are_balanced():
    rng = np.random.default_rng(0)
    kinds, types, yes = collections.Counter(), collections.Counter(), collections.Counter()
    for scene in scenes(4000):
        asked = questions.ask_question(scene, rng)
        bare = asked.choices["ABC".index(asked.answer)] if asked.qa_type == "MC" else asked.answer
        assert bare == true_answer(asked, scene)
        kinds[asked.kind] += 1
        if asked.kind in ("count", "colour", "shape"):
            types[asked.qa_type] += 1
        else:
            yes[asked.kind, asked.answer] += 1
        if asked.qa_type == "MC":
            assert len(set(asked.choices)) == 3
            assert asked.text.endswith("\nA. {}\nB. {}\nC. {}".format(*asked.choices))
    assert set(kinds) == set(questions.KINDS) and min(kinds.values()) > 4000 * 0.12
    assert 0.45 < types["MC"] / types.total() < 0.55
    for kind in ("existence", "relation"):
        assert 0.45 < yes[kind, "yes"] / (yes[kind, "yes"] + yes[kind, "no"]) < 0.55


def test_splits_share_no_description_and_examples_are_pure():
    described = {
        split: {captions.describe(examples.example_scene(split, i)[0]) for i in range(1500)}
        for split in ("train", "test")
    }
    assert not described["train"] & described["test"]
    assert len(described["test"]) > 50
    once, again = examples.example("test", 7), examples.example("test", 7)
    assert (
        once.prompt == again.prompt
        and once.question == again.question
        and (once.image == again.image).all()
    )
    assert examples.example("test", 7, seed=1).image.tobytes() != once.image.tobytes()
