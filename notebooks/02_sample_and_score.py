# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Sample and score
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/02_sample_and_score.ipynb)
#
# Reinforcement learning needs two things of a policy: *samples* that differ, and the *log-prob* of each. And it needs
# *rewards*, numbers that say how good a sample is. Here all three are looked at with the tiny policy that ships with the
# package, before anything is trained.
#
# It takes about a minute on a laptop, most of which is compilation.

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
import jax
import matplotlib.pyplot as plt
import numpy as np

from corl_jax import Policy
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.types import Completion
from corl_jax.data.shapes.examples import example
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

policy = Policy.load("tiny", dtype="float32")
SEED = 0


def show(axes, picture, title="", colour="black"):
    axes.imshow(picture, interpolation="nearest")
    axes.set_title(title, fontsize=9, color=colour)
    axes.axis("off")


# %% [markdown]
# ## 1. A group of samples and their rewards
#
# The samples of one prompt are its *group*. A sample's place in the group is part of its random key, so the same seed gives
# the same pictures. `shapes_strict` is 1 if a picture shows exactly what was asked, `shapes_soft` gives partial credit.

# %%
record = next(
    record
    for record in (example("train", number) for number in range(100))
    if " and " in record.prompt
)
PROMPT = record.prompt
WEIGHTS = {"shapes_strict": 0.5, "shapes_soft": 0.5}


def rewards_of(pictures):
    """Rewards of pictures ``[N, H, W, 3]`` of the prompt: one column each, and their weighted sum."""
    completions = [Completion(record, pixels=picture) for picture in pictures]
    return compute_rewards(completions, WEIGHTS, RewardContext())


group = policy.generate([PROMPT], samples=8, seed=SEED, guidance=2.0, temperature=1.0)[0]
scores = rewards_of(group)
figure, grid = plt.subplots(2, 4, figsize=(8, 4.8), layout="constrained")
figure.suptitle(f'"{PROMPT}"')
for axes, picture, (strict, soft) in zip(grid.flat, group, scores.matrix, strict=True):
    colour = "#158a7d" if strict else "#b8336a"
    show(axes, picture, f"strict {strict:.0f}, soft {soft:.2f}", colour)
plt.show()
print("rewards:", np.round(scores.total, 2))
again = policy.generate([PROMPT], samples=8, seed=SEED, guidance=2.0, temperature=1.0)[0]
assert np.array_equal(group, again)

# %% [markdown]
# ## 2. Guidance and temperature
#
# The *guidance scale* `w` exaggerates the words: logits are `u + w (c - u)`, with and without the words of the prompt. The
# *temperature* flattens the distribution. Both trade variety for obedience, at different prices. One sample each:

# %%
GUIDANCE, TEMPERATURE = (1.0, 1.5, 2.0, 4.0), (0.0, 0.5, 1.0, 1.5)
SAMPLES = 8
several = [record, *(example("train", number) for number in range(100, 107))]
means, distinct, sheets = np.zeros((4, 4)), np.zeros((4, 4)), {}
for i, temperature in enumerate(TEMPERATURE):
    for j, guidance in enumerate(GUIDANCE):
        options = {"guidance": guidance, "temperature": temperature, "seed": SEED}
        prompts = [one.prompt for one in several]
        sheets[i, j] = policy.generate(prompts, samples=SAMPLES, **options)
        completions = [
            Completion(one, pixels=picture)
            for one, pictures in zip(several, sheets[i, j], strict=True)
            for picture in pictures
        ]
        means[i, j] = compute_rewards(completions, WEIGHTS, RewardContext()).total.mean()
        sets = [{picture.tobytes() for picture in pictures} for pictures in sheets[i, j]]
        distinct[i, j] = np.mean([len(different) for different in sets])

figure, grid = plt.subplots(4, 4, figsize=(6.4, 7), layout="constrained")
figure.suptitle("columns: guidance scale; rows: temperature")
for (i, j), pictures in sheets.items():
    show(grid[i, j], pictures[0, 0], f"w {GUIDANCE[j]:g}, t {TEMPERATURE[i]:g}")
plt.show()

# %% [markdown]
# And the mean reward in each place, over eight samples of each of eight captions. At temperature 0 all samples are equal: the group has nothing to compare,
# and reinforcement learning nothing to learn.

# %%
figure, axes = plt.subplots(figsize=(5.2, 3.8), layout="constrained")
image = axes.imshow(means, cmap="viridis")
for (i, j), value in np.ndenumerate(means):
    colour = "black" if value > (means.max() + means.min()) / 2 else "white"
    text = f"{value:.2f}\n{distinct[i, j]:.1f} of {SAMPLES}"
    axes.text(j, i, text, ha="center", va="center", color=colour, fontsize=9)
