"""A small work directory as a run leaves it, with metrics and completions."""

import json

import numpy as np
from PIL import Image

THOUGHT = "<think> red circle , blue square </think> <answer> two </answer>"
HOSTILE = "<img src=x onerror=alert(1)> ${1+1} {{7*7}}"


def write_run(folder, steps=40, total=100, completion_steps=(20, 40)):
    """Writes ``config.json``, ``metrics.jsonl`` and ``completions/`` into a new folder."""
    folder.mkdir(parents=True)
    config = {"stage": "rl", "init_from": "tiny", "seed": 0, "steps": total}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "metrics.jsonl").write_text(
        "".join(metrics_line(step) for step in range(1, steps + 1))
    )
    for step in completion_steps:
        write_completions(folder, step)
    return folder


def metrics_line(step):
    """A row as the recorder writes it."""
    row = {"step": step, "image/reward": 0.4 + step / 200, "text/reward": 1.0 + step / 100}
    row |= {"image/reward/shapes_soft": 0.6, "image/reward/shapes_strict": 0.2, "time/step": 1.0}
    row |= {"image/kl": None if step == 1 else step / 1000, "alarms": 0.0}
    return json.dumps(row) + "\n"


def write_completions(folder, step, prompts=2, group=4):
    """One file of ``completions/`` with its pictures."""
    place = folder / "completions"
    place.mkdir(exist_ok=True)
    rng = np.random.default_rng(step)
    lines = []
    for prompt in range(prompts):
        for sample in range(group):
            name = f"step_{step:06d}_{prompt}_{sample}.png"
            Image.fromarray(rng.integers(0, 256, (48, 48, 3), np.uint8)).save(place / name)
            common = {"step": step, "record_id": f"r{prompt}", "sample": sample}
            common |= {"reward": 0.25 * sample, "advantage": sample - 1.5}
            lines.append(
                common
                | {"task": "image", "prompt": f"a red circle, number {prompt}", "image": name}
                | {"rewards": {"shapes_soft": 0.5, "shapes_strict": None}}
            )
            lines.append(
                common
                | {"task": "text", "prompt": "how many objects are there?", "prompt_image": name}
                | {"completion": THOUGHT if sample else HOSTILE, "reference_answer": "two"}
                | {"rewards": {"accuracy": 1.0, "format": 0.0}, "truncated": sample == 0}
            )
    lines.sort(key=lambda line: (line["task"], line["record_id"], line["sample"]))
    path = place / f"step_{step:06d}.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
