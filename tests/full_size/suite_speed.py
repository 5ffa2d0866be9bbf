"""Questions per second of a benchmark at 384 px, and the share of the time spent waiting for input.

    python tests/full_size/suite_speed.py            512 questions about photographs of 640 x 480

A small random Janus with as many image tokens as Janus-Pro answers a made table of VLMEvalKit, whose
pictures are JPEG in base64.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import pathlib
import sys
import tempfile

import numpy as np
from PIL import Image

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

QUESTIONS = 512


def main() -> int:
    """Makes the policy and the table, and evaluates."""
    from helpers import write_byte_tokenizer, write_untrained_policy
    from made_benchmarks import write_tsv

    from corl_jax.bench.workloads import MID
    from corl_jax.commands.cli import main as corl

    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        decoder = dataclasses.replace(MID.decoder, vocab_size=272, depth=2, width=256, heads=4,
                                      kv_heads=4, mlp_dim=512)  # fmt: skip
        cfg = dataclasses.replace(MID, decoder=decoder, gen_head_dim=256)
        policy = write_untrained_policy(cfg, place / "policy", 0, write_byte_tokenizer)
        rows = [
            {
                "index": number,
                "question": f"Which of them is number {number}?",
                "A": "the first",
                "B": "the second",
                "answer": "AB"[number % 2],
                "image": _photograph(number),
            }
            for number in range(QUESTIONS)
        ]
        data = write_tsv(place / "made.tsv", rows)
        flags = ["--completion-length", "8", "--batch-size", "32"]
        return corl(
            ["evaluate", "--policy", str(policy), "--suite", "table", "--data", str(data), "--out",
             str(place / "out"), *flags]
        )  # fmt: skip


def _photograph(number: int) -> str:
    """A JPEG of 640 x 480 in base64: smooth, as photographs are."""
    rng = np.random.default_rng(number)
    small = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
    content = io.BytesIO()
    small.resize((640, 480), Image.Resampling.BICUBIC).save(content, "JPEG", quality=90)
    return base64.b64encode(content.getvalue()).decode()


if __name__ == "__main__":
    sys.exit(main())
