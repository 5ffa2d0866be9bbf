"""Draws pictures of a prompt, perhaps behind plans, and writes them as PNG files."""

from __future__ import annotations

import argparse
import itertools

from corl_jax.commands.common import (
    Samples,
    add_devices,
    add_plan,
    add_policy,
    check_folder,
    number,
    path_flag,
    read_plans,
)
from corl_jax.core.checks.config_block import Seed, Weight
from corl_jax.core.checks.paths import make_folder
from corl_jax.core.errors import UserError
from corl_jax.core.files import slug


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    add_devices(parser)

    # What is drawn, and how.
    parser.add_argument("--prompt", required=True, help="what to draw")
    parser.add_argument(
        "--n", type=number(Samples), default=4, help="how many pictures (default: 4)"
    )
    parser.add_argument(
        "--seed",
        type=number(Seed),
        default=0,
        help="the same seed draws the same pictures (default: 0)",
    )
    # ``--guidance`` is short for it.
    parser.add_argument(
        "--guidance-scale",
        "--guidance",
        dest="guidance_scale",
        type=number(Weight),
        default=2.0,
        help="scale of classifier-free guidance, 1 for none (default: 2)",
    )
    parser.add_argument(
        "--temperature", type=number(Weight), default=1.0, help="0 is greedy (default: 1)"
    )
    add_plan(parser)

    # Where the pictures go.
    parser.add_argument("--out", type=path_flag, required=True, help="folder for the pictures")
    parser.add_argument(
        "--overwrite", action="store_true", help="replace pictures of the same name"
    )


def run(args: argparse.Namespace) -> int:
    """Draws the pictures, writes them and prints their paths; plans are in text files beside them."""
    plans = read_plans(args)
    if not args.prompt.strip():
        raise UserError("--prompt must have some words; got an empty one")

    # As many digits as the last number has, so that names sort.
    digits = len(str(args.n - 1))
    name = slug(args.prompt)
    paths = [args.out / f"{name}-{i:0{digits}d}.png" for i in range(args.n)]
    plan_paths = [path.with_suffix(".txt") for path in paths] if plans is not None else []
    check_folder(args.out, [*paths, *plan_paths], args.overwrite)

    # Imported after the checks, so that help and errors are quick.
    from PIL import Image

    from corl_jax.sampling.planned_drawing import draw_behind_plans
    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, devices=args.devices)
    settings = (args.n, args.seed, args.guidance_scale, args.temperature)
    if plans is None:
        images = policy.generate([args.prompt], *settings)[0]
        written = []
    else:
        pictures = draw_behind_plans(policy, [args.prompt], plans, *settings)[0]
        images = [picture.pixels for picture in pictures]
        written = [picture.plan for picture in pictures]

    # The folder is made only now: errors above leave nothing behind.
    make_folder(args.out, "--out")
    for plan_path, plan in zip(plan_paths, written, strict=True):
        plan_path.write_text(f"{plan}\n", "utf-8")
    for path, image in zip(paths, images, strict=True):
        Image.fromarray(image).save(path)
    for path, plan in itertools.zip_longest(paths, written):
        print(path if plan is None else f"{path}: {plan}")
    return 0
