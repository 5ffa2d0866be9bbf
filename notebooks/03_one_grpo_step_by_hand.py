# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # One GRPO step by hand
#
# [![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/OWNER/corl_jax/blob/main/notebooks/03_one_grpo_step_by_hand.ipynb)
#
# A *unified* model does two things with one set of weights: it generates an image from a text, and it answers a
# question about an image. Here a tiny one, which ships with this package, takes a single step of reinforcement
# learning on both tasks at once. No trainer is involved: every number is computed in front of you.
#
# An image is a short sequence of *image tokens*. They are sampled one after the other, like the words of a sentence,
# and then decoded to pixels. If you know how a language model writes text, you know how this model generates images.
#
# 1. **Prompt** the policy for images and for answers.
# 2. **Sample** a group of completions for each prompt. All of them together are the *rollout*.
# 3. **Score** every completion with rules. There is no right output to imitate, only a *reward* that says how good the
#    completion is.
# 4. **Compare** each completion with the others of its group. This is the *group relative* in GRPO. The result is the
#    *advantage*.
# 5. **Differentiate** the log-prob of the completions, weighted by their advantages.
# 6. **Update** the weights, and look at what changed.
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
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from corl_jax import Policy
from corl_jax.core.rng import sample_keys, stream
from corl_jax.core.trees import count, partition
from corl_jax.data.shapes.examples import example
from corl_jax.objectives import kl, normalizations
from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.objectives.token_weights import token_weights
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.sampling.log_probs import LogProbOptions
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

# Full float32 on every chip, so that log-probs can be compared closely.
jax.config.update("jax_default_matmul_precision", "highest")
SEED, PROMPTS, GROUP_SIZE, GUIDANCE_SCALE, TEMPERATURE, ANSWER_LENGTH = 0, 16, 8, 2.0, 1.0, 18
TASKS = ("image", "text")

policy = Policy.load("tiny", dtype="float32")
fns = policy.fns  # the compiled programs of the policy; parameters are their first argument
print(f"{count(policy.params):,} parameters; an image is {policy.cfg.image_tokens} tokens")

# %% [markdown]
# ## 1. Prompt
#
# A *record* is a caption, the image that it describes, and a question about that image with its answer. Each record
# gives two prompts: one for the `image` task ("generate an image of this caption"), one for the `text` task ("here is
# the image, answer the question").

# %%
records = [example("train", number) for number in range(PROMPTS)]
tasks = {
    "image": TextToImage(policy.tokenizer),
    "text": VisualQA(policy.tokenizer, policy.cfg.image_tokens, policy.cfg.image_size),
}
prompt_batches = {task: tasks[task].make_prompts(records) for task in TASKS}
for record in records[:3]:
    print(f"image: {record.prompt}\n text: {record.question!r}, reference answer {record.answer!r}")

# %% [markdown]
# ## 2. Sample
#
# Eight completions per prompt, each with its own random key. Temperature 1 means that we sample from the model's own
# distribution. A greedy model would give eight equal completions, and there would be nothing to compare.
#
# Images are sampled with *classifier-free guidance*. For every image token the model computes logits twice: with the
# words of the prompt (conditional, $c$) and without them (unconditional, $u$). The token is sampled from
# $u + w\,(c - u)$. With the guidance scale $w = 2$ the effect of the words is doubled. Remember this for section 5.

# %%
sampling = {
    "image": fns.sampling_params("image", guidance=GUIDANCE_SCALE, temperature=TEMPERATURE),
    "text": fns.sampling_params("text", temperature=TEMPERATURE),
}
keys = {
    task: sample_keys(stream(SEED, task), PROMPTS * GROUP_SIZE).reshape(PROMPTS, GROUP_SIZE)
    for task in TASKS
}
image_prompts, text_prompts = (prompt_batches[task].prompts for task in TASKS)
rollouts = {
    "image": fns.sample_images(policy.params, image_prompts, keys["image"], sampling["image"]),
    "text": fns.sample_text(
        policy.params, text_prompts, keys["text"], sampling["text"], ANSWER_LENGTH
    ),
}
for task, rollout in rollouts.items():
    shape = rollout.tokens.shape
    print(f"{task}: tokens {shape} [prompts, group, length], log-probs {rollout.log_probs.shape}")

