import json

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.engine.grid_files import png_bytes, read_cells
from corl_jax.engine.image_grid import image_grid
from corl_jax.engine.trackers.tensorboard import TensorBoard
from corl_jax.engine.writers import JsonLines


def test_lines_are_sorted_flushed_and_strict_json(tmp_path):
    lines = JsonLines(tmp_path / "m.jsonl")
    lines.write(1, {"b": 1, "a": float("nan")})
    text = (tmp_path / "m.jsonl").read_text()
    assert text == '{"a": null, "b": 1.0, "step": 1}\n' and json.loads(text)
    lines.close()


def test_events_are_written_on_first_use_only(tmp_path):
    events = TensorBoard(tmp_path / "tb")
    assert not (tmp_path / "tb").exists()
    events.write(1, {"loss": 1.0}, {"grid": np.zeros((4, 4, 3), np.uint8)})
    events.close()
    assert list((tmp_path / "tb").iterdir())


def test_grid_has_images_with_captions_below():
    images = np.zeros((3, 10, 12, 3), np.uint8)
    images[1] = [255, 0, 0]
    labels = ["one", "two\nreward 0.50", "a long caption " * 30]
    notes = ["", "", "0.75"]
    grid = image_grid(images, labels, 2, 4, notes)
    sheet = np.asarray(grid)
    assert (sheet[8:48, 8:56] == 0).all() and (sheet[8:48, 64:112] == [255, 0, 0]).all()
    assert sheet.shape[1] == 8 + 2 * 56 and sheet.shape[0] > 2 * 40
    assert (sheet[-1] == 255).all() and (sheet[50:70, 8:56] < 128).any()
    with pytest.raises(ValueError, match="float32"):
        image_grid(images.astype(np.float32), ["a"] * 3, 2)

    # The reward stays visible under the longest label.
    without = np.asarray(image_grid(images, labels, 2, 4))
    added = sheet[without.shape[0] - 8 :]
    assert len(sheet) > len(without) and (added[:, 8:56] < 128).any()


def test_a_file_of_a_grid_has_its_texts_and_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (3, 10, 12, 3), np.uint8)
    labels, notes = ["a long caption " * 30, "</script> é 猫\n2", ""], ["0.5", "", "1"]
    path = tmp_path / "sheet.png"
    path.write_bytes(png_bytes(image_grid(images, labels, 2, 3, notes)))
    cells = read_cells(path)
    assert [cell[:2] for cell in cells] == list(zip(labels, notes, strict=True))
    np.testing.assert_array_equal([np.asarray(cell[2]) for cell in cells], images)

    # An image of another origin, and files that were damaged or made up.
    Image.new("RGB", (4, 4)).save(path)
    assert read_cells(path) == []
    for text, message in (
        ("{", "is not JSON"),
        ("[]", "must be a JSON object"),
        ('{"scale": 0}', "scale in .* must be a whole number from 1 to 4; got 0"),
        ('{"scale": 1, "width": 4, "height": 4, "cells": [{"left": 1}]}', "left .* 0 to 0; got 1"),
    ):
        image = Image.new("RGB", (4, 4))
        image.info["cells"] = text
        path.write_bytes(png_bytes(image))
        with pytest.raises(UserError, match=message):
            read_cells(path)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(UserError, match="must be a PNG file; got"):
        read_cells(path)
