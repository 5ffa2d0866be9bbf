"""A finished run in a folder, for tests of its report."""

from __future__ import annotations

import json
import math

import numpy as np
from PIL import Image

from corl_jax.engine.grid_files import png_bytes
from corl_jax.engine.image_grid import image_grid
from corl_jax.evals.gallery import png_base64

ALARM = {"watch": ("*/reward",), "patience": 2, "dominant_share": 0.95, "diverging_probes": 3}
EVIL = "<script>alert('x')</script>&\""


def estimate(value):
    return {"value": value, "stderr": 0.02, "n": 512}


def write_run(folder):
    """A finished run, with hostile text wherever text can be; returns the folder."""
    config = {
        "stage": "rl",
        "seed": 0,
        "steps": 40,
        "init_from": "tiny",
        "note": EVIL,
        "alarms": ALARM,
    }
    (folder / "config.json").write_text(json.dumps(config))
    write_evaluation(folder / "eval.json")

    rows = [
        {"step": step, "image/reward": math.sin(step), "text/kl": step / 40, "strange": None}
        for step in range(1, 41)
    ]
    rows[5]["eval/odd"] = 1.0
    # The last line is still being written.
    lines = "".join(json.dumps(row) + "\n" for row in rows) + '{"step": 41, "ima'
    (folder / "metrics.jsonl").write_text(lines)

    (folder / "samples").mkdir()
    # A sheet of an older run, and one with captions and rewards.
    Image.new("RGB", (8, 8)).save(folder / "samples" / "step_000025_rollout.png")
    grid = image_grid(
        np.zeros((3, 4, 4, 3), np.uint8), [EVIL, EVIL, "b"], 2, 9, ["0.25", EVIL, "1"]
    )
    (folder / "samples" / "step_000030_rollout.png").write_bytes(png_bytes(grid))
    for side in ("before", "after"):
        write_samples(folder / "samples", side)
    return folder


def write_evaluation(path):
    """``eval.json`` of a finished run."""
    names = (
        "t2i_strict@w=1.5",
        "t2i_strict@w=2",
        "qa_greedy",
        "qa_sampled_strict",
        "qa_format",
        f"qa_greedy/{EVIL}",
    )
    evals = {
        side: {name: estimate(value) for name in names}
        for side, value in {"before": 0.3, "after": 0.5}.items()
    }
    evals["before"]["t2i_strict@w=1.5"] = estimate(0.41)
    evals["after"]["qa_greedy"] = estimate(0.33)
    evals["run"] = {
        "command": EVIL,
        "date": "2026-01-01",
        "machine": EVIL,
        "versions": {"jax": "1"},
        "seconds": 90.0,
    }
    path.write_text(json.dumps(evals | {"guidance": 2.0}))


def write_samples(folder, side):
    """A gallery and a transcript with one entry each."""
    png = png_base64(np.zeros((4, 4, 3), np.uint8))
    gallery = {
        "guidance": 2.0,
        "prompts": [{"id": "1", "prompt": EVIL, "pictures": [{"png": png, "right": True}]}],
    }
    answer = {"text": f"<think> {EVIL} </think>", "right": True, "well_formed": False}
    question = {
        "id": "1",
        "question": f"{EVIL}\nA. one",
        "reference": EVIL,
        "qa_type": "OE",
        "choices": [],
        "kind": EVIL,
        "png": png,
        "greedy": answer,
        "sampled": answer,
    }
    (folder / f"gallery_{side}.json").write_text(json.dumps(gallery))
    (folder / f"answers_{side}.json").write_text(json.dumps([question]))
