"""Pictures that worker processes decode and resize: the same batches, and errors of the source."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.data.images import crop_to_square, pad_to_square
from corl_jax.data.mixing.mixture import Mixture, Part
from corl_jax.data.mixing.templated_source import TemplatedSource
from corl_jax.data.pipeline import batches
from corl_jax.data.sources.addresses import open_source
from corl_jax.data.sources.base import MemorySource, SelectedRecords
from corl_jax.data.transforms import PassThrough, StackImages
from corl_jax.data.worker_images import StoredImageRecord, resize_images, with_workers


@pytest.fixture
def source(tmp_path, rng):
    """Eight records with pictures of different shapes."""
    rows = []
    for i in range(8):
        pixels = rng.integers(0, 255, (20 + 5 * i, 60 - 5 * i, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.jpg")
        row = {"prompt": "a cat", "real_image": f"{i}.jpg", "qa_problem": "how many?"}
        rows.append(row | {"qa_solution": "two", "qa_type": "OE"})
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return open_source(str(tmp_path), "train")


def first_batches(source, transform, workers=0):
    source = with_workers(source, workers)
    iterator = batches(source, seed=1, batch_size=4, transform=transform)
    return [next(iterator) for _ in range(3)]


def test_batches_do_not_depend_on_workers(source):
    selected = SelectedRecords(source, (5, 1, 2, 7, 0, 3))
    mixture = Mixture([Part("a", selected), Part("b", TemplatedSource(source, "think_answer"))])
    for records in (source, selected, mixture):
        expected = first_batches(records, StackImages(24))
        np.testing.assert_array_equal(first_batches(records, StackImages(24), workers=2), expected)
        for one, other in zip(
            first_batches(records, PassThrough()),
            first_batches(records, PassThrough(), workers=2),
            strict=True,
        ):
            assert [record.id for record in one] == [record.id for record in other]
            assert [record.template for record in one] == [record.template for record in other]
            assert all("image" not in vars(record) for record in other)
            np.testing.assert_array_equal(one[0].image, other[0].image)


def test_a_whole_image_is_decoded_if_it_is_looked_at(source, monkeypatch):
    records = [with_workers(source, 1)[i] for i in (3, 4)]
    decoded = []
    kind, read = type(source), type(source).__getitem__

    def note_and_read(self, i):
        # Threads of iterators of other tests may still read sources of theirs.
        if self is source:
            decoded.append(i)
        return read(self, i)

    monkeypatch.setattr(kind, "__getitem__", note_and_read)
    for resize in (pad_to_square, crop_to_square):
        squares = resize_images(records, resize, 16)
        expected = [resize(read(source, i).image, 16) for i in (3, 4)]
        np.testing.assert_array_equal(squares, expected)
    assert decoded == []

    # Once, and then it is kept; a copy of the record has it.
    assert isinstance(records[0], StoredImageRecord)
    copy = dataclasses.replace(records[0], answer="three")
    image = read(source, 3).image
    square = pad_to_square(image, 16)
    for record in (records[0], copy):
        np.testing.assert_array_equal(record.image, image)
        np.testing.assert_array_equal(resize_images([record], pad_to_square, 16)[0], square)
    assert decoded == [3] and copy.answer == "three" and copy.id == records[0].id


def test_an_image_that_breaks_later_is_an_error_of_its_source(source, tmp_path):
    (tmp_path / "2.jpg").write_bytes((tmp_path / "2.jpg").read_bytes()[:300])
    record = with_workers(source, 1)[2]
    with pytest.raises(UserError) as error:
        resize_images([record], pad_to_square, 16)
    with pytest.raises(UserError) as expected:
        source[2]
    assert str(error.value) == str(expected.value) and "2.jpg" in str(error.value)


def test_images_in_memory_need_no_workers(source):
    memory = MemorySource(source[i] for i in range(4))
    assert with_workers(memory, 1) is memory
