"""Asks a question about a picture and prints the answer."""

from __future__ import annotations

import argparse
import sys

from corl_jax.commands.common import add_completion_length, add_devices, add_policy, path_flag


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the command."""
    add_policy(parser)
    add_devices(parser)
    parser.add_argument("--image", type=path_flag, required=True, help="a picture file")
    parser.add_argument("--question", required=True, help="the question, and its options if any")
    add_completion_length(parser)


def run(args: argparse.Namespace) -> int:
    """Prints the greedy answer; the policy's complete text goes to stderr if it has more."""
    # Imported here, so that help is quick.
    from corl_jax.data.answers.reading import extract_answer
    from corl_jax.data.image_files import load_image
    from corl_jax.sampling.policy import Policy

    # The picture is read first, since loading a policy takes longer.
    image = load_image(args.image)
    policy = Policy.load(args.policy, devices=args.devices)
    length = args.completion_length
    written = policy.sample_answers([image], [args.question], max_tokens=length)[0]

    # The answer is what is between the tags, where there are some.
    answer = extract_answer(written.text)
    if answer != written.text:
        print(f"wrote: {written.text}", file=sys.stderr)
    if written.is_truncated:
        print(f"the answer was cut at {length} tokens; raise --completion-length", file=sys.stderr)
    print(answer)
    return 0
