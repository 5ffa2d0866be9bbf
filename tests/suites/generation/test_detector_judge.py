"""The alternative judge: right on pictures of known content, and OWLv2's real code on random weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind
from corl_jax.data.shapes.parser import parse
from corl_jax.data.shapes.render import render
from corl_jax.data.shapes.scene import CELL, Scene, Shape
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.clip.text_image import MEAN, STD
from corl_jax.reward_models.clip.tokenizer import ClipTokenizer
from corl_jax.reward_models.clip.weights import CLIP
from corl_jax.suites.generation.geneval_prompts import COLOURS
from corl_jax.suites.generation.picture_files import write_pictures
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import generation_suites
from corl_jax.suites.judging.clip_colours import TEMPLATES, ClipColours, crop
from corl_jax.suites.judging.detector_judge import DetectorJudge, detector_figures, judge_folder
from corl_jax.suites.judging.detectors import Owlv2Detector
from corl_jax.suites.judging.geneval_detections import OFFICIAL_THRESHOLDS, Detection
from corl_jax.suites.judging.open_judge import open_owlv2_judge

sys.path.insert(0, str(Path(__file__).parent))
from tiny_owlv2 import write_tiny_owlv2  # noqa: E402

LAYOUT = generation_suites["geneval"].layout


class ShapesDetector:
    """Finds the shapes of the embedded world, whose pictures can be read exactly."""

    def __init__(self):
        self.pictures = 0

    def detect(self, picture, classes):
        self.pictures += 1
        found = []
        for shape in parse(picture).scene.objects:
            # A shape is 12 pixels wide, in the middle of its cell but for a shift.
            left = shape.col * CELL + 2 + shape.dx
            top = shape.row * CELL + 2 + shape.dy
            if shape.shape in classes:
                found.append(Detection(shape.shape, (left, top, left + 12, top + 12), 0.95))
        return found


class ShapesColours:
    """Reads the colour of the one shape in a box."""

    def colours(self, picture, objects):
        return [
            next(
                shape.colour
                for shape in parse(picture).scene.objects
                if shape.col * CELL <= one.box[0] < (shape.col + 1) * CELL
                and shape.row * CELL <= one.box[1] < (shape.row + 1) * CELL
            )
            for one in objects
        ]


def shapes_judge():
    return DetectorJudge(ShapesDetector(), ShapesColours(), OFFICIAL_THRESHOLDS)


def picture_of(*shapes):
    """A picture with (row, column, colour, shape) for each object."""
    return render(Scene(tuple(Shape(*shape) for shape in shapes)))


CIRCLE, SQUARE = {"class": "circle", "count": 1}, {"class": "square", "count": 1}
TWO = {"include": [CIRCLE | {"count": 2}], "exclude": [CIRCLE | {"count": 3}]}
BELOW = {"include": [CIRCLE, SQUARE | {"position": ["below", 0]}]}
LEFT = {"include": [CIRCLE, SQUARE | {"position": ["left of", 0]}]}
BOUND = {"include": [CIRCLE | {"color": "red"}, SQUARE | {"color": "blue"}]}
RED, BLUE = (0, 0, "red", "circle"), (2, 0, "blue", "square")


@pytest.mark.parametrize(
    "tag, specification, shapes, is_correct",
    [
        ("single_object", {"include": [CIRCLE]}, [RED], True),
        ("single_object", {"include": [CIRCLE]}, [BLUE], False),
        ("two_object", {"include": [CIRCLE, SQUARE]}, [RED, BLUE], True),
        ("counting", TWO, [RED, (1, 2, "green", "circle")], True),
        ("counting", TWO, [RED], False),
        ("counting", TWO, [RED, (1, 2, "green", "circle"), (2, 2, "red", "circle")], False),
        ("colors", {"include": [CIRCLE | {"color": "red"}]}, [RED], True),
        ("colors", {"include": [CIRCLE | {"color": "orange"}]}, [RED], False),
        ("color_attr", BOUND, [RED, BLUE], True),
        ("color_attr", BOUND, [(0, 0, "blue", "circle"), (2, 0, "red", "square")], False),
        ("position", BELOW, [RED, BLUE], True),
        ("position", LEFT, [RED, BLUE], False),
        ("position", LEFT, [(1, 2, "red", "circle"), (1, 0, "blue", "square")], True),
    ],
)
def test_known_content_is_judged_right(tag, specification, shapes, is_correct):
    verdict, objects = shapes_judge()(picture_of(*shapes), {"tag": tag} | specification)
    assert verdict.is_correct == is_correct, verdict.reasons
    if tag in ("colors", "color_attr"):
        assert all(one.colour for group in objects.values() for one in group)


@pytest.fixture
def judged_folder(tmp_path):
    """Folder and prompts; both pictures of the first are right, one of the second, none of the third."""
    wrong = picture_of(BLUE)
    rows = [
        ("single_object", {"include": [CIRCLE]}, [picture_of(RED), picture_of(RED, BLUE)]),
        ("counting", TWO, [picture_of(RED, (1, 1, "red", "circle")), wrong]),
        ("colors", {"include": [CIRCLE | {"color": "green"}]}, [picture_of(RED), wrong]),
    ]
    prompts = []
    for place, (tag, specification, pictures) in enumerate(rows):
        metadata = {"tag": tag, "prompt": f"no. {place}"} | specification
        prompts.append(GenerationPrompt(f"{place:05d}", f"no. {place}", tag, metadata))
        write_pictures(tmp_path / "pictures", LAYOUT, prompts[-1], np.stack(pictures))
    return tmp_path, prompts


def test_a_folder_is_judged_once_and_read_by_the_official_summary(judged_folder):
    folder, prompts = judged_folder
    judge = shapes_judge()
    records = judge_folder(judge, prompts, folder, 2, {"detector": "shapes"}, quiet=True)
    assert [record.scores["geneval_by_detector"] for record in records] == [1, 1, 1, 0, 0, 0]
    assert judge.detector.pictures == 6
    figures = detector_figures(records)
    assert {name: figure["value"] for name, figure in figures.items()} == {
        "geneval_by_detector/single_object": 1,
        "geneval_by_detector/counting": 0.5,
        "geneval_by_detector/colors": 0,
        "geneval_by_detector": 0.5,
    }

    # The columns of evaluate_images.py, of which summary_scores.py reads correct, tag and metadata.
    path = folder / "detector_verdicts.jsonl"
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert lines[0].keys() == {
        "filename", "tag", "prompt", "correct", "reason", "metadata", "details",
    }  # fmt: skip
    assert (folder / lines[3]["filename"]).is_file() and lines[3]["correct"] is False
    assert lines[3]["reason"] == "circle: 2 wanted, 0 there" and not lines[2]["reason"]
    assert json.loads(lines[5]["metadata"]) == prompts[2].metadata
    assert json.loads(lines[0]["details"]) == {"circle": [[2, 2, 14, 14, 0.95]]}
    assert json.loads((folder / "detector_judge.json").read_text("utf-8"))["is_official"] is False

    # Killed in the middle of a line: what was judged stays, the rest is judged.
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(b"\n", len(whole) // 2) + 20])
    kept = path.read_bytes().count(b"\n")
    again = shapes_judge()
    assert judge_folder(again, prompts, folder, 2, {"detector": "shapes"}, quiet=True) == records
    assert 0 < again.detector.pictures < 6 and kept + again.detector.pictures >= 6

    with pytest.raises(UserError, match="'detector'; got 'owl', and 'shapes' before"):
        judge_folder(judge, prompts, folder, 2, {"detector": "owl"}, quiet=True)


def test_a_missing_picture_is_named(judged_folder):
    folder, prompts = judged_folder
    (folder / "pictures/00001/samples/0001.png").unlink()
    with pytest.raises(UserError, match=r"'00001'.*0001\.png"):
        judge_folder(shapes_judge(), prompts, folder, 2, {"detector": "shapes"}, quiet=True)


@pytest.fixture(scope="module")
def sharder():
    import jax

    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


def test_colours_are_those_of_the_nearest_mean_direction(sharder, rng):
    model = load_reward_model(CLIP, "tiny", sharder)
    picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
    boxes = [(0.0, 0.0, 20.0, 20.0), (3.6, 5.2, 38.0, 30.0), (20.0, 20.0, 39.6, 39.6)]
    objects = [Detection("cup", box, 0.9) for box in boxes] + [Detection("cow", boxes[0], 0.9)]
    found = ClipColours(model, sharder).colours(picture, objects)

    # The same from the towers, object by object.
    clip, tokenizer = bind(model.graphdef, model.params), ClipTokenizer.from_model(model)
    squares = [official_crop(picture, one.box, model.cfg.image_size) for one in objects]
    images = np.asarray(clip.image(((np.stack(squares) / 255 - MEAN) / STD).astype(np.float32)))
    for one, image, colour in zip(objects, images, found, strict=True):
        texts = [text.format(colour=c, name=one.name) for c in COLOURS for text in TEMPLATES]
        states = np.asarray(clip.text(tokenizer(texts)))
        states = (states / np.linalg.norm(states, axis=1, keepdims=True)).reshape(10, 3, -1)
        scores = [image @ (mean / np.linalg.norm(mean)) for mean in states.mean(1)]
        assert colour == COLOURS[int(np.argmax(scores))]
    assert ClipColours(model, sharder).colours(picture, []) == []


def official_crop(picture, box, size):
    """What Pillow cuts and resizes, as ``evaluate_images.py`` and open_clip do."""
    from PIL import Image

    cut = Image.fromarray(picture).crop(box)
    shorter = min(cut.size)
    width, height = (size if side == shorter else int(size * side / shorter) for side in cut.size)
    cut = cut.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - size) // 2, (height - size) // 2
    return np.asarray(cut.crop((left, top, left + size, top + size)))


def test_crops_stay_in_the_picture():
    picture = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    np.testing.assert_array_equal(crop(picture, (1.4, 2.6, 3.0, 9.0)), picture[3:5, 1:3])
    assert crop(picture, (4.9, 4.9, 5.0, 5.0)).shape == (1, 1, 3)


@pytest.fixture(scope="module")
def owlv2_folder(tmp_path_factory):
    pytest.importorskip("torch")
    return write_tiny_owlv2(tmp_path_factory.mktemp("owlv2") / "tiny")


def test_owlv2_runs_from_a_folder(owlv2_folder, sharder, tmp_path, rng):
    judge, about = open_owlv2_judge(str(owlv2_folder), "tiny", sharder)
    assert "not by GenEval's own" in about["notice"] and about["torch"]
    picture = rng.integers(0, 256, (40, 60, 3), np.uint8)
    found = judge.detector.detect(picture, ("bench", "cat"))
    assert found and {one.name for one in found} <= {"bench", "cat"}
    for one in found:
        left, top, right, bottom = one.box
        assert 0 <= left < right <= 60 and 0 <= top < bottom <= 40 and 0.05 <= one.score <= 1
    assert found == judge.detector.detect(picture, ("bench", "cat"))

    # The whole judge on a folder of its pictures.
    metadata = {"tag": "colors", "include": [{"class": "cat", "count": 1, "color": "red"}]}
    prompt = GenerationPrompt("00000", "a photo of a red cat", "colors", metadata)
    write_pictures(tmp_path / "pictures", LAYOUT, prompt, picture[None])
    low = dataclasses.replace(judge.thresholds, score=0.05)
    judge = dataclasses.replace(judge, thresholds=low, other_classes=())
    records = judge_folder(judge, [prompt], tmp_path, 1, about, quiet=True)
    (line,) = (tmp_path / "detector_verdicts.jsonl").read_text("utf-8").splitlines()
    verdict = json.loads(line)
    assert records[0].scores == {"geneval_by_detector": float(verdict["correct"])}
    # With so low a threshold there is a cat, so that its colour was read.
    assert verdict["correct"] or verdict["reason"].startswith("cat: 1 red wanted, 1 ")


def test_a_damaged_or_another_detector_is_refused(owlv2_folder, tmp_path):
    import safetensors.numpy

    with pytest.raises(UserError, match=r"without a config\.json.*owlv2-base"):
        Owlv2Detector.load(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text('{"model_type": "clip"}', "utf-8")
    with pytest.raises(UserError, match="model_type in .* must be 'owlv2'; got 'clip'"):
        Owlv2Detector.load(str(tmp_path))

    # A tensor is missing, then the processor's files.
    for file in owlv2_folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.numpy.load_file(owlv2_folder / "model.safetensors")
    tensors.pop("class_head.dense0.weight")
    safetensors.numpy.save_file(tensors, tmp_path / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="'class_head.dense0.weight' is missing"):
        Owlv2Detector.load(str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{", "utf-8")
    with pytest.raises(UserError, match="cannot be loaded"):
        Owlv2Detector.load(str(tmp_path))


def test_a_missing_extra_is_one_line(monkeypatch, tmp_path):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torch" else find(name)
    )
    with pytest.raises(UserError) as error:
        Owlv2Detector.load(str(tmp_path))
    assert "torch, which is not installed; run: pip install 'corl_jax[judges]'" in str(error.value)


def test_nothing_here_imports_torch_before_a_detector_is_loaded():
    import subprocess

    code = (
        "import sys, corl_jax.suites.judging.open_judge; "
        "sys.exit(any(name.split('.')[0] == 'torch' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
