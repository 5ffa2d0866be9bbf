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
# A *unified* model does two things with one set of weights: it draws a picture of a text, and it answers a question
# about a picture. Here a tiny one, which ships with this package, takes a single step of reinforcement learning on
# both tasks at once. No trainer is involved: every number is made in front of you.
#
# A picture is a short sequence of *image tokens*, sampled one after the other like the words of a sentence and then
# decoded to pixels. Whoever knows how a language model writes therefore knows how this one draws.
#
# 1. **Ask** for pictures and for answers.
# 2. **Sample** a group of attempts at each prompt.
# 3. **Score** every attempt with a rule. There is no right output to imitate, only a number that says how good it was.
# 4. **Compare** each attempt with the others of its group. This is the *group relative* of GRPO.
# 5. **Differentiate** the log-probability of the attempts, weighted by how good they were.
# 6. **Update** the weights, and look at what changed.
#
# It takes about a minute on a laptop, most of which goes into compiling.

# %%
import importlib.util
import subprocess
import sys

SOURCE = ".."  # the project: its folder or, on Colab, its address as "git+https://..."
if importlib.util.find_spec("corl_jax") is None:
    subprocess.run([sys.executable, "-m", "pip", "install", "-q", SOURCE], check=True)
    importlib.invalidate_caches()

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
from corl_jax.objectives import advantages, kl
from corl_jax.objectives.policy_gradient import clipped_surrogate
from corl_jax.objectives.token_weights import token_weights
from corl_jax.rewards.base import RewardContext, compute_rewards
from corl_jax.tasks.text_to_image import TextToImage
from corl_jax.tasks.visual_qa import VisualQA

# Full float32 on every chip, so that log-probs can be compared closely.
jax.config.update("jax_default_matmul_precision", "highest")
SEED, PROMPTS, GROUP, GUIDANCE, TEMPERATURE, ANSWER_LENGTH = 0, 16, 8, 2.0, 1.0, 18
TASKS = ("image", "text")

policy = Policy.load("tiny", dtype="float32")
sampler = policy.fns
print(f"{count(policy.params):,} parameters; a picture is {policy.cfg.image_tokens} tokens")

# %% [markdown]
# ## 1. Ask
#
# A *record* is a caption, the picture it belongs to, and a question about that picture with its answer. The same record
# is asked both ways: "draw this caption", and "here is the picture, answer the question".

# %%
records = [example("train", number) for number in range(PROMPTS)]
verbs = {
    "image": TextToImage(policy.tokenizer),
    "text": VisualQA(policy.tokenizer, policy.cfg.image_tokens, policy.cfg.vision.image_size),
}
asked = {task: verbs[task].make_prompts(records) for task in TASKS}
for record in records[:3]:
    print(
        f"draw: {record.prompt}\n  or: {record.question!r}, to be answered with {record.answer!r}"
    )

# %% [markdown]
# ## 2. Sample
#
# Eight attempts at each prompt, each with a random key of its own. Temperature 1 means that we sample from the model's
# own distribution; a greedy model would give eight equal attempts, and there would be nothing to compare.
#
# Pictures are drawn with *guidance*. At every step the model predicts the next image token twice, with the words of the
# prompt (logits $c$) and without them ($u$), and the token is sampled from $u + w\,(c - u)$. With $w = 2$ the effect of
# the words is doubled. Remember this, it comes back in section 5.

# %%
settings = {
    "image": sampler.sampling_params("image", guidance=GUIDANCE, temperature=TEMPERATURE),
    "text": sampler.sampling_params("text", temperature=TEMPERATURE),
}
keys = {
    task: sample_keys(stream(SEED, task), PROMPTS * GROUP).reshape(PROMPTS, GROUP) for task in TASKS
}
rollouts = {
    "image": sampler.draw(policy.params, asked["image"].prompts, keys["image"], settings["image"]),
    "text": sampler.write(
        policy.params, asked["text"].prompts, keys["text"], settings["text"], ANSWER_LENGTH
    ),
}
for task, rollout in rollouts.items():
    print(
        f"{task}: tokens {rollout.tokens.shape} [prompts, group, length], log-probs {rollout.log_probs.shape}"
    )

