"""The embedded world: scenes, images, the parser, captions, questions and splits."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.data.shapes import captions, examples, parser, questions
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import BACKGROUND, CELL, COLOURS, SHAPES, Scene, Shape, sample_scene


def sample_scenes(n: int, seed: int = 0) -> list[Scene]:
    rng = np.random.default_rng(seed)
    return [sample_scene(rng) for _ in range(n)]


def looks_and_cells(scene: Scene) -> list[tuple]:
    return [(shape.row, shape.col, *shape.look) for shape in scene.objects]


def parsed_image(*shapes: Shape, clean: bool = True) -> parser.ParsedImage:
    return parser.ParsedImage(Scene(shapes), clean)


def test_parser_is_exact_on_rendered_images():
    scenes = sample_scenes(3000)
    parsed = parser.parse_batch(np.stack([render(scene) for scene in scenes]))
    assert [image.scene for image in parsed] == scenes
    assert all(image.clean for image in parsed)


def test_parser_survives_blur_and_noise():
    scenes = sample_scenes(300, seed=1)
    images = np.stack([render(scene) for scene in scenes]).astype(np.float64)

    # A Gaussian blur along both axes, then noise.
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / 2)
    for axis in (1, 2):
        padding = [(3, 3) if i == axis else (0, 0) for i in range(4)]
        padded = np.pad(images, padding, mode="edge")
        images = sum(
            weight * np.take(padded, np.arange(48) + shift, axis)
            for shift, weight in enumerate(kernel / kernel.sum())
        )
    images += np.random.default_rng(0).normal(size=images.shape) * 12

    parsed = parser.parse_batch(np.clip(images, 0, 255).astype(np.uint8))
    correct = [
        looks_and_cells(image.scene) == looks_and_cells(scene) and image.clean
        for image, scene in zip(parsed, scenes, strict=True)
    ]
    assert np.mean(correct) > 0.99


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("colour", COLOURS)
def test_parser_refuses_faint_two_coloured_and_smeared_blobs(colour, shape):
    image = render(Scene((Shape(1, 1, colour, shape),)))
    other_colour = {"red": "blue"}.get(colour, "red")
    recoloured = render(Scene((Shape(1, 1, other_colour, shape),)))
    background = np.broadcast_to(np.array(BACKGROUND, np.uint8), image.shape)

    faint = (0.5 * image + 0.5 * background).astype(np.uint8)
    two_coloured = np.where(np.arange(48)[None, :, None] < 24, image, recoloured)
    # Every cell has its mean colour.
    cell_means = image.reshape(3, 16, 3, 16, 3).mean((1, 3))
    smeared = np.repeat(np.repeat(cell_means, 16, 0), 16, 1).astype(np.uint8)
    between_cells = np.roll(image, CELL // 2, 1)

    for blob in (faint, two_coloured, smeared, between_cells):
        parsed = parser.parse(blob)
        assert not parsed.scene.objects and not parsed.clean


def test_parser_requires_images_of_the_world():
    with pytest.raises(UserError, match="float64"):
        parser.parse(np.zeros((48, 48, 3)))
    with pytest.raises(UserError, match="32"):
        parser.parse(np.zeros((32, 32, 3), np.uint8))


def test_captions_round_trip():
    rng = np.random.default_rng(0)
    relations = 0
    for scene in sample_scenes(2000):
        spec = captions.sample_spec(scene, rng)
        text = captions.write_caption(spec, rng)
        canonical_spec = captions.parse_caption(captions.canonical_caption(scene))
        assert captions.parse_caption(text) == spec
        assert canonical_spec == captions.Spec(spec.groups)
        assert captions.satisfies(spec, parser.ParsedImage(scene, True))
        assert captions.agreement(spec, parser.ParsedImage(scene, True)) == 1
        relations += spec.relation is not None
    assert 0.2 < relations / 2000 < 0.25


def test_caption_texts():
    circle, square = Shape(0, 0, "red", "circle"), Shape(0, 2, "orange", "square")
    two_circles = Scene((circle, Shape(2, 2, "red", "circle")))
    mixed = Scene((square, circle))
    assert captions.canonical_caption(Scene(())) == ""
    assert captions.canonical_caption(two_circles) == "two red circles"
    assert captions.canonical_caption(mixed) == "an orange square and a red circle"
    assert captions.list_objects(mixed) == "red circle, orange square"

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
def test_texts_outside_the_grammar_are_refused(text):
    with pytest.raises(UserError, match="caption"):
        captions.parse_caption(text)


def test_binding_and_relations_matter():
    red, blue = Shape(0, 0, "red", "circle"), Shape(0, 2, "blue", "square")
    spec = captions.parse_caption("a red circle left of a blue square")
    without_relation = captions.Spec(spec.groups)

    correct = parsed_image(red, blue)
    swapped = parsed_image(Shape(0, 0, "blue", "circle"), Shape(0, 2, "red", "square"))
    reverse = parsed_image(Shape(0, 2, "red", "circle"), Shape(0, 0, "blue", "square"))
    assert captions.satisfies(spec, correct) and captions.agreement(spec, correct) == 1
    for wrong in (swapped, reverse):
        assert not captions.satisfies(spec, wrong)
    assert captions.agreement(spec, reverse) == pytest.approx(0.6)
    assert captions.agreement(without_relation, swapped) == pytest.approx(0.4)
    assert captions.agreement(spec, swapped) == pytest.approx(0.24)

    # Missing objects, extra objects, and stray ink.
    only_red = parsed_image(red)
    assert captions.agreement(spec, only_red) < captions.agreement(without_relation, only_red) < 1
    assert captions.agreement(spec, parsed_image()) == 0
    extra = parsed_image(red, blue, Shape(2, 2, "green", "circle"))
    assert not captions.satisfies(spec, extra) and captions.agreement(spec, extra) < 1
    assert not captions.satisfies(spec, parsed_image(red, blue, clean=False))


def test_agreement_is_one_only_if_the_image_satisfies_the_caption():
    rng = np.random.default_rng(3)
    scenes = sample_scenes(400, seed=3)
    for captioned, unrelated in zip(scenes, scenes[1:] + scenes[:1], strict=True):
        spec = captions.sample_spec(captioned, rng)
        for scene in (captioned, unrelated):
            agreement = captions.agreement(spec, parser.ParsedImage(scene, True))
            assert 0 <= agreement <= 1
            assert (agreement == 1) == captions.satisfies(spec, parser.ParsedImage(scene, True))


def true_answer(question: questions.Question, scene: Scene) -> str:
    """Answers by reading the text, without the code that made the question."""
    words = question.text.split("\n")[0].rstrip("?").split()
    shapes = scene.objects

    def matches(shape, noun_phrase):
        singular_words = [word.removesuffix("s") for word in noun_phrase]
        return all(word == "object" or word in shape.look for word in singular_words)

    if question.kind == "count":
        return captions.NUMBERS[sum(matches(shape, words[2:-2]) for shape in shapes)]
    if question.kind == "existence":
        return "yes" if any(matches(shape, words[3:]) for shape in shapes) else "no"
    if question.kind in ("colour", "shape"):
        (match,) = [shape for shape in shapes if matches(shape, words[4:])]
        return match.colour if question.kind == "colour" else match.shape

    # A relation: "is the red circle left of the blue square".
    (first,) = [shape for shape in shapes if matches(shape, words[2:4])]
    (second,) = [shape for shape in shapes if matches(shape, words[-2:])]
    name = " ".join(words[4:-3])
    distances = {
        "left of": second.col - first.col,
        "right of": first.col - second.col,
        "above": second.row - first.row,
        "below": first.row - second.row,
    }
    return "yes" if distances[name] > 0 else "no"


def test_questions_are_answered_truly_and_are_balanced():
    rng = np.random.default_rng(0)
    kinds, types, yes_no = collections.Counter(), collections.Counter(), collections.Counter()
    for scene in sample_scenes(4000):
        question = questions.sample_question(scene, rng)
        answer = question.answer
        if question.qa_type == "MC":
            answer = question.choices["ABC".index(question.answer)]
            options = "\nA. {}\nB. {}\nC. {}".format(*question.choices)
            assert len(set(question.choices)) == 3
            assert question.text.endswith(options)
        assert answer == true_answer(question, scene)

        kinds[question.kind] += 1
        if question.kind in ("count", "colour", "shape"):
            types[question.qa_type] += 1
        else:
            yes_no[question.kind, question.answer] += 1

    assert set(kinds) == set(questions.KINDS) and min(kinds.values()) > 4000 * 0.12
    assert 0.45 < types["MC"] / types.total() < 0.55
    for kind in ("existence", "relation"):
        yes, no = yes_no[kind, "yes"], yes_no[kind, "no"]
        assert 0.45 < yes / (yes + no) < 0.55


def test_splits_share_no_caption_and_examples_are_pure():
    canonical_captions = {
        split: {
            captions.canonical_caption(examples.example_scene(split, i)[0]) for i in range(1500)
        }
        for split in ("train", "test")
    }
    assert not canonical_captions["train"] & canonical_captions["test"]
    assert len(canonical_captions["test"]) > 50

    first, second = examples.example("test", 7), examples.example("test", 7)
    assert first.prompt == second.prompt and first.question == second.question
    assert (first.image == second.image).all()
    assert examples.example("test", 7, seed=1).image.tobytes() != first.image.tobytes()
