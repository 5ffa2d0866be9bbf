"""How long 22,479 rows take from parquet to the first training step, and how much memory.

    PYTHONPATH=. python tests/full_size/first_step.py [FOLDER]

It makes a set with the columns of ``mm-vl/x2x_rft_22k`` and small pictures, and trains one step of
``configs/unified.py`` on it from a small random policy; then the same on 16 of its rows. The
difference of their peaks is what the data take.
"""

from __future__ import annotations

import dataclasses
import io
import os
import pathlib
import subprocess
import sys
import tempfile
import time

import numpy as np
import pyarrow
import pyarrow.parquet
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from corl_jax.bench.workloads import DOT
from corl_jax.data.prompts import JANUS_TEMPLATE
from corl_jax.models.janus.config import JanusConfig
from corl_jax.models.janus.model import abstract
from corl_jax.models.random_params import random_params
from corl_jax.porting.writer import save_folder

ROWS, FILES = 22_479, 4
INSTRUCTION = (
    "\n\nAnswer the question based on the image and your world knowledge.\n\nPlease write your "
    "thinking process inside <think> </think> tags, and provide your final answer inside <answer> "
    "</answer> tags."
)
PICTURE = pyarrow.struct([("bytes", pyarrow.binary()), ("path", pyarrow.string())])
TEXTS = ("prompt", "qa_problem", "qa_solution", "qa_type")
SCHEMA = pyarrow.schema([("real_image", PICTURE), *((name, pyarrow.string()) for name in TEXTS)])

CONFIG = """
from corl_jax.configs import unified


def get_config(arg=None):
    config = unified.get_config()
    config.rewards.image = {"pixel": 1.0}
    config.rewards.text = {"accuracy": 1.0, "format": 1.0}
    return config
"""
FLAGS = {
    "steps": 1,
    "evals.num_records": 0,
    "hooks.probe_every": 0,
    "hooks.sample_every": 0,
    "rl.rollout.image_prompts": 2,
    "rl.rollout.text_prompts": 2,
    "rl.rollout.group_size": 2,
    "rl.rollout.image_prompt_length": 64,
    "rl.rollout.text_prompt_length": 256,
    "rl.rollout.completion_length": 16,
}


def make_row(number: int, rng: np.random.Generator) -> dict[str, object]:
    """A row with a JPEG of 96 x 72 pixels, every other one multiple choice."""
    noise = Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8))
    buffer = io.BytesIO()
    noise.resize((96, 72), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)

    is_choice = number % 2 == 1
    options = "\nOptions:\nA. one\nB. two\nC. three\nD. four" if is_choice else ""
    answer = "ABCD"[number // 2 % 4] if is_choice else ("one", "two", "three")[number % 3]
    return {
        "real_image": {"bytes": buffer.getvalue(), "path": f"{number}.jpg"},
        "prompt": f"a photo of thing number {number} beside a cat",
        "qa_problem": f"How many things of kind {number} are there?{options}{INSTRUCTION}",
        "qa_solution": f"<answer>{answer}</answer>",
        "qa_type": "MC" if is_choice else "OE",
    }


def write_set(folder: pathlib.Path, rows: int, files: int) -> pathlib.Path:
    """Parquet files as the Hub has them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number, part in enumerate(np.array_split(np.arange(rows), files)):
        table = pyarrow.Table.from_pylist([make_row(int(row), rng) for row in part], SCHEMA)
        pyarrow.parquet.write_table(table, folder / f"train-{number:05d}-of-{files:05d}.parquet")
    return folder


def write_policy(folder: pathlib.Path, cfg: JanusConfig = DOT) -> pathlib.Path:
    """A small random policy of these sizes, whose tokenizer knows all texts."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(JANUS_TEMPLATE.special_tokens),
        show_progress=False,
    )
    tokenizer.train_from_iterator([INSTRUCTION] * 3, trainer)
    words = folder.with_name("words")
    words.mkdir()
    tokenizer.save(str(words / "tokenizer.json"))

    size = tokenizer.get_vocab_size()
    decoder = dataclasses.replace(cfg.decoder, vocab_size=size, max_length=1280)
    cfg = dataclasses.replace(cfg, decoder=decoder)
    save_folder(random_params(abstract(cfg), 0), cfg, words, folder)
    return folder


def first_step(
    data: pathlib.Path, policy: pathlib.Path, workdir: pathlib.Path
) -> tuple[float, int]:
    """Seconds of a run of one step, and the peak of the memory of all its processes in bytes."""
    config = workdir.with_suffix(".py")
    config.write_text(CONFIG)
    flags = {**FLAGS, "data.source": data, "init_from": policy}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "corl_jax.main", f"--config={config}", f"--workdir={workdir}"),
            *(f"--config.{key}={value}" for key, value in flags.items()),
        ],
        # Both runs compile everything, so that neither gains by the other.
        env=os.environ | {"JAX_ENABLE_COMPILATION_CACHE": "false"},
    )
    begin, peak = time.perf_counter(), 0
    while process.poll() is None:
        peak = max(peak, memory_of_tree(process.pid))
        time.sleep(0.1)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - begin, peak


def memory_of_tree(pid: int) -> int:
    """Bytes of a process and its children; what they share counts once (PSS)."""
    total = 0
    for process in (pid, *children(pid)):
        try:
            text = pathlib.Path(f"/proc/{process}/smaps_rollup").read_text()
        except OSError:
            continue
        total += next(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:"))
    return total * 1024


def children(pid: int) -> list[int]:
    """Processes that a process has started."""
    found = []
    for path in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in path.read_text().split()]
        except OSError:
            continue
    return found


def main() -> None:
    """Prints seconds and peaks of both runs."""
    parent = sys.argv[1] if len(sys.argv) > 1 else None
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        folder = pathlib.Path(temporary)
        policy = write_policy(folder / "policy")
        few, many = write_set(folder / "few", 16, 1), write_set(folder / "many", ROWS, FILES)

        seconds, peak = first_step(many, policy, folder / "run_many")
        seconds_few, peak_few = first_step(few, policy, folder / "run_few")
    print(f"{ROWS} rows: {seconds:.1f} s to the end of the first step, peak {peak / 1e9:.2f} GB")
    print(f"16 rows: {seconds_few:.1f} s, peak {peak_few / 1e9:.2f} GB")
    print(f"memory above that of the model: {(peak - peak_few) / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
