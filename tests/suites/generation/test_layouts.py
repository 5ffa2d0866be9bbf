"""Folders of pictures: official judges find each picture where they look, and nothing else."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from corl_jax.core.errors import UserError
from corl_jax.suites.generation.layouts import tile, untile
from corl_jax.suites.generation.picture_files import (
    complete_prompts,
    read_pictures,
    remove_staging,
    staging_folder,
    write_pictures,
)
from corl_jax.suites.generation.prompts import GenerationPrompt
from corl_jax.suites.generation.suite import generation_suites

sys.path.insert(0, str(Path(__file__).parent))
import official_layouts  # noqa: E402


def made_prompts(suite):
    metadata = {"tag": "single_object", "include": [{"class": "cow", "count": 1}], "prompt": "cow"}
    ids = {"wise": ("7", "12"), "dpg": ("drawtext14", "0")}.get(suite, ("00000", "00003"))
    return [GenerationPrompt(i, f"A cow, no. {n}.", "", metadata) for n, i in enumerate(ids)]


def write_all(name, folder, samples, side=6):
    """Random pictures of two prompts; returns suite, prompts and pictures ``[2, G, side, side, 3]``."""
    suite, prompts = generation_suites[name], made_prompts(name)
    shape = (2, samples, side, side, 3)
    pictures = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for prompt, group in zip(prompts, pictures, strict=True):
        write_pictures(folder, suite.layout, prompt, group)
    return suite, prompts, pictures


@pytest.mark.parametrize("name", list(generation_suites))
def test_pictures_come_back(tmp_path, name):
    folder = tmp_path / "pictures"
    samples = generation_suites[name].samples
    suite, prompts, pictures = write_all(name, folder, samples)
    for prompt, group in zip(prompts, pictures, strict=True):
        np.testing.assert_array_equal(read_pictures(folder, suite.layout, prompt, samples), group)
    assert complete_prompts(folder, suite.layout, prompts, samples) == (True, True)
    assert not list(tmp_path.rglob("*.part/*"))

    # Without any one of its files a prompt is not complete.
    for file in suite.layout.names(prompts[1], samples):
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        assert complete_prompts(folder, suite.layout, prompts, samples) == (True, False)
        (folder / file).write_bytes(content)


def test_geneval_folder_is_what_its_judge_reads(tmp_path):
    _, prompts, pictures = write_all("geneval", tmp_path / "pictures", 4)
    found = official_layouts.geneval_pictures(tmp_path / "pictures")
    assert sorted(found) == ["00000", "00003"]
    for prompt, group in zip(prompts, pictures, strict=True):
        metadata, images = found[prompt.id]
        assert metadata == prompt.metadata
        assert sorted(images) == ["0000.png", "0001.png", "0002.png", "0003.png"]
        np.testing.assert_array_equal(np.stack([images[name] for name in sorted(images)]), group)

    # One column with two black pixels around each picture.
    grid = np.asarray(Image.open(tmp_path / "pictures/00003/grid.png"))
    assert grid.shape == (4 * 8 + 2, 10, 3)
    np.testing.assert_array_equal(grid[10:16, 2:8], pictures[1, 1])
    assert not grid[8:10].any() and not grid[:, :2].any()


def test_dpg_grids_are_cut_as_its_judge_does(tmp_path):
    _, prompts, pictures = write_all("dpg", tmp_path / "pictures", 4)
    found = official_layouts.dpg_pictures(tmp_path / "pictures", resolution=6)
    assert sorted(found) == ["0", "drawtext14"]
    for prompt, group in zip(prompts, pictures, strict=True):
        np.testing.assert_array_equal(found[prompt.id], group)


def test_wise_and_t2i_compbench(tmp_path):
    _, prompts, pictures = write_all("wise", tmp_path / "wise", 1)
    for prompt, group in zip(prompts, pictures, strict=True):
        found = official_layouts.wise_picture(tmp_path / "wise", int(prompt.id))
        np.testing.assert_array_equal(found, group[0])

    _, prompts, pictures = write_all("t2i_compbench", tmp_path / "t2i", 3)
    rows = official_layouts.t2i_compbench_pictures(tmp_path / "t2i")
    assert [number for number, _, _ in rows] == [0, 1, 2, 9, 10, 11]
    assert [text for _, text, _ in rows] == [p.prompt for p in prompts for _ in range(3)]
    np.testing.assert_array_equal(np.stack([row[2] for row in rows]), pictures.reshape(-1, 6, 6, 3))


def test_tiles_are_row_by_row():
    pictures = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    grid = tile(pictures, 2)
    assert grid[0, :, :, 0].tolist() == [[0, 0, 1, 1]] * 2 + [[2, 2, 3, 3]] * 2
    np.testing.assert_array_equal(untile(grid[0], 2), pictures)
    with pytest.raises(ValueError, match="must have 4 pictures; got 3"):
        tile(pictures[:3], 2)


def test_a_killed_write_leaves_nothing_where_a_judge_looks(tmp_path, monkeypatch):
    folder = tmp_path / "pictures"
    suite, (prompt, _) = generation_suites["geneval"], made_prompts("geneval")
    pictures = np.zeros((4, 6, 6, 3), np.uint8)

    # The third file cannot be moved to its place.
    replace, calls = Path.replace, []

    def fail_third(path, target):
        calls.append(target)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return replace(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail_third)
        with pytest.raises(UserError, match=r"0002\.png cannot be written"):
            write_pictures(folder, suite.layout, prompt, pictures)
    names = [path.name for path in folder.rglob("*") if path.is_file()]
    assert sorted(names) == ["0000.png", "0001.png"]
    assert complete_prompts(folder, suite.layout, [prompt], 4) == (False,)

    write_pictures(folder, suite.layout, prompt, pictures)
    assert complete_prompts(folder, suite.layout, [prompt], 4) == (True,)
    remove_staging(folder)
    assert not staging_folder(folder).exists()


def test_pictures_that_cannot_be_read_are_named(tmp_path):
    suite, prompts, _ = write_all("geneval", tmp_path, 2)
    (tmp_path / "00003/samples/0001.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match=r"'00003'.*0001\.png"):
        read_pictures(tmp_path, suite.layout, prompts[1], 2)
    Image.new("RGB", (4, 4)).save(tmp_path / "00000/samples/0001.png")
    with pytest.raises(UserError, match="'00000'.*one size; got 4x4 and 6x6"):
        read_pictures(tmp_path, suite.layout, prompts[0], 2)


def test_sample_counts_that_a_judge_cannot_read():
    assert [generation_suites[n].samples for n in ("geneval", "dpg", "wise", "t2i_compbench")] == [
        4, 4, 1, 10,
    ]  # fmt: skip
    assert generation_suites["geneval"].check_samples(2) == 2
    for name, samples in (("dpg", 2), ("wise", 4), ("geneval", 0)):
        with pytest.raises(UserError, match=f"samples of the suite '{name}' must be"):
            generation_suites[name].check_samples(samples)
