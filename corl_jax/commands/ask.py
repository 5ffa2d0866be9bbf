"""Asks a question about a picture and prints the answer."""

from __future__ import annotations

import argparse
import sys

from corl_jax.commands.common import add_devices, add_policy


def add_flags(parser: argparse.ArgumentParser) -> None:
    """The flags."""
    add_policy(parser)
    add_devices(parser)
    parser.add_argument("--image", required=True, help="a picture file")
    parser.add_argument("--question", required=True, help="the question, and its options if any")


def run(args: argparse.Namespace) -> int:
    """Prints the greedy answer; what the policy wrote around it goes to stderr."""
    from corl_jax.data.images import load_image
    from corl_jax.rewards.parsing.answers import extract_answer
    from corl_jax.sampling.policy import Policy

    image = load_image(args.image)
    text = Policy.load(args.policy, devices=args.devices).answer([image], [args.question])[0]
    answer = extract_answer(text)
    if answer != text:
        print(f"wrote: {text}", file=sys.stderr)
    print(answer)
    return 0