# %% [markdown]
# ## 3. Score
#
# The world of coloured shapes is simple enough for exact rules. For images, `shapes_strict` is 1 if the image shows
# exactly what the caption says and 0 if not; `shapes_soft` gives partial credit. For answers, `accuracy` is 1 if the
# answer is right, and `format` is 1 if the reasoning and the answer are in their tags. The reward of a completion is a
# weighted sum of them.

# %%
reward_weights = {
    "image": {"shapes_strict": 0.5, "shapes_soft": 0.5},
    "text": {"accuracy": 1.0, "format": 1.0},
}
completions = {
    task: tasks[task].to_completions(prompt_batches[task], rollouts[task]) for task in TASKS
}
named_rewards = {
    task: compute_rewards(completions[task], reward_weights[task], RewardContext())
    for task in TASKS
}
rewards = {task: named_rewards[task].total.reshape(PROMPTS, GROUP_SIZE) for task in TASKS}
reward_std = {task: rewards[task].std(1) for task in TASKS}
for task in TASKS:
    zero_std_groups = int((np.ptp(rewards[task], 1) == 0).sum())
    print(
        f"{task}: mean reward {rewards[task].mean():.2f}; "
        f"{zero_std_groups} of {PROMPTS} groups have eight equal rewards"
    )

# %% [markdown]
# A group whose rewards are all equal teaches nothing. We continue with one record, the one whose rewards differ most in
# both tasks.

# %%
relative_std = {task: reward_std[task] / reward_std[task].max() for task in TASKS}
row = int(np.argmax(np.minimum(relative_std["image"], relative_std["text"])))
assert reward_std["image"][row] > 0 and reward_std["text"][row] > 0, (
    "no record with different rewards in both tasks: raise PROMPTS"
)


def select_row(tree):
    return jax.tree.map(lambda leaf: leaf[row : row + 1], tree)


record = records[row]
prompts = {task: select_row(prompt_batches[task].prompts) for task in TASKS}
rollouts = {task: select_row(rollouts[task]) for task in TASKS}
group = slice(row * GROUP_SIZE, (row + 1) * GROUP_SIZE)
answers = [completion.text for completion in completions["text"][group]]
reward_parts = {task: named_rewards[task].matrix[group] for task in TASKS}
rewards = {task: rewards[task][row] for task in TASKS}

