import json

import numpy as np
import pytest

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
    sheet = np.asarray(image_grid(images, labels, columns=2, scale=4))
    assert (sheet[8:48, 8:56] == 0).all() and (sheet[8:48, 64:112] == [255, 0, 0]).all()
    assert sheet.shape[1] == 8 + 2 * 56 and sheet.shape[0] > 2 * 40
    assert (sheet[-1] == 255).all() and (sheet[50:70, 8:56] < 128).any()
    with pytest.raises(ValueError, match="float32"):
        image_grid(images.astype(np.float32), ["a"] * 3, 2)
