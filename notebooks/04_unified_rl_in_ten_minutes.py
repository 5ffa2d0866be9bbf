# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Unified reinforcement learning in ten minutes
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/04_unified_rl_in_ten_minutes.ipynb)
#
# One policy learns to draw *and* to answer from the same updates. This is the main job of the package through its real
# door, the command that a cluster runs too; the notebook starts it and looks at the work directory.
#
# Each step samples 8 pictures for each of 8 captions and 8 answers to each of 24 questions, scores them, compares every
# sample with its group, and updates the language model once. What a step does, line by line, is in
# `03_one_grpo_step_by_hand.ipynb`.

# %%
# Installs corl_jax for the accelerator of this machine, unless it is installed already.
import glob
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys

REPOSITORY = "https://github.com/OWNER/corl_jax"  # where there is neither checkout nor wheel


def extra_of_this_machine():
    """The extra with JAX for the TPU or GPU that is here, found without starting JAX."""
    if glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*"):
        return "[tpu]"
    if shutil.which("nvidia-smi") is None:
        return ""
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    driver = subprocess.run(query, capture_output=True, text=True).stdout.partition(".")[0]
    # CUDA 13 needs driver 580. A plug-in of CUDA 12 that is here already is better renewed.
    is_new = driver.isdigit() and int(driver) >= 580
    has_cuda12 = importlib.util.find_spec("jax_cuda12_plugin") is not None
    return "" if not driver.isdigit() else "[cuda]" if is_new and not has_cuda12 else "[cuda12]"


if importlib.util.find_spec("corl_jax") is None:
    extra, wheels = extra_of_this_machine(), sorted(glob.glob("corl_jax*.whl"))
    source = f"corl_jax{extra} @ git+{REPOSITORY}"
    if os.path.isdir("../corl_jax"):
        source = f"{os.path.abspath('..')}{extra}"
    elif wheels:
        source = f"./{wheels[-1]}{extra}"
    pip = [sys.executable, "-m", "pip"]
    subprocess.run([*pip, "install", "-q", source], check=True)
    if "cuda" not in extra:  # Colab has a plug-in for GPUs without one, and of another jax
        plugins = ["jax-cuda12-plugin", "jax-cuda12-pjrt"]
        subprocess.run([*pip, "uninstall", "-q", "-y", *plugins], check=True)
    importlib.invalidate_caches()

# What was in memory before the installation stays there until the runtime starts again.
for name in ("numpy", "jax", "jaxlib", "flax"):
    version = importlib.metadata.version(name)
    if name in sys.modules and sys.modules[name].__version__ != version:
        raise SystemExit(
            f"{name} {version} is installed, but {sys.modules[name].__version__} is in memory: "
            "choose Runtime > Restart session, then Run all."
        )
print(f"corl_jax is installed, with jax {importlib.metadata.version('jax')}; go on")

# %%
import json
import os
import pathlib
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from PIL import Image

# The whole recipe has 200 steps. Half of them, with a quarter of its evaluation, take some minutes on
# two CPU cores or a T4; the time that it took is printed below.
STEPS = int(os.environ.get("CORL_NOTEBOOK_STEPS", 100))
RECORDS = min(128, 8 * STEPS)
WORKDIR = pathlib.Path("runs/ten_minutes")


def run(*command):
    """Runs ``python -m COMMAND`` and shows what it prints."""
    # A process of its own has the accelerator to itself: this notebook never starts JAX.
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for line in process.stdout:
        # Of a progress bar, what it says in the end.
        print(line.decode().rstrip("\r\n").rpartition("\r")[2])
    assert process.wait() == 0, "the command failed; its last line says why"


# %% [markdown]
# ## 1. Train
#
# In a terminal: `python -m corl_jax.main --config=configs/unified.py --workdir=runs/ten_minutes --config.steps=100
# --config.evals.num_records=128`. Every value of the config is such a flag. If the runtime stops, run the cell again: the
# same command goes on where it was.

# %%
started = time.time()
run(
    "corl_jax.main",
    "--config=configs/unified.py",
    f"--workdir={WORKDIR}",
    f"--config.steps={STEPS}",
    f"--config.evals.num_records={RECORDS}",
)
print(
    f"{STEPS} steps with evaluations before and after: {(time.time() - started) / 60:.1f} minutes"
)

# %% [markdown]
# ## 2. Curves
#
# `metrics.jsonl` has a row per step; `docs/metrics.md` explains every column.

# %%
rows = [json.loads(line) for line in (WORKDIR / "metrics.jsonl").read_text().splitlines()]
steps = np.array([row["step"] for row in rows])


def curve(name):
    """A column, and its mean over the last ten steps."""
    values = np.array([row[name] for row in rows])
    return values, np.array([values[max(0, n - 9) : n + 1].mean() for n in range(len(values))])


