"""Turns a picture into image tokens and back, by the image tokenizer alone."""

from __future__ import annotations

import argparse
import pathlib
from typing import TYPE_CHECKING

from corl_jax.commands.common import add_policy, check_folder, path_flag
from corl_jax.core.checks.paths import make_folder

if TYPE_CHECKING:
    import numpy as np


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    # Either direction.
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--image", type=path_flag, help="a picture to encode, and to decode again")
    source.add_argument("--codes", type=path_flag, help="a .npy file of codes to decode")
    parser.add_argument(
        "--out", type=path_flag, required=True, help="folder for NAME.npy and NAME.png"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")


def run(args: argparse.Namespace) -> int:
    """Writes the picture that the codes decode to and prints the paths of all files.

    With ``--image`` the codes are written too: int32, row by row of the picture.
    """
    name = (args.image or args.codes).stem
    png_file, npy_file = args.out / f"{name}.png", args.out / f"{name}.npy"
    paths = [png_file, npy_file] if args.image else [png_file]
    check_folder(args.out, paths, args.overwrite)

    # Imported after the checks, so that help and errors are quick.
    import numpy as np
    from PIL import Image

    from corl_jax.data.image_files import load_image
    from corl_jax.sampling.image_codec import ImageCodec

    # The input is read before the image tokenizer, which takes longer.
    if args.image:
        image = load_image(args.image)
        codec = ImageCodec.load(args.policy)
        codes = codec.encode([image])
    else:
        codes = _read_codes(args.codes)
        codec = ImageCodec.load(args.policy)
    decoded = codec.decode(codes)[0]

    # The folder is made only now: errors above leave nothing behind.
    make_folder(args.out, "--out")
    Image.fromarray(decoded).save(png_file)
    if args.image:
        np.save(npy_file, codes[0])
    for path in paths:
        print(path)
    return 0


def _read_codes(path: pathlib.Path) -> np.ndarray:
    """Codes of one picture, ``[1, S]``."""
    import numpy as np

    from corl_jax.porting.npy_files import read_npy

    return np.atleast_2d(read_npy(path, "--codes"))