images = np.asarray(rollouts["image"].pixels[0])
figure, grid = plt.subplots(2, GROUP_SIZE // 2, figsize=(9, 5.4), layout="constrained")
figure.suptitle(f'"{record.prompt}"')
for axes, image, (strict, soft) in zip(grid.flat, images, reward_parts["image"], strict=True):
    axes.imshow(image)
    axes.set_title(f"strict {strict:.0f}, soft {soft:.2f}", fontsize=10)
    axes.axis("off")
plt.show()

# %%
figure, axes = plt.subplots(figsize=(2.2, 2.2), layout="constrained")
axes.imshow(record.image)
axes.axis("off")
plt.show()
print(f"{record.question}\nreference answer: {record.answer}\n\naccuracy format  answer")
for (accuracy, well_formed), answer in zip(reward_parts["text"], answers, strict=True):
    print(f"{accuracy:8.0f} {well_formed:6.0f}  {answer}")

# %% [markdown]
# ## 4. Compare
#
# Is a reward of 0.5 good? That depends on the prompt, since some are easy. So each completion is compared with its own
# group: $A_i = (r_i - \bar r) / (\mathrm{std}(r) + 10^{-4})$. The *advantage* $A_i$ is positive for completions better
# than the average of the group and negative for worse ones. The advantages of a group sum to zero. No second network
# has to estimate how good an average completion would be, because the group shows it.


# %%
def group_advantages(group_rewards):
    centred = group_rewards - group_rewards.mean()
    return centred / (group_rewards.std(ddof=1) + 1e-4)


advantage = {task: group_advantages(rewards[task]) for task in TASKS}
for task in TASKS:
    print(f"{task}: rewards {np.round(rewards[task], 2)}")
    print(f"  advantages {np.round(advantage[task], 2)}")
    by_library = normalizations.normalizations["group"](jnp.asarray(rewards[task])[None])[0]
    np.testing.assert_allclose(advantage[task], by_library, atol=1e-5)
    assert abs(advantage[task].sum()) < 1e-4

# %% [markdown]
# ## 5. Differentiate
#
# ### Log-probs by teacher forcing
#
# The sampler stored the log-prob of each token as it sampled it. For a gradient we need the same numbers as a function
# of the weights. So the model reads prompt and completion in one pass, as in ordinary training. The result must agree
# with the sampler. Otherwise we would differentiate the log-probs of another distribution than the one that was
# sampled. For images this means: with guidance.

# %%
options = {"image": LogProbOptions(guided=True), "text": LogProbOptions()}


def log_probs_of(params, task):
    return fns.log_probs(params, prompts[task], rollouts[task], sampling[task], options[task])


ref_log_probs = {task: log_probs_of(policy.params, task) for task in TASKS}
without_guidance = fns.log_probs(
    policy.params,
    prompts["image"],
    rollouts["image"],
    fns.sampling_params("image"),
    LogProbOptions(),
)
sampler_log_probs = rollouts["image"].log_probs

figure, panels = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
for axes, log_probs, title in (
    (panels[0], ref_log_probs["image"], "with guidance"),
    (panels[1], without_guidance, "without guidance"),
):
    axes.scatter(sampler_log_probs.ravel(), log_probs.ravel(), s=6, color="#3f83f8")
    axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
    axes.set(title=title, xlabel="log-prob, sampler")
panels[0].set_ylabel("log-prob, teacher forcing")
plt.show()

largest_difference = {}
for task in TASKS:
    difference = jnp.abs(ref_log_probs[task] - rollouts[task].log_probs)
    largest_difference[task] = float(jnp.max(jnp.where(rollouts[task].mask, difference, 0)))
print(
    f"largest difference, images: {largest_difference['image']:.1e}; "
    f"answers: {largest_difference['text']:.1e}"
)
ratio = jnp.exp(without_guidance - sampler_log_probs)
print(
    f"without guidance: tokens look {ratio.min():.3f} to {ratio.max():.1f} times "
    "as likely as they were"
)
assert max(largest_difference.values()) < 1e-3
assert float(jnp.max(jnp.abs(without_guidance - sampler_log_probs))) > 0.1

# %% [markdown]
# In the right plot the log-probs are computed without guidance. Nothing was trained yet, and still the tokens look as
# if another policy had sampled them. An update from such numbers would change a distribution that nothing was sampled
# from.
#
# ### The loss
#
# Let $\rho = \pi / \pi_\text{old}$ be the ratio of the probability of a token now to its probability when it was
# sampled, and $\pi_\text{ref}$ the *reference policy*, here the frozen start. The loss of a token is
#
# $$\ell = -\rho\,A + \beta\,\Big(\frac{\pi_\text{ref}}{\pi} - \log\frac{\pi_\text{ref}}{\pi} - 1\Big)$$
#
# The first term makes the tokens of good completions more likely and those of bad ones less likely. The second term is
# an estimate of the KL divergence, known as k3. It keeps the policy close to the start. Every completion has the same
# weight, and every token has the same weight within its completion; tokens after the end of an answer have weight 0.
# (PPO also clips $\rho$. With one update per rollout the policy *is* the old policy, so $\rho$ is 1 and clipping does
# nothing. The gradient of $\rho$ is not zero, though.)

# %%
BETA = 0.01
trainable, frozen = partition(policy.params, ("language_model/*",))
weights = {}
for task in TASKS:
    completion_mask = rollouts[task].mask
    weights[task] = completion_mask / completion_mask.sum(-1, keepdims=True) / GROUP_SIZE


def token_loss(log_probs, task):
    ratio = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
    log_ratio = ref_log_probs[task] - log_probs
    k3 = jnp.exp(log_ratio) - log_ratio - 1
    per_token = -ratio * advantage[task][None, :, None] + BETA * k3
    return jnp.sum(jnp.where(rollouts[task].mask, per_token, 0) * weights[task])


def loss(trainable):
    return sum(token_loss(log_probs_of(trainable | frozen, task), task) for task in TASKS)


def library_token_loss(log_probs, task):
    per_sample = jnp.asarray(advantage[task])[None, :, None]
    per_token, _, _ = clipped_surrogate(
        log_probs, None, per_sample, clip="ppo", epsilon_low=0.2, epsilon_high=0.2
    )
    per_token += BETA * kl.k3(log_probs, ref_log_probs[task])
    mask = rollouts[task].mask
    return jnp.sum(jnp.where(mask, per_token, 0) * token_weights(mask, aggregation="sequence_mean"))


# %% [markdown]
# Before we differentiate through the network, look at the gradient with respect to the log-probs alone. It is minus
# advantage times weight: GRPO is maximum likelihood on the model's own samples, where the bad ones have a negative
# weight. The KL term has no gradient yet, since the policy is still the reference policy.

# %%
for task in TASKS:
    by_hand = jax.grad(token_loss)(ref_log_probs[task], task)
    by_library = jax.grad(library_token_loss)(ref_log_probs[task], task)
    np.testing.assert_allclose(by_hand, by_library, atol=1e-7)
    np.testing.assert_allclose(by_hand, -advantage[task][None, :, None] * weights[task], atol=1e-6)

value, gradient = jax.jit(jax.value_and_grad(loss))(trainable)
grad_norm = float(optax.global_norm(gradient))
print(f"loss {float(value):+.1e}, norm of its gradient {grad_norm:.3f}")
assert abs(float(value)) < 1e-4 and grad_norm > 1e-3

# %% [markdown]
# The loss is 0. At this point it always is, because the advantages of a group sum to zero. In GRPO the value of the
# loss says nothing about progress; watch the reward instead.
#
# ## 6. Update
#
# One step of AdamW on the language model; the image tokenizer and the vision tower stay frozen. Adam's first step moves
# every weight by about the learning rate, so even a small learning rate has a visible effect. For this reason training
# warms up its learning rate.

# %%
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(5e-5, b2=0.95, weight_decay=0.0)
)
updates, _ = optimizer.update(gradient, optimizer.init(trainable), trainable)
params = optax.apply_updates(trainable, updates) | frozen