axes.set_xticks(range(4), GUIDANCE)
axes.set_yticks(range(4), TEMPERATURE)
axes.set(xlabel="guidance scale", ylabel="temperature")
axes.set_title("mean reward, and different samples of a caption", fontsize=10)
figure.colorbar(image, shrink=0.8)
plt.show()
assert np.all(distinct[0] == 1) and distinct[2, 0] > SAMPLES / 2

# %% [markdown]
# ## 3. Answers
#
# The same policy answers questions about a picture. `accuracy` reads what is inside the answer tags, `format` the tags.

# %%
QUESTIONS, ANSWERS = 24, 8
records = [example("train", number) for number in range(QUESTIONS)]
task = VisualQA(policy.tokenizer, policy.cfg.image_tokens, policy.cfg.image_size)
batch = task.make_prompts(records)
keys = sample_keys(stream(SEED, "text"), QUESTIONS * ANSWERS).reshape(QUESTIONS, ANSWERS)
text_sampling = policy.fns.sampling_params("text", temperature=1.0)
answers = policy.fns.sample_text(policy.params, batch.prompts, keys, text_sampling, 18)
completions = task.to_completions(batch, answers)
scored = compute_rewards(completions, {"accuracy": 1.0, "format": 1.0}, RewardContext())
accuracy = scored.matrix[:, 0].reshape(QUESTIONS, ANSWERS)

row = int(np.argmin(np.abs(accuracy.mean(1) - 0.5)))
figure, axes = plt.subplots(figsize=(2.2, 2.4), layout="constrained")
show(axes, records[row].image)
plt.show()
print(
    f"{records[row].question}  reference answer: {records[row].answer}\n\naccuracy format  answer"
)
for n in range(row * ANSWERS, (row + 1) * ANSWERS):
    right, formed = scored.matrix[n]
    print(f"{right:8.0f} {formed:6.0f}  {completions[n].text}")
assert 0 < accuracy.mean() < 1

# %% [markdown]
# ## 4. Does the loss see what the sampler did?
#
# The sampler wrote down the log-prob of every token, one token at a time, from a cache. The loss computes it again in one
# pass over all tokens. Both must be the same number for the same token. If they are not, the update changes a distribution
# that nothing was sampled from, and nothing else in a run shows it. `corl doctor` is this check for any policy.

# %%
image_task = TextToImage(policy.tokenizer)
image_batch = image_task.make_prompts(records)
keys = sample_keys(stream(SEED, "image"), QUESTIONS * 4).reshape(QUESTIONS, 4)
sampling = policy.fns.sampling_params("image", guidance=2.0, temperature=1.0)
with jax.default_matmul_precision("highest"):
    pictures = policy.fns.sample_images(policy.params, image_batch.prompts, keys, sampling)

    def log_probs(rollout, prompts, params, guided):
        options = LogProbOptions(guided=guided)
        return policy.fns.log_probs(policy.params, prompts, rollout, params, options)

    forced = {
        "pictures": log_probs(pictures, image_batch.prompts, sampling, guided=True),
        "answers": log_probs(answers, batch.prompts, text_sampling, guided=False),
        "pictures, guidance forgotten": log_probs(
            pictures, image_batch.prompts, policy.fns.sampling_params("image"), guided=False
        ),
    }

figure, panels = plt.subplots(1, 3, figsize=(9.5, 3.5), layout="constrained")
gaps = {}
for axes, (name, values) in zip(panels, forced.items(), strict=True):
    rollout = answers if name == "answers" else pictures
    mask = np.asarray(rollout.mask)
    sampled, computed = np.asarray(rollout.log_probs)[mask], np.asarray(values)[mask]
    gaps[name] = float(np.abs(sampled - computed).max())
    axes.scatter(sampled, computed, s=5, color="#3f83f8", alpha=0.4, linewidths=0)
    axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
    axes.set(xlabel="log-prob, sampler", ylabel="log-prob, teacher-forced")
    axes.set_title(f"{name}\nlargest gap {gaps[name]:.2g} nats", fontsize=10)
plt.show()
assert gaps["pictures"] < 1e-3 and gaps["answers"] < 1e-3
assert gaps["pictures, guidance forgotten"] > 0.1

# %% [markdown]
# Left and middle: every token on the diagonal. Right: the same samples, with log-probs that forget the guidance which the
# sampler used. Public code for image policies has made this mistake.
#
# | here | elsewhere |
# |---|---|
# | `policy.generate` | `corl sample --policy tiny --prompt "two green triangles" --n 4 --guidance-scale 2 --out pictures` |
# | `policy.answer` | `corl ask --policy tiny --image PICTURE.png --question "what colour is the circle?"` |
# | rewards of a file | `corl score --records records.jsonl --rewards pixel,format --out scores.json` |
# | section 4 | `corl doctor --policy tiny` |
# | all rewards by name | `docs/rewards.md` |
# | next | `03_one_grpo_step_by_hand.ipynb`: an update from such samples |
