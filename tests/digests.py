"""Digests of short runs of every config: two trees of this project give the same numbers if and only if these agree.

    python tests/digests.py run --out digests.json [--only NAME ...] [--jobs N]     of the checkout it is started in
    python tests/digests.py compare BEFORE.json AFTER.json

Each run is ``python -m corl_jax.main`` in a process of its own, two steps at size ``tiny`` from the shipped base. Its
digest has every metric of every step in hexadecimal (times left out), every number of
``eval.json``, and a hash by path of every array in the last checkpoint: parameters, moments of the
optimizer and state of the algorithm.

The script imports nothing of ``corl_jax``, so that it also runs in a checkout of another commit.
Config keys and metrics that have been renamed since commit 8b24b3e are compared under their names of
today. Compare on one machine only: another number of cores adds in another order.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import hashlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

STEPS = 2
QUICK = {"steps": STEPS, "evals.n": 64, "hooks.probe_every": 1, "hooks.interference_every": 2}
"""What every run of the rl stage is given: few steps, a small evaluation, and the columns of both hooks."""

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "tokenizer": ("tokenizer.py", {"steps": STEPS}),
    "sft": ("sft.py", {"steps": STEPS, "init_from": "image_tokenizer/*=tiny"}),
    "cold_sft": ("cold_sft.py", {"steps": STEPS, "init_from": "tiny"}),
    "unified": ("unified.py", QUICK),
    "refined_t2i": ("refined_t2i.py", QUICK | {"init_from": "tiny"}),
    "refined_mc": ("refined_mc.py", QUICK | {"init_from": "tiny"}),
    "refined_oe": ("refined_oe.py", QUICK | {"init_from": "tiny"}),
    "separate_t2i": ("separate_t2i.py", QUICK | {"init_from": "tiny"}),
    "separate_und": ("separate_und.py", QUICK | {"init_from": "tiny"}),
    "cycle": ("cycle.py", QUICK | {"init_from": "tiny", "rl.alternate": 1}),
    "counting": ("counting.py", QUICK | {"init_from": "tiny"}),
    "geometry": ("geometry.py", QUICK | {"init_from": "tiny"}),
    "paper_rewards": ("unified.py:tiny,rewards=paper", QUICK),
    "compat": ("unified.py:tiny,compat=reference", QUICK),
    "lora": ("unified.py:tiny,lora=4", QUICK),
    "mesh": ("unified.py:mesh=cpu8", QUICK | {"microbatches": 2}),
    "several_updates": (
        "unified.py",
        QUICK
        | {
            "updates_per_step": 2,
            "optim.schedule": "cosine",
            "optim.warmup_ratio": 0.5,
            "rl.clip": "two_sided",
        }
        | {
            "kl.image.schedule": "linear",
            "kl.text.schedule": "cosine",
            "kl.image.start": 0.05,
            "kl.text.start": 0.05,
        },
    ),
    "resampling": (
        "unified.py",
        QUICK
        | {
            "rl.refill": 2,
            "rl.baseline": "leave_one_out",
            "rl.scale": "batch",
            "rl.aggregation": "token_mean",
        }
        | {"rl.reference_every": 1, "rl.entropy_bonus.image": 0.01, "rl.entropy_bonus.text": 0.01},
    ),
    "stale": (
        "unified.py",
        QUICK
        | {
            "rl.stale_rollouts": True,
            "rl.importance_cap": 2.0,
            "rl.score_chunk": 9,
            "reward.normalise": "running",
        }
        | {
            "rl.rollout_weights": "int8",
            "rl.rollout_cache": "int8",
            "rl.pairing": "unified",
            "rl.questions": 8,
        },
    ),
    "corl": (
        "corl.py",
        {
            f"train.{name}.steps": STEPS
            for name in ("unified", "refined_t2i", "refined_mc", "refined_oe")
        }
        | {"evals.n": 32},
    ),
}
"""Name to the config with its argument, and the values given by flag, under the keys of commit 8b24b3e."""

RENAMED_METRICS = {
    "mismatch": "sampler_logp_diff",
    "clipped": "clip_fraction",
    "importance": "importance_weight",
    "share": "reward_std_share",
    "kl_coef": "kl_coefficient",
    "constant_groups": "zero_std_groups",
    "refill": "resample",
    "refilled": "resampled",
    "length": "completion_length",
    "held_out": "held_out_reward",
    "interference": "grad_interference",
}
"""Parts of the names of metrics, between slashes: at commit 8b24b3e to today."""


def renamed_keys(root: Path) -> dict[str, str]:
    """Keys of configs at commit 8b24b3e to those of the checkout ``root``."""
    table = root / "corl_jax" / "core" / "renamed_keys.py"
    return runpy.run_path(str(table))["RENAMED_KEYS"] if table.exists() else {}


def run_config(root: Path, name: str, folder: Path) -> dict[str, Any]:
    """Trains one config in a process of its own and digests what it left in ``folder``."""
    config, values = RUNS[name]
    if table := renamed_keys(root):
        values = {rename_key(key, table): value for key, value in values.items()}
        config = config.replace("compat=reference", "compat=ulm_r1")
    command = [
        sys.executable,
        "-m",
        "corl_jax.main",
        f"--config=configs/{config}",
        f"--workdir={folder}",
    ]
    command += [f"--config.{key}={value}" for key, value in values.items()]
    devices = "--xla_force_host_platform_device_count=8" if "cpu8" in config else ""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": devices}

    done = subprocess.run(
        command, cwd=root, env=environment, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{name} ended with code {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return digest_workdir(folder)


def rename_key(key: str, table: dict[str, str]) -> str:
    """The key of today, also behind ``train.NAME.`` of a pipeline."""
    if key.startswith("train."):
        _, stage, rest = key.split(".", 2)
        return f"train.{stage}.{table.get(rest, rest)}"
    return table.get(key, key)


def digest_workdir(folder: Path) -> dict[str, Any]:
    """Every number that a run left in its work directory, exactly; of a pipeline, those of all its stages."""
    digest: dict[str, Any] = {}
    for path in sorted(folder.rglob("metrics.jsonl")):
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        digest[f"{path.relative_to(folder)}"] = [
            {key: exact(value) for key, value in row.items() if not key.startswith("time/")}
            for row in rows
        ]
    for path in sorted(folder.rglob("eval.json")):
        digest[f"{path.relative_to(folder)}"] = exact_numbers(json.loads(path.read_text()))
    for path in sorted(folder.rglob("checkpoints/[0-9]*/state")):
        digest[f"{path.relative_to(folder)}"] = digest_checkpoint(path)
    return digest


def digest_checkpoint(path: Path) -> dict[str, str]:
    """Hash of the bits of every array in a checkpoint, by its path."""
    manifest = json.loads((path.parent / "manifest" / "manifest.json").read_text("utf-8"))
    hashes = digest_arrays(path)
    # Since checkpoints are written beside the run, what never changes has a folder of its own.
    if manifest.get("frozen"):
        hashes |= digest_arrays(path.parent.parent / manifest["frozen"] / "state")
    return hashes


def digest_arrays(path: Path) -> dict[str, str]:
    """Hash of the bits of every array in a folder of Orbax, by its path."""
    import jax
    import orbax.checkpoint as ocp

    host = jax.sharding.SingleDeviceSharding(jax.devices("cpu")[0])
    with ocp.StandardCheckpointer() as checkpointer:
        shapes = checkpointer.metadata(path).item_metadata.tree
        target = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=host), shapes
        )
        tree = checkpointer.restore(path, target)
    hashes = {}
    for keys, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.ascontiguousarray(np.asarray(leaf))
        head = f"{array.shape} {array.dtype}".encode()
        hashes[jax.tree_util.keystr(keys)] = hashlib.sha256(head + array.tobytes()).hexdigest()
    return hashes


def exact(value: Any) -> Any:
    """A number so that no bit of it is lost; anything else as it is."""
    return (
        float(value).hex()
        if isinstance(value, int | float) and not isinstance(value, bool)
        else value
    )


def exact_numbers(values: Any) -> Any:
    """``exact`` of every number in JSON values; what names the run itself is left out."""
    if isinstance(values, dict):
        return {
            key: exact_numbers(value)
            for key, value in values.items()
            if key not in ("run", "provenance", "started")
        }
    if isinstance(values, list):
        return [exact_numbers(value) for value in values]
    return exact(values)


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """A JSON tree as path to value, metrics under the names of today."""
    if isinstance(tree, list):
        tree = dict(enumerate(tree))
    if not isinstance(tree, dict):
        return {path: tree}
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= leaves(value, f"{path} > {rename_metric(str(key))}" if path else str(key))
    return flat


def rename_metric(name: str) -> str:
    """The name of today of a metric."""
    return "/".join(RENAMED_METRICS.get(part, part) for part in name.split("/"))


def compare(before: Path, after: Path) -> int:
    """Prints, by run, how many numbers are equal and every one that is not; the number of differences."""
    old, new = json.loads(before.read_text()), json.loads(after.read_text())
    total = 0
    for run in sorted(old.keys() | new.keys()):
        left, right = leaves(old.get(run, {})), leaves(new.get(run, {}))
        differences = [
            key for key in sorted(left.keys() | right.keys()) if left.get(key) != right.get(key)
        ]
        total += len(differences)
        digest = hashlib.sha256(json.dumps(sorted(right.items())).encode()).hexdigest()[:16]
        print(f"{run:16} {len(right):5} values, {len(differences):4} differ   {digest}")
        for key in differences[:20]:
            print(f"    {key}: {left.get(key, 'absent')} before, {right.get(key, 'absent')} after")
    print(f"{total} differences in {len(old.keys() | new.keys())} runs")
    return total


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser("run", help="train every config for two steps and write the digests")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--only", nargs="*", choices=RUNS, default=[])
    run.add_argument(
        "--jobs",
        type=int,
        default=1,
        help="runs at a time; what they compute does not depend on it",
    )
    run.add_argument(
        "--root",
        type=Path,
        default=Path.cwd(),
        help="checkout to run; by default the current folder",
    )
    against = commands.add_parser("compare", help="compare two files of digests")
    against.add_argument("before", type=Path)
    against.add_argument("after", type=Path)
    args = parser.parse_args()
    if args.command == "compare":
        return int(compare(args.before, args.after) > 0)

    digests = json.loads(args.out.read_text()) if args.only and args.out.exists() else {}
    with (
        tempfile.TemporaryDirectory() as scratch,
        concurrent.futures.ThreadPoolExecutor(args.jobs) as pool,
    ):
        names = args.only or list(RUNS)
        runs = {
            name: pool.submit(run_config, args.root, name, Path(scratch) / name) for name in names
        }
        for name, future in runs.items():
            digests[name] = future.result()
            print(f"{name}: {len(leaves(digests[name]))} values", flush=True)
    args.out.write_text(json.dumps(digests, indent=1, sort_keys=True))
    return 0


if __name__ == "__main__":
    sys.exit(main())
