"""Records of your own: captions, questions and pictures of any size, with rewards that any of them fit.

    corl init --out my_policy --data FOLDER
    python -m corl_jax.main --config=configs/own_records.py --config.init_from=my_policy \\
        --config.data.source=FOLDER

Hardware and time: with a policy of ``corl init`` (2.3 M parameters, images of 384 px) a step takes
some seconds on 2 CPU cores (docs/own_data.md); the policy is random, so its pictures are noise and
what such a run shows is that records, rewards and flags fit together.
Expected: rewards that are finite and differ within groups, and a report.

Size, images and tokenizer are those of the policy in ``config.init_from``. Pictures are compared with
that of the record (``pixel``), answers with the reference answer. A fifth of the records is held out,
and four of these are evaluated by the same rewards.

    configs/own_records.py:rewards=matching+pixel    rewards of images by name, of equal weight
    configs/own_records.py:janus_pro_1b,lora=32      the batch of CoRL's Stage I on a released model
"""

from __future__ import annotations

import ml_collections

from corl_jax.configs import common, unified


def get_config(arg: str | None = None) -> ml_collections.ConfigDict:
    """The config of an argument.

    Args:
      arg: ``size``, ``mesh``, ``lora`` (a rank), and ``rewards`` of images by name, joined by ``+``.
    """
    values = common.parse_arg(arg, rewards="pixel")
    c = unified.get_config(",".join(f"{name}={value}" for name, value in values.items()))
    c.data.source = ""
    if values["size"] == "tiny":
        small_batch(c)
    return c


def small_batch(c: ml_collections.ConfigDict) -> None:
    """A batch that one CPU trains at 384 px, from any policy, and few held-out records."""
    c.steps = 20
    c.init_from = ""
    c.data.held_out = 0.2

    # An image of 576 tokens and its question have room; an answer is short.
    c.rl.rollout.update(
        {
            "image_prompts": 4,
            "text_prompts": 4,
            "group_size": 4,
            "image_prompt_length": 128,
            "text_prompt_length": 768,
            "completion_length": 48,
        }
    )
    c.rl.loss.task_weight.text = 1.0
    c.rl.log_probs.shared_prefix = ("image", "text")
    for task in ("image", "text"):
        c.kl[task].update({"schedule": "none", "start": 0.0, "end": 0.0})

    c.evals.update({"num_records": 4, "scoring": "rewards", "guidance_scales": (), "batch_size": 4})
    c.hooks.update({"save_every": 10, "sample_every": 5, "probe_every": 0, "interference_every": 0})
