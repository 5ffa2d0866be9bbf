# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Janus-Pro-1B on one chip
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/05_janus_pro_1b_on_one_chip.ipynb)
#
# Reinforcement learning of a model with two billion parameters on the single chip that Colab or Kaggle lends: a TPU v5e, an L4
# or an A100. The base stays frozen in bfloat16, and *adapters* (LoRA) of rank 32 are trained.
#
# One switch decides what the cells work on. `DRY = False`: Janus-Pro-1B and the paper's records, 4 GB and 7 GB of downloads.
# `DRY = True`: a small random policy with the same modules and files, and records made here. It shows that everything is
# connected, takes about two minutes on two CPU cores, and learns nothing. By default the chip decides.

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
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw

from corl_jax.configs import unified
from corl_jax.models.janus.config import JANUS_PRO_1B

# Asked in a process of its own: the commands below need the chip, which one process can hold.
PROBE = """
import jax
device = jax.devices()[0]
stats = {} if device.platform == "cpu" else device.memory_stats()
print(device.device_kind, "|", stats.get("bytes_limit", 0) / 2**30)
"""
output = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True, check=True)
CHIP, _, memory = output.stdout.strip().splitlines()[-1].rpartition("|")
GIB = float(memory)

# THE SWITCH. Adapters of Janus-Pro-1B need 12 to 14 GiB that JAX may use.
DRY = GIB < 14
print(f"{CHIP.strip()}, {GIB:.1f} GiB for JAX: {'the dry form' if DRY else 'Janus-Pro-1B itself'}")

# %% [markdown]
# ## 1. Does it fit?
#
# `corl plan` compiles the programs of a step for a chip that need not be there, and adds up what lies in its memory. Compiling
# takes from 3 minutes (a GPU) to half an hour (a TPU) of two CPU cores, so its figures are repeated here from
# `docs/planning.md` (9da7fa1 and 23b7602, 2026-11-27):
#
# `corl plan --config=configs/unified.py:janus_pro_1b,lora=32,mesh=v5e-1 --topology=v5e:1x1`


# %%
@dataclasses.dataclass(frozen=True)
class Plan:
    """Peak and usable memory in GiB; seconds of a step at the chip's peak rates, by phase."""

    chip: str
    argument: str
    peak: float
    usable: float
    seconds: tuple[float, float, float, float]


PLANS = (
    Plan("TPU v5e", "janus_pro_1b,lora=32,mesh=v5e-1", 12.1, 16.0, (3.50, 3.12, 1.66, 0.35)),
    Plan("L4", "janus_pro_1b,lora=32,mesh=l4x1", 14.2, 16.5, (9.98, 9.72, 7.06, 1.00)),
    Plan(
        "A100, 40 GB", "janus_pro_1b,lora=32,mesh=a100_40x1", 24.1, 29.6, (4.79, 4.29, 5.01, 0.76)
    ),
    Plan("A100, 80 GB", "janus_pro_1b,lora=32", 43.2, 59.4, (6.52, 5.66, 7.42, 1.15)),
    Plan("H100", "janus_pro_1b,lora=32", 43.2, 59.3, (4.00, 3.54, 4.57, 0.71)),
)
PHASES = ("pictures", "answers", "update", "rewards")
COLOURS = ("#3f83f8", "#22a99a", "#e2588b", "#b8bfc9")

figure, axes = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
names = [plan.chip for plan in PLANS]
axes.barh(names, [plan.usable for plan in PLANS], color="#e4e7ec", label="what JAX may use")
bars = axes.barh(names, [plan.peak for plan in PLANS], 0.5, color="#3f83f8", label="peak of a step")
axes.bar_label(bars, [f" {plan.peak:g}" for plan in PLANS], fontsize=9)
axes.invert_yaxis()
axes.set_xlabel("GiB")
axes.legend(frameon=False)
plt.show()
assert all(plan.peak < plan.usable for plan in PLANS)