# %% [markdown]
# ## 3. Score
#
# The world of coloured shapes is simple enough to be judged by exact rules. For pictures, `shapes_strict` is 1 if the
# picture shows just what the caption says and 0 if not; `shapes_soft` gives credit for parts of it. For answers,
# `accuracy` is 1 if the answer is right, and `format` is 1 if thinking and answer stand in their tags. The reward of
# an attempt is a weighted sum.

# %%
tables = {
    "image": {"shapes_strict": 0.5, "shapes_soft": 0.5},
    "text": {"accuracy": 1.0, "format": 1.0},
}
completions = {task: verbs[task].to_completions(asked[task], rollouts[task]) for task in TASKS}
scores = {task: compute_rewards(completions[task], tables[task], RewardContext()) for task in TASKS}
rewards = {task: scores[task].total.reshape(PROMPTS, GROUP) for task in TASKS}
spread = {task: rewards[task].std(1) for task in TASKS}
for task in TASKS:
    alike = int((np.ptp(rewards[task], 1) == 0).sum())
    print(
        f"{task}: mean reward {rewards[task].mean():.2f}; {alike} of {PROMPTS} groups have eight equal rewards"
    )

# %% [markdown]
# A group whose rewards are all equal teaches nothing. We go on with one record, whose rewards differ most.

# %%
row = int(
    np.argmax(
        np.minimum(spread["image"] / spread["image"].max(), spread["text"] / spread["text"].max())
    )
)
assert spread["image"][row] > 0 and spread["text"][row] > 0, (
    "no record with a spread in both tasks: raise PROMPTS"
)
record = records[row]
prompts = {
    task: jax.tree.map(lambda leaf: leaf[row : row + 1], asked[task].prompts) for task in TASKS
}
rollouts = {task: jax.tree.map(lambda leaf: leaf[row : row + 1], rollouts[task]) for task in TASKS}
texts = [completion.text for completion in completions["text"][row * GROUP : (row + 1) * GROUP]]
parts = {task: scores[task].matrix.reshape(PROMPTS, GROUP, -1)[row] for task in TASKS}
rewards = {task: rewards[task][row] for task in TASKS}

