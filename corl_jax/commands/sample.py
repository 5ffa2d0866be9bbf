"""Draws pictures of a prompt and writes them as PNG files."""

from __future__ import annotations

import argparse
import pathlib
import re

from corl_jax.commands.common import add_devices, add_policy
from corl_jax.core.errors import UserError


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    add_devices(parser)
    parser.add_argument("--prompt", required=True, help="what to draw")
    parser.add_argument("--n", type=int, default=4, help="how many pictures (default: 4)")
    parser.add_argument(
        "--seed", type=int, default=0, help="the same seed draws the same pictures (default: 0)"
    )
    parser.add_argument(
        "--guidance", type=float, default=2.0, help="weight of guidance, 1 for none (default: 2)"
    )
    parser.add_argument("--temperature", type=float, default=1.0, help="0 is greedy (default: 1)")
    parser.add_argument("--out", type=pathlib.Path, required=True, help="folder for the pictures")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace pictures of the same name"
    )


def run(args: argparse.Namespace) -> int:
    """Draws, writes, and prints the paths."""
    if args.n < 1:
        raise UserError(f"--n={args.n} is no number of pictures; expected 1 or more")
    if not args.prompt.strip():
        raise UserError("the prompt is empty; write some words")
    paths = [
        args.out / f"{slug(args.prompt)}-{i:0{len(str(args.n - 1))}d}.png" for i in range(args.n)
    ]
    check_out(args.out, paths, args.overwrite)

    from PIL import Image

    from corl_jax.sampling.policy import Policy

    pictures = Policy.load(args.policy, devices=args.devices).generate(
        [args.prompt], args.n, seed=args.seed, guidance=args.guidance, temperature=args.temperature
    )
    args.out.mkdir(parents=True, exist_ok=True)
    for path, picture in zip(paths, pictures[0], strict=True):
        Image.fromarray(picture).save(path)
        print(path)
    return 0


def check_out(folder: pathlib.Path, paths: list[pathlib.Path], overwrite: bool) -> None:
    """Refuses a folder that cannot be one, and files that would be replaced.

    Raises:
      UserError: before anything is drawn.
    """
    for part in (folder, *folder.parents):
        if part.exists() and not part.is_dir():
            raise UserError(f"--out {str(folder)!r}: {str(part)!r} is a file; expected a folder")
    taken = [path for path in paths if path.exists()]
    if taken and not overwrite:
        raise UserError(
            f"{str(taken[0])!r} exists; choose another --out, or pass --overwrite to replace it"
        )


def slug(prompt: str) -> str:
    """The prompt as a file name: letters and digits joined by hyphens, at most 60 of them."""
    return re.sub(r"\W+", "-", prompt.lower()).strip("-_")[:60].strip("-_") or "picture"