# %% [markdown]
# The name of the mesh sets a batch that fits. Smaller chips take fewer prompts per step and more steps, so that a run still
# passes once through its records:

# %%
print(
    f"{'chip':12} {'prompts':>7} {'questions':>9} {'samples':>7} {'micro-batches':>13} {'steps':>6}"
)
for plan in PLANS:
    config = unified.get_config(plan.argument)
    rollout = config.rl.rollout
    print(
        f"{plan.chip:12} {rollout.image_prompts:7} {rollout.text_prompts:9} "
        f"{rollout.group_size:7} {config.microbatches:13} {config.steps:6}"
    )

decoder, rank = JANUS_PRO_1B.decoder, 32
attention = 4 * (decoder.width + decoder.heads * decoder.head_size)
adapters = decoder.depth * rank * (attention + 3 * (decoder.width + decoder.mlp_dim))
print(f"\nadapters of rank {rank}: {adapters / 1e6:.1f} M parameters are trained")

# %% [markdown]
# And the seconds of such a step if a chip reached its peak rates: a bound, no forecast. Divide by the prompts above to compare
# chips.

# %%
figure, axes = plt.subplots(figsize=(7.5, 2.8), layout="constrained")
left = np.zeros(len(PLANS))
for n, (phase, colour) in enumerate(zip(PHASES, COLOURS, strict=True)):
    values = np.array([plan.seconds[n] for plan in PLANS])
    axes.barh(names, values, left=left, color=colour, label=phase)
    left += values
axes.invert_yaxis()
axes.set_xlabel("seconds of a step, at least")
axes.legend(ncols=4, frameon=False, loc="lower right", bbox_to_anchor=(1, 1))
plt.show()

# %% [markdown]
# ## 2. Policy and records


