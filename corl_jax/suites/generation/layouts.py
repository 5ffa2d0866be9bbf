"""Where the official judges look for pictures: file names and contents for each suite.

In: a prompt and its pictures, uint8 ``[G, H, W, 3]``. Out: files by name, relative to the folder
that a judge is given. ``picture_files`` writes them and reads them back.
"""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from corl_jax.suites.generation.prompts import GenerationPrompt

GRID_PADDING = 2
"""Black pixels around the pictures of GenEval's ``grid.png``, as torchvision's ``make_grid`` has."""


def encode_png(pixels: UInt8[np.ndarray, "H W 3"]) -> bytes:
    """A picture as PNG, without loss."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def no_companions(
    prompt: GenerationPrompt, pictures: UInt8[np.ndarray, "G H W 3"]
) -> dict[str, bytes]:
    """A layout of pictures alone."""
    return {}


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of files for the pictures of a prompt.

    Attributes:
      picture_name: ``(prompt, number of the sample, samples per prompt) -> name``.
      tiles: samples per side of a picture: with 2, four samples are one picture, row by row, and
        have one name.
      companions: ``(prompt, pictures) -> content by name`` of further files.
      companion_names: ``prompt -> names`` of those.
    """

    picture_name: Callable[[GenerationPrompt, int, int], str]
    tiles: int = 1
    companions: Callable[[GenerationPrompt, np.ndarray], Mapping[str, bytes]] = no_companions
    companion_names: Callable[[GenerationPrompt], tuple[str, ...]] = lambda prompt: ()

    def names(self, prompt: GenerationPrompt, samples: int) -> tuple[str, ...]:
        """All files of a prompt, each once."""
        pictures = [self.picture_name(prompt, sample, samples) for sample in range(samples)]
        return (*dict.fromkeys(pictures), *self.companion_names(prompt))

    def contents(
        self, prompt: GenerationPrompt, pictures: UInt8[np.ndarray, "G H W 3"]
    ) -> dict[str, bytes]:
        """Content of every one of ``names``."""
        names = [self.picture_name(prompt, i, len(pictures)) for i in range(len(pictures))]
        images = tile(pictures, self.tiles) if self.tiles > 1 else pictures
        files = {
            name: encode_png(image)
            for name, image in zip(dict.fromkeys(names), images, strict=True)
        }
        return files | dict(self.companions(prompt, pictures))


def tile(
    pictures: UInt8[np.ndarray, "G H W 3"], side: int
) -> UInt8[np.ndarray, "1 side*H side*W 3"]:
    """``side * side`` pictures as one, row by row, without a margin.

    Raises:
      ValueError: another number of pictures.
    """
    count, height, width, _ = pictures.shape
    if count != side * side:
        raise ValueError(
            f"a grid of {side} by {side} must have {side * side} pictures; got {count}"
        )
    rows = pictures.reshape(side, side, height, width, 3).swapaxes(1, 2)
    return rows.reshape(1, side * height, side * width, 3)


def untile(picture: UInt8[np.ndarray, "H W 3"], side: int) -> UInt8[np.ndarray, "G h w 3"]:
    """The pictures of which ``tile`` made one; a side that does not divide loses its rest."""
    height, width = picture.shape[0] // side, picture.shape[1] // side
    cut = picture[: side * height, : side * width].reshape(side, height, side, width, 3)
    return cut.swapaxes(1, 2).reshape(side * side, height, width, 3)


def _geneval_companions(
    prompt: GenerationPrompt, pictures: UInt8[np.ndarray, "G H W 3"]
) -> dict[str, bytes]:
    """``metadata.jsonl``, the line of the prompt, and ``grid.png``, the pictures below each other."""
    count, height, width, _ = pictures.shape
    step = height + GRID_PADDING
    grid = np.zeros((count * step + GRID_PADDING, width + 2 * GRID_PADDING, 3), np.uint8)
    for i, picture in enumerate(pictures):
        grid[GRID_PADDING + i * step :][:height, GRID_PADDING : GRID_PADDING + width] = picture
    return {
        f"{prompt.id}/metadata.jsonl": json.dumps(dict(prompt.metadata)).encode(),
        f"{prompt.id}/grid.png": encode_png(grid),
    }


def _t2i_compbench_name(prompt: GenerationPrompt, sample: int, samples: int) -> str:
    """Numbers run through all pictures, ``inference_eval.py`` of T2I-CompBench counts them so."""
    return f"samples/{prompt.prompt}_{int(prompt.id) * samples + sample:06d}.png"


GENEVAL = Layout(
    lambda prompt, sample, samples: f"{prompt.id}/samples/{sample:04d}.png",
    companions=_geneval_companions,
    companion_names=lambda prompt: (f"{prompt.id}/metadata.jsonl", f"{prompt.id}/grid.png"),
)
"""``00000/samples/0000.png`` with ``00000/metadata.jsonl`` (geneval, README and
``diffusers_generate.py``, whose grid has one column)."""
DPG = Layout(lambda prompt, sample, samples: f"{prompt.id}.png", tiles=2)
"""``ITEM_ID.png``, four samples in one picture (ELLA, ``compute_dpg_bench.py: crop_tuples_list``)."""
WISE = Layout(lambda prompt, sample, samples: f"{prompt.id}.png")
"""``PROMPT_ID.png`` (WISE, ``gpt_eval.py: main``)."""
T2I_COMPBENCH = Layout(_t2i_compbench_name)
"""``samples/PROMPT_000000.png``: its judges read the prompt up to the first ``_`` and the number."""
PLAIN = Layout(lambda prompt, sample, samples: f"{prompt.id}/{sample:04d}.png")
"""``ID/0000.png``."""
