"""Turns a picture into image tokens and back, by the image tokenizer alone."""

from __future__ import annotations

import argparse
import pathlib

from corl_jax.commands.common import add_policy
from corl_jax.commands.sample import check_out
from corl_jax.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument(
        "--image", type=pathlib.Path, help="a picture to encode, and to decode again"
    )
    given.add_argument("--codes", type=pathlib.Path, help="a .npy file of codes to decode")
    parser.add_argument(
        "--out", type=pathlib.Path, required=True, help="folder for NAME.npy and NAME.png"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace files of the same name")


def run(args: argparse.Namespace) -> int:
    """Writes codes (int32, row by row of the picture) and the picture they stand for, and prints the paths."""
    name = (args.image or args.codes).stem
    paths = [args.out / f"{name}.png", *([args.out / f"{name}.npy"] if args.image else [])]
    check_out(args.out, paths, args.overwrite)

    import numpy as np
    from PIL import Image

    from corl_jax.data.images import load_image
    from corl_jax.sampling.image_codec import ImageCodec

    if args.image:
        picture = load_image(args.image)
        tokenizer = ImageCodec.load(args.policy)
        codes = tokenizer.encode([picture])
    else:
        codes = _read(args.codes)
        tokenizer = ImageCodec.load(args.policy)
    decoded = tokenizer.decode(codes)[0]
    args.out.mkdir(parents=True, exist_ok=True)
    Image.fromarray(decoded).save(paths[0])
    for path in paths[1:]:
        np.save(path, codes[0])
    for path in paths:
        print(path)
    return 0


def _read(path: pathlib.Path):
    """Codes of one picture, ``[1, S]``."""
    import numpy as np

    try:
        return np.atleast_2d(np.load(path, allow_pickle=False))
    except FileNotFoundError:
        raise UserError(f"codes {str(path)!r} do not exist; check the path") from None
    except (OSError, ValueError, EOFError) as error:
        raise UserError(
            f"{str(path)!r} cannot be read as a .npy file ({error}); write it with numpy.save"
        ) from None