# %%
def run(*command):
    """Runs ``python -m COMMAND`` and shows what it prints."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    for line in process.stdout:
        print(line.decode().rstrip("\r\n").rpartition("\r")[2])
    assert process.wait() == 0, "the command failed; its last line says why"


CORL = "corl_jax.commands.cli"
FOLDER = pathlib.Path("runs/janus_on_one_chip")
POLICY, SOURCE = "deepseek-community/Janus-Pro-1B", "x2x_rft_22k"
PROMPT = "a red square above a blue circle"

if DRY:
    POLICY, SOURCE = str(FOLDER / "small_janus"), str(FOLDER / "records.jsonl")
    if not pathlib.Path(POLICY).exists():
        run(CORL, "init", f"--out={POLICY}", "--size=tiny")

    # Sixteen pictures of a square and a circle, each with a caption and a question.
    rows = []
    for n, (square, circle) in enumerate(
        (a, b)
        for a in ("red", "green", "blue", "orange")
        for b in ("red", "green", "blue", "orange")
    ):
        picture = Image.new("RGB", (96, 96), "white")
        draw = ImageDraw.Draw(picture)
        draw.rectangle((30, 8, 66, 44), fill=square)
        draw.ellipse((30, 52, 66, 88), fill=circle)
        picture.save(FOLDER / f"{n}.png")
        rows.append(
            {
                "prompt": f"a {square} square above a {circle} circle",
                "real_image": f"{n}.png",
                "qa_problem": "What colour is the circle?",
                "qa_solution": f"<answer>{circle}</answer>",
            }
        )
    pathlib.Path(SOURCE).write_text("\n".join(map(json.dumps, rows)) + "\n")
print(f"policy {POLICY}, records {SOURCE}")

# %% [markdown]
# The files of the folder are those of the release in transformers' layout, so everything below is what it is at full size:

# %%
run(CORL, "inspect", f"--policy={POLICY}")

# %% [markdown]
# ## 3. Draw before training

# %%
GUIDANCE = 5


def draw(policy, name):
    """Four pictures of a policy."""
    out = FOLDER / name
    flags = [f"--policy={policy}", f"--prompt={PROMPT}", "--n=4", f"--out={out}"]
    run(CORL, "sample", *flags, f"--guidance-scale={GUIDANCE}")
    pictures = [Image.open(path) for path in sorted(out.glob("*.png"))]
    figure, panels = plt.subplots(1, len(pictures), figsize=(9, 2.6), layout="constrained")
    noise = ", which is noise: the policy is random" if DRY else ""
    figure.suptitle(f'"{PROMPT}"{noise}', fontsize=10)
    for axes, picture in zip(panels, pictures, strict=True):
        axes.imshow(picture)
        axes.axis("off")
    plt.show()


draw(POLICY, "before")

# %% [markdown]
# ## 4. Train the adapters
#
# CoRL's Stage I with rewards that need no parser: cycle consistency (BLIP describes the picture, BERT compares the description
# with the prompt, SSIM the picture with the real one), matching by the policy itself, and right and well-formed answers. In
# the dry form the reward models are random, too. The paper takes an epoch; `STEPS` is enough to see that it runs, and the same
# command with more steps goes on in a new work directory.

# %%
STEPS = int(os.environ.get("CORL_NOTEBOOK_STEPS", 3 if DRY else 50))
MESH = "auto" if GIB > 40 else "a100_40x1" if GIB > 20 else "v5e-1" if "TPU" in CHIP else "l4x1"
WORKDIR = FOLDER / "run"

flags = [
    f"--config=configs/unified.py:janus_pro_1b,lora=32,mesh={'l4x1' if DRY else MESH}",
    f"--workdir={WORKDIR}",
    f"--config.init_from={POLICY}",
    f"--config.data.source={SOURCE}",
    f"--config.steps={STEPS}",
    "--config.rewards.options.image_distance=ssim",
    "--config.evals.num_records=4",
]
if DRY:
    flags += [
        "--config.model.size=tiny",  # the size of the folder counts
        "--config.data.held_out=0.3",
        "--config.rl.rollout.text_prompt_length=128",
        "--config.rl.rollout.completion_length=16",
        "--config.rl.log_probs.chunk_length=0",
        "--config.rewards.options.models.captioner=tiny",
        "--config.rewards.options.models.bert=tiny",
    ]
run("corl_jax.main", *flags)

# %%
rows = [json.loads(line) for line in (WORKDIR / "metrics.jsonl").read_text().splitlines()]
figure, panels = plt.subplots(1, 2, figsize=(8, 2.8), layout="constrained")
for axes, task, colour in zip(panels, ("image", "text"), COLOURS, strict=False):
    axes.plot(
        [row["step"] for row in rows], [row[f"{task}/reward"] for row in rows], "o-", color=colour
    )
    axes.set(xlabel="step", ylabel="mean reward", title=task)
    axes.set_xticks([row["step"] for row in rows][:: max(1, STEPS // 8)])
plt.show()
print("seconds of the last step, by phase:")
for name, value in rows[-1].items():
    if name.startswith("time/"):
        print(f"  {name.removeprefix('time/'):16} {value:.2f}")
assert len(rows) == STEPS and all(np.isfinite(row["loss"]) for row in rows)

# %% [markdown]
# `image/reward` is that of a new prompt at every step, so a curve needs dozens of steps before it says anything.
#
# ## 5. Export
#
# A folder for `transformers`, with the adapters merged into their kernels. `corl export --help` has the other layouts.

# %%
run(CORL, "export", f"--policy={WORKDIR}", f"--out={FOLDER / 'exported'}", "--dtype=bfloat16")
for path in sorted((FOLDER / "exported").iterdir()):
    print(f"{path.stat().st_size / 1e6:8.2f} MB  {path.name}")

# %%
draw(FOLDER / "exported", "after")

# %% [markdown]
# | next | |
# |---|---|
# | how the batch was found, other chips and slices | `docs/planning.md` |
# | what adapters change | `docs/lora.md` |
# | rewards and the models that they need | `docs/rewards.md` |
# | your own data and reward | `06_own_data_and_own_reward.ipynb` |
