"""The pictures of a suite on the disk: written prompt by prompt, complete or absent, and read back.

Files are made in a folder beside the one of the judge and moved there when they are whole, since
judges read whatever lies in their folder.
"""

from __future__ import annotations

import pathlib
import shutil
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8

from corl_jax.core.errors import UserError
from corl_jax.core.files import name_write_errors, sync
from corl_jax.data.image_files import load_image
from corl_jax.suites.generation.layouts import Layout, untile
from corl_jax.suites.generation.prompts import GenerationPrompt


def staging_folder(folder: pathlib.Path) -> pathlib.Path:
    """Where files are made that will be moved to ``folder``; on the same disk."""
    return folder.with_name(f"{folder.name}.part")


def write_pictures(
    folder: pathlib.Path,
    layout: Layout,
    prompt: GenerationPrompt,
    pictures: UInt8[np.ndarray, "G H W 3"],
) -> None:
    """Writes all files of a prompt; the prompt is complete once the last of them is there.

    Raises:
      UserError: they cannot be written.
    """
    staging = staging_folder(folder)
    for name, content in layout.contents(prompt, pictures).items():
        path, made = folder / name, staging / "file"
        with name_write_errors(path):
            staging.mkdir(parents=True, exist_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            made.write_bytes(content)
            sync(made)
            # A rename on one disk is atomic, so no judge ever sees half a picture.
            made.replace(path)
            sync(path.parent)


def remove_staging(folder: pathlib.Path) -> None:
    """Removes what a run that was killed has left beside ``folder``."""
    shutil.rmtree(staging_folder(folder), ignore_errors=True)


def complete_prompts(
    folder: pathlib.Path, layout: Layout, prompts: Sequence[GenerationPrompt], samples: int
) -> tuple[bool, ...]:
    """For each prompt whether all of its files are in ``folder``."""
    return tuple(
        all((folder / name).is_file() for name in layout.names(prompt, samples))
        for prompt in prompts
    )


def read_pictures(
    folder: pathlib.Path, layout: Layout, prompt: GenerationPrompt, samples: int
) -> UInt8[np.ndarray, "G H W 3"]:
    """The pictures of a prompt that ``write_pictures`` wrote.

    Raises:
      UserError: one is missing or cannot be read, or they differ in size.
    """
    names = dict.fromkeys(layout.picture_name(prompt, i, samples) for i in range(samples))
    pictures = [load_image(folder / name, f"prompt {prompt.id!r}") for name in names]
    if layout.tiles > 1:
        return untile(pictures[0], layout.tiles)
    shapes = {picture.shape for picture in pictures}
    if len(shapes) > 1:
        sizes = " and ".join(sorted(f"{shape[1]}x{shape[0]}" for shape in shapes))
        raise UserError(
            f"the pictures of prompt {prompt.id!r} in {str(folder)!r} must have one size; got "
            f"{sizes}. Draw that prompt again"
        )
    return np.stack(pictures)
