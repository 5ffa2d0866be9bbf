"""What ``corl evaluate`` runs for each kind of suite; libraries are imported when they are needed."""

from __future__ import annotations

import argparse
import pathlib
import sys
from typing import Any

from corl_jax.commands.common import check_file, read_plans
from corl_jax.core.errors import UserError
from corl_jax.core.files import write_json

WORLD = "shapes"
WORLD_SCALES = [1.0, 1.5, 2.0]
DRAW_SCALE = 5.0
"""The guidance scales of the embedded world, and the one at which Janus-Pro is evaluated."""
# Repeated from ``suites.generation.scoring``, which help must not wait for.
CLIP_SCORE = "clip_score"


# Flags that only some suites take, by their place in the parsed flags.
WORLD_FLAGS = ("seed", "guidance_scales", "overwrite", "plan", "plan_template")
QUESTION_FLAGS = ("data", "completion_length", "plain_roles")
DRAWING_FLAGS = (
    "data",
    "seed",
    "guidance_scales",
    "samples",
    "temperature",
    "scores",
    "model",
    "detector",
    "judge_clip",
)
FLAG_NAMES = {"guidance_scales": "guidance_scale"}
"""Places that have another name than their flag."""


def run_suite(args: argparse.Namespace) -> dict[str, Any]:
    """Runs the suite that the flags name; metrics by name.

    Raises:
      UserError: an unknown suite, or flags that it does not take.
    """
    if args.suite == WORLD:
        _check_flags(args, WORLD_FLAGS)
        return run_world(args)

    from corl_jax.suites.benchmarks import benchmarks
    from corl_jax.suites.generation.suite import generation_suites

    if args.suite not in benchmarks and args.suite not in generation_suites:
        known = ", ".join((WORLD, *sorted((*benchmarks, *generation_suites))))
        raise UserError(f"--suite must be one of {known}; got {args.suite!r}")
    if args.data is None:
        raise UserError(
            f"--suite {args.suite} needs --data, the file or folder as its owner publishes it "
            "(docs/suites.md says which)"
        )
    if args.suite in benchmarks:
        _check_flags(args, QUESTION_FLAGS)
        return run_questions(args)
    _check_flags(args, DRAWING_FLAGS)
    return run_generation(args)


def _check_flags(args: argparse.Namespace, taken: tuple[str, ...]) -> None:
    """Refuses flags that would change nothing."""
    for place in dict.fromkeys((*WORLD_FLAGS, *QUESTION_FLAGS, *DRAWING_FLAGS)):
        value = vars(args)[place]
        # A flag that is not given is None, False, "" or an empty list; 0 is a value.
        is_given = value is not None and value is not False and value not in ("", [])
        if is_given and place not in taken:
            name = FLAG_NAMES.get(place, place).replace("_", "-")
            raise UserError(
                f"--{name} is not for --suite {args.suite}, where it would change nothing; got "
                f"{value!r}. Leave it out"
            )


def run_world(args: argparse.Namespace) -> dict[str, Any]:
    """The embedded world, into a folder with every record or into a file with the metrics.

    The file has metrics by name, as each side of a run's ``eval.json`` has, and ``about``: what was
    evaluated.
    """
    is_file = args.out.suffix == ".json"
    if is_file:
        check_file(args.out, "--out", args.overwrite)
    elif args.overwrite:
        raise UserError("--overwrite is for a .json file; results in a folder are never replaced")

    plans = read_plans(args)

    # Imported after the checks, so that help and errors are quick.
    import jax

    from corl_jax.data.pipeline import held_out_records
    from corl_jax.data.shapes import builder
    from corl_jax.evals.config import EvalPolicy, EvalSampling
    from corl_jax.evals.runner import evaluate
    from corl_jax.sampling.image_codec import ImageCodec
    from corl_jax.sampling.policy import Policy
    from corl_jax.suites.world_suite import run_world_suite

    # The records depend on ``n`` and ``seed`` alone, so that policies are compared on the same.
    if jax.process_count() > 1:
        raise UserError(
            f"--suite {WORLD} runs as one process, its pictures are small; leave out --coordinator "
            "and --distributed"
        )
    policy = Policy.load(args.policy, devices=args.devices)
    count, seed = args.n or 512, args.seed or 0
    records = held_out_records(builder.source(split="test"), count, seed)
    about = _about(args.policy, policy) | {"suite": WORLD, "n": count, "seed": seed}
    if plans is not None:
        about["plan"] = {"length": plans.length, "template": plans.template}
    evaluated = EvalPolicy(policy.fns, policy.params, policy.tokenizer, plans)
    sampling = EvalSampling(seed, args.batch_size)
    scales = args.guidance_scales or WORLD_SCALES

    with policy.on_devices():
        if not is_file:
            codec = ImageCodec.of_policy(policy.cfg, policy.params)
            return run_world_suite(evaluated, records, scales, sampling, args.out, about, codec)
        metrics = evaluate(evaluated, records, scales, sampling)
    write_json(args.out, {**metrics, "about": about})
    return metrics