new_log_probs = {task: log_probs_of(params, task) for task in TASKS}
change = {}  # of the log-prob of every completion
for task in TASKS:
    difference = jnp.where(rollouts[task].mask, new_log_probs[task] - ref_log_probs[task], 0)
    change[task] = np.asarray(jnp.sum(difference, -1))[0]

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axes, task, title in zip(panels, TASKS, ("images", "answers"), strict=True):
    order = np.argsort(-advantage[task])
    colours = ["#22a99a" if value > 0 else "#e2588b" for value in advantage[task][order]]
    bars = axes.bar(range(GROUP_SIZE), change[task][order], color=colours)
    axes.bar_label(bars, fmt="%+.2f", fontsize=8)
    axes.margins(y=0.12)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(GROUP_SIZE), [f"{value:+.1f}" for value in advantage[task][order]])
    axes.set(title=title, xlabel="advantage of the completion", ylabel="change of its log-prob")
plt.show()

for task in TASKS:
    good, bad = change[task][advantage[task] > 0].mean(), change[task][advantage[task] < 0].mean()
    divergence = float(jnp.sum(kl.k3(new_log_probs[task], ref_log_probs[task]) * weights[task]))
    print(f"{task}: good {good:+.2f}, bad {bad:+.2f} on average; KL {divergence:.4f} per token")
    assert good > 0 > bad and divergence > 0

# %% [markdown]
# The log-prob of good completions (green) rose and that of bad ones (pink) fell, for images and for answers, by one
# update of shared weights. Good completions often rise little, since what is already likely cannot become much more
# likely. Completions that share most of their tokens affect each other, so a single bar may even have the wrong sign;
# the averages are what differs. The KL term is above 0 now, so from here on it pulls towards the reference policy.
#
# Training repeats this a few hundred times, with more prompts:
#
# | here | in the package |
# |---|---|
# | all six steps on one screen | `corl_jax/stages/rl/stage.py`, `RlStage.batches` |
# | prompts and completions | `corl_jax/tasks/` |
# | rollouts and log-probs | `corl_jax/sampling/generate.py`, `corl_jax/sampling/log_probs.py` |
# | rewards | `corl_jax/rewards/` |
# | advantages, surrogate, KL, token weights | `corl_jax/objectives/` |
# | the loss | `corl_jax/stages/rl/loss.py` |
# | the words of the field that this package uses | the glossary in `CONTRIBUTING.md` |
# | a whole run | `python -m corl_jax.main --config=configs/unified.py` |
# | Janus-Pro-1B on one v5e chip | the same with `configs/unified.py:janus_pro_1b,lora=32,mesh=v5e-1` |