COLUMNS = {
    "image/reward/shapes_strict": "pictures that show what was asked",
    "text/reward/accuracy": "right answers",
    "text/reward/format": "well-formed answers",
}
figure, panels = plt.subplots(1, 3, figsize=(10, 3), layout="constrained", sharey=True)
for axes, (name, title), colour in zip(
    panels, COLUMNS.items(), ("#3f83f8", "#22a99a", "#e2588b"), strict=True
):
    values, smooth = curve(name)
    axes.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
    axes.plot(steps, smooth, color=colour, linewidth=2)
    axes.set_title(title, fontsize=10)
    axes.set(xlabel="step", ylim=(0, 1.02))
panels[0].set_ylabel("share of the samples of a step")
plt.show()
assert len(rows) == STEPS and all(row["skipped_updates"] == 0 for row in rows)

# %% [markdown]
# Pale: each step, with other prompts every time. Dark: the mean of ten steps.
#
# ## 3. Before and after
#
# The run measured held-out scenes before the first and after the last step. Bars end one standard error above and below.

# %%
evaluation = json.loads((WORKDIR / "eval.json").read_text())
NAMES = {
    "t2i_strict@w=1.5": "pictures, guidance 1.5",
    "t2i_strict@w=2": "pictures, guidance 2",
    "qa_greedy": "answers right (greedy)",
    "qa_sampled_strict": "answers right and well-formed",
    "qa_format": "answers well-formed",
}
figure, axes = plt.subplots(figsize=(7.5, 3.2), layout="constrained")
places = np.arange(len(NAMES))
for moment, offset, colour in (("before", -0.2, "#b8bfc9"), ("after", 0.2, "#3f83f8")):
    values = [100 * evaluation[moment][name]["value"] for name in NAMES]
    errors = [100 * evaluation[moment][name]["stderr"] for name in NAMES]
    bars = axes.barh(places + offset, values, 0.38, xerr=errors, color=colour, label=moment)
    axes.bar_label(bars, [f" {value:.0f}" for value in values], fontsize=9)
axes.set_yticks(places, NAMES.values())
axes.invert_yaxis()
axes.set(xlim=(0, 112), xlabel=f"per cent of {RECORDS} held-out records")
axes.legend(loc="upper right", frameon=False)
plt.show()

# %% [markdown]
# And the pictures themselves: the same held-out captions and the same random keys. Green frames: it shows exactly what was
# asked.

# %%
import base64
import io

CAPTIONS = 4
galleries = {
    moment: json.loads((WORKDIR / "samples" / f"gallery_{moment}.json").read_text())["prompts"]
    for moment in ("before", "after")
}
figure = plt.figure(figsize=(8, 5.4), layout="constrained")
for line, caption_figure in enumerate(figure.subfigures(CAPTIONS, 1)):
    caption_figure.suptitle(galleries["before"][line]["prompt"], fontsize=10)
    panels = caption_figure.subplots(1, 9, width_ratios=[1, 1, 1, 1, 0.3, 1, 1, 1, 1])
    panels[4].axis("off")
    for start, moment in ((0, "before"), (5, "after")):
        for axes, picture in zip(panels[start:], galleries[moment][line]["pictures"], strict=False):
            axes.imshow(Image.open(io.BytesIO(base64.b64decode(picture["png"]))))
            axes.set(xticks=[], yticks=[], xlabel=moment if line == CAPTIONS - 1 else "")
            axes.spines[:].set(color="#22a99a" if picture["right"] else "#dddddd", linewidth=3)
plt.show()

# %% [markdown]
# ## 4. Answers
#
# Some of the held-out questions, sampled at temperature 1 after training. The reasoning inside `<think>` was never rewarded
# by itself, only the answer and the tags.

# %%
answers = json.loads((WORKDIR / "samples" / "answers_after.json").read_text())
for answer in answers[:6]:
    sampled = answer["sampled"]
    verdict = "right" if sampled["right"] else f"wrong, {answer['reference']} is right"
    print(f"{' '.join(answer['question'].split())}\n    {sampled['text']}  ({verdict})")

# %% [markdown]
# ## 5. The report
#
# The run wrote all of this, and more, as one page: `runs/ten_minutes/report.html`. It holds its pictures and needs no
# network, so it can be downloaded and sent around. (Its half megabyte is not kept in the notebook; run the cell to see it.)

# %% tags=["live"]
import html

page = (WORKDIR / "report.html").read_text()
frame = f'<iframe srcdoc="{html.escape(page)}" style="width:100%;height:800px"></iframe>'
display({"text/html": frame}, raw=True)

# %% [markdown]
# | next | |
# |---|---|
# | draw with the result | `corl sample --policy runs/ten_minutes --prompt "two green triangles" --guidance-scale 2 --out pictures` |
# | what was tried for this recipe | `docs/tuning.md` |
# | GRPO's variants by name | `docs/variants.md` |
# | Janus-Pro-1B on one chip | `05_janus_pro_1b_on_one_chip.ipynb` |
# | your own data and reward | `06_own_data_and_own_reward.ipynb` |