pictures = np.asarray(rollouts["image"].pixels[0])
figure, grid = plt.subplots(2, GROUP // 2, figsize=(9, 5.4), layout="constrained")
figure.suptitle(f'"{record.prompt}"')
for axes, picture, (strict, soft) in zip(grid.flat, pictures, parts["image"], strict=True):
    axes.imshow(picture)
    axes.set_title(f"strict {strict:.0f}, soft {soft:.2f}", fontsize=10)
    axes.axis("off")
plt.show()

# %%
figure, axes = plt.subplots(figsize=(2.2, 2.2), layout="constrained")
axes.imshow(record.image)
axes.axis("off")
plt.show()
print(f"{record.question}\nreference: {record.answer}\n\naccuracy format  answer")
for (right, formed), text in zip(parts["text"], texts, strict=True):
    print(f"{right:8.0f} {formed:6.0f}  {text}")

# %% [markdown]
# ## 4. Compare
#
# Is a reward of 0.5 good? That depends on the prompt: some are easy. So each attempt is measured against its own group,
# $A_i = (r_i - \bar r) / (\mathrm{std}(r) + 10^{-4})$. The *advantage* $A_i$ is positive for attempts better than the
# average of the group, negative for worse ones, and the advantages of a group sum to zero. No second network has to
# guess how good an average attempt would be, because the group shows it.


# %%
def compare(rewards_of_group):
    centred = rewards_of_group - rewards_of_group.mean()
    return centred / (rewards_of_group.std(ddof=1) + 1e-4)


advantage = {task: compare(rewards[task]) for task in TASKS}
for task in TASKS:
    print(
        f"{task}: rewards {np.round(rewards[task], 2)}\n  advantages {np.round(advantage[task], 2)}"
    )
    library = advantages.normalizations["group"](jnp.asarray(rewards[task])[None])[0]
    np.testing.assert_allclose(advantage[task], library, atol=1e-5)
    assert abs(advantage[task].sum()) < 1e-4

# %% [markdown]
# ## 5. Differentiate
#
# ### Log-probs, a second time
#
# The sampler wrote down the log-prob of each token as it went. For a gradient we need these numbers as a function of
# the weights: the *scorer* reads prompt and attempt in one pass, as in ordinary training. It has to agree with the
# sampler, or we would differentiate something other than what was sampled. For pictures that means: with guidance.

# %%
guided = {"image": {"guided": True}, "text": {}}
reference = {
    task: sampler.log_probs(
        policy.params, prompts[task], rollouts[task], settings[task], **guided[task]
    )
    for task in TASKS
}
unguided = sampler.log_probs(
    policy.params, prompts["image"], rollouts["image"], sampler.sampling_params("image")
)
drawn = rollouts["image"].log_probs

figure, panels = plt.subplots(1, 2, figsize=(8, 3.8), layout="constrained", sharey=True)
for axes, scored, title in (
    (panels[0], reference["image"], "scored with guidance"),
    (panels[1], unguided, "without"),
):
    axes.scatter(drawn.ravel(), scored.ravel(), s=6, color="#3f83f8")
    axes.axline((0, 0), slope=1, color="#999999", linewidth=0.8, zorder=0)
    axes.set(title=title, xlabel="log-prob, sampler")
panels[0].set_ylabel("log-prob, scorer")
plt.show()

gaps = {
    task: float(
        jnp.max(
            jnp.where(rollouts[task].mask, jnp.abs(reference[task] - rollouts[task].log_probs), 0)
        )
    )
    for task in TASKS
}
without = jnp.exp(unguided - drawn)
print(f"largest gap, pictures: {gaps['image']:.1e}; answers: {gaps['text']:.1e}")
print(
    f"guidance left out: tokens look {without.min():.3f} to {without.max():.1f} times as likely as they were"
)
assert max(gaps.values()) < 1e-3
assert float(jnp.max(jnp.abs(unguided - drawn))) > 0.1

# %% [markdown]
# In the right plot guidance is missing from the score. Nothing was trained yet, and still the tokens look like those of
# another policy. An update from such numbers would push a distribution from which nothing was ever sampled.
#
# ### The loss
#
# For each token, where $\rho = \pi / \pi_\text{old}$ is how much more likely it is now than when it was sampled, and
# $\pi_\text{ref}$ is the frozen start:
#
# $$\ell = -\rho\,A + \beta\,\Big(\frac{\pi_\text{ref}}{\pi} - \log\frac{\pi_\text{ref}}{\pi} - 1\Big)$$
#
# The first term makes the tokens of good attempts more likely and those of bad ones less. The second, an estimate of
# the KL divergence known as k3, is a leash to the start. Every attempt weighs the same, and every token the same within
# its attempt; what follows the end of an answer weighs nothing. (PPO also clips $\rho$. With one update per batch the
# policy *is* the old policy: $\rho$ is 1 and clipping does nothing. The gradient of $\rho$ is not zero, though.)

# %%
BETA = 0.01
trainable, frozen = partition(policy.params, ("language_model/*",))
weights = {
    task: rollouts[task].mask / rollouts[task].mask.sum(-1, keepdims=True) / GROUP for task in TASKS
}


def loss_of_tokens(log_probs, task):
    ratio = jnp.exp(log_probs - jax.lax.stop_gradient(log_probs))
    log_ratio = reference[task] - log_probs
    k3 = jnp.exp(log_ratio) - log_ratio - 1
    per_token = -ratio * advantage[task][None, :, None] + BETA * k3
    return jnp.sum(jnp.where(rollouts[task].mask, per_token, 0) * weights[task])


def loss(trainable):
    total = 0.0
    for task in TASKS:
        params = trainable | frozen
        log_probs = sampler.log_probs(
            params, prompts[task], rollouts[task], settings[task], **guided[task]
        )
        total += loss_of_tokens(log_probs, task)
    return total


def library_loss_of_tokens(log_probs, task):
    each = jnp.asarray(advantage[task])[None, :, None]
    per_token, _, _ = clipped_surrogate(
        log_probs, None, each, clip="ppo", epsilon_low=0.2, epsilon_high=0.2
    )
    per_token += BETA * kl.k3(log_probs, reference[task])
    mask = rollouts[task].mask
    return jnp.sum(jnp.where(mask, per_token, 0) * token_weights(mask, aggregation="sequence_mean"))


# %% [markdown]
# Before we go through the network, look at the gradient with respect to the log-probs alone. It is minus advantage
# times weight: GRPO is maximum likelihood on the model's own samples, where the bad ones count negative. The leash does
# not pull yet, since the policy stands where it was tied.

# %%
for task in TASKS:
    by_hand, by_library = (
        jax.grad(f)(reference[task], task) for f in (loss_of_tokens, library_loss_of_tokens)
    )
    np.testing.assert_allclose(by_hand, by_library, atol=1e-7)
    np.testing.assert_allclose(by_hand, -advantage[task][None, :, None] * weights[task], atol=1e-6)

value, gradient = jax.jit(jax.value_and_grad(loss))(trainable)
print(f"loss {float(value):+.1e}, norm of its gradient {float(optax.global_norm(gradient)):.3f}")
assert abs(float(value)) < 1e-4 and float(optax.global_norm(gradient)) > 1e-3

# %% [markdown]
# The loss is 0, and always is at this point: the advantages of a group sum to zero. In this trade the value of the loss
# says nothing about progress; watch the reward.
#
# ## 6. Update
#
# One step of AdamW on the language model; the image tokenizer and the vision tower stay frozen. Adam's first step moves
# every weight by about the learning rate, so even a small rate shows. Training warms up to its rate for this reason.

# %%
optimizer = optax.chain(
    optax.clip_by_global_norm(1.0), optax.adamw(5e-5, b2=0.95, weight_decay=0.0)
)
updates, _ = optimizer.update(gradient, optimizer.init(trainable), trainable)
params = optax.apply_updates(trainable, updates) | frozen

after = {
    task: sampler.log_probs(params, prompts[task], rollouts[task], settings[task], **guided[task])
    for task in TASKS
}
change = {
    task: np.asarray(jnp.sum(jnp.where(rollouts[task].mask, after[task] - reference[task], 0), -1))[
        0
    ]
    for task in TASKS
}

figure, panels = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
for axes, task, name in zip(panels, TASKS, ("pictures", "answers"), strict=True):
    order = np.argsort(-advantage[task])
    colours = ["#22a99a" if value > 0 else "#e2588b" for value in advantage[task][order]]
    bars = axes.bar(range(GROUP), change[task][order], color=colours)
    axes.bar_label(bars, fmt="%+.2f", fontsize=8)
    axes.margins(y=0.12)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set_xticks(range(GROUP), [f"{value:+.1f}" for value in advantage[task][order]])
    axes.set(title=name, xlabel="advantage of the attempt", ylabel="change of its log-prob")
plt.show()

for task in TASKS:
    good, bad = change[task][advantage[task] > 0].mean(), change[task][advantage[task] < 0].mean()
    leash = float(jnp.sum(kl.k3(after[task], reference[task]) * weights[task]))
    print(
        f"{task}: good {good:+.2f}, bad {bad:+.2f} on average; the leash term is {leash:.4f} per token"
    )
    assert good > 0 > bad and leash > 0

# %% [markdown]
# The log-prob of good attempts (green) rose and that of bad ones (pink) fell, for pictures and for answers, by one
# update of shared weights. The good ones often rise little, for what was likely already has little room to rise.
# Attempts that share most of their tokens pull on each other, so a single bar may even point the wrong way; it is the
# averages that come apart. And now the leash has something to hold.
#
# Training repeats this a few hundred times, with more prompts:
#
# | here | in the package |
# |---|---|
# | all six steps on one screen | `corl_jax/stages/rl/stage.py`, `RlStage.batches` |
# | the loss | `corl_jax/stages/rl/loss.py` |
# | sampling and scoring | `corl_jax/sampling/generate.py`, `corl_jax/sampling/log_probs.py` |
# | rewards | `corl_jax/rewards/` |
# | advantages, surrogate, KL, weights | `corl_jax/objectives/` |
# | a whole run | `python -m corl_jax.main --config=configs/unified.py` |