def run_questions(args: argparse.Namespace) -> dict[str, Any]:
    """A benchmark of questions, into a folder."""
    from corl_jax.suites.answering import AnswerOptions
    from corl_jax.suites.benchmarks import benchmarks, read_questions
    from corl_jax.suites.dumps import check_workbooks
    from corl_jax.suites.question_suite import check_references, run_question_suite

    check_workbooks()
    benchmark = benchmarks[args.suite]
    questions = read_questions(args.suite, args.data)[: args.n]
    check_references(benchmark, questions)

    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, devices=args.devices, data_parallel=True)
    options = AnswerOptions(
        args.completion_length or benchmark.answer_tokens, args.batch_size, args.plain_roles
    )
    metrics = run_question_suite(
        args.suite, questions, policy, options, args.out, _about(args.policy, policy)
    )
    _print_note(benchmark.judge)
    return metrics


def run_generation(args: argparse.Namespace) -> dict[str, Any]:
    """Prompts to draw, into a folder that their judges read."""
    from corl_jax.commands.score import register_rewards, reward_options
    from corl_jax.suites.generation.picture_stream import DrawSettings
    from corl_jax.suites.generation.suite import generation_suites
    from corl_jax.suites.generation_suite import Scoring, run_generation_suite
    from corl_jax.suites.judging.open_judge import NOTICE

    # Everything that can be wrong in the flags is found before a policy is loaded.
    suite = generation_suites[args.suite]
    scales = args.guidance_scales or [DRAW_SCALE]
    if len(scales) > 1:
        raise UserError(
            f"--guidance-scale of {args.suite} must be one number, a folder has the pictures of one; "
            f"got {' '.join(map(str, scales))}"
        )
    if bool(args.detector) != bool(args.judge_clip) or (args.detector and args.suite != "geneval"):
        raise UserError(
            "--detector and --judge-clip go together, for --suite geneval; got "
            f"--detector={args.detector!r} --judge-clip={args.judge_clip!r}"
        )
    samples = suite.check_samples(args.samples or suite.samples)
    prompts = suite.read(args.data)[: args.n]
    names = [name for name in args.scores.split(",") if name]
    options = reward_options([], args.model)
    register_rewards(",".join(name for name in names if name != CLIP_SCORE))

    from corl_jax.sampling.policy import Policy

    policy = Policy.load(args.policy, devices=args.devices, data_parallel=True)
    temperature = 1.0 if args.temperature is None else args.temperature
    settings = DrawSettings(samples, args.seed or 0, scales[0], temperature, args.batch_size)
    scoring = Scoring(tuple(names), options, args.detector, args.judge_clip)
    about = _about(args.policy, policy)
    metrics = run_generation_suite(suite, prompts, policy, settings, scoring, args.out, about)
    _print_note(NOTICE if args.detector else "")
    return metrics


def _print_note(text: str) -> None:
    """What has to stand beside the figures, if anything."""
    if text:
        print(f"note: {text}", file=sys.stderr)


def _about(name: str, policy: Any) -> dict[str, Any]:
    """Where the numbers are from: the policy and the machine."""
    import jax.numpy as jnp

    from corl_jax.core import provenance
    from corl_jax.core.runtime import compute_dtype
    from corl_jax.porting.policy_source import open_policy_source

    return {
        "policy": str(pathlib.PurePath(name)),
        "identity": open_policy_source(name).identity(),
        "dtype": jnp.dtype(compute_dtype("auto")).name,
        "machine": provenance.machine(),
        "versions": provenance.versions(),
    }
