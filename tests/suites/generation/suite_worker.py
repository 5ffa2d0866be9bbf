"""Draws and scores a few prompts: ``suite_worker.py POLICY OUT [COORDINATOR PROCESSES PROCESS]``.

It prints the scores, and writes into OUT as the first process alone does.
"""

from __future__ import annotations

import json
import pathlib
import sys

from corl_jax.core.processes.connection import DistributedConfig, connect_processes
from corl_jax.core.runtime import set_up_jax


def main(policy_folder: str, out: str, *process_args: str) -> None:
    set_up_jax()
    if process_args:
        coordinator, processes, process = process_args
        connect_processes(DistributedConfig(coordinator, int(processes), int(process)))

    # Only now, since these imports may touch the devices.
    import jax
    import numpy as np
    from flax import nnx

    from corl_jax.core.sharding import Sharder, make_mesh, sharding_context
    from corl_jax.core.trees import flatten_abstract
    from corl_jax.evals.config import EvalPolicy
    from corl_jax.models.janus.model import logical_axes
    from corl_jax.porting.policy_source import open_policy_source
    from corl_jax.rewards.base import rewards
    from corl_jax.rewards.config import REWARD_MODELS, RewardOptions
    from corl_jax.sampling.generate import PolicyFns
    from corl_jax.sampling.policy import abstract_model
    from corl_jax.sampling.prompt_layout import SpecialTokenIds
    from corl_jax.suites.generation.drawing import draw_suite
    from corl_jax.suites.generation.picture_stream import DrawSettings
    from corl_jax.suites.generation.prompts import GenerationPrompt
    from corl_jax.suites.generation.scoring import score_pictures
    from corl_jax.suites.generation.suite import generation_suites

    # One mesh over all processes, on which the parameters lie whole.
    sharder = Sharder(make_mesh({"data": -1}))
    source = open_policy_source(policy_folder)
    model = abstract_model(source.cfg, "float32")
    axes = logical_axes(model)
    specs = {
        path: jax.ShapeDtypeStruct(
            leaf.shape, np.float32, sharding=sharder.checked_sharding(leaf.shape, axes[path], path)
        )
        for path, leaf in flatten_abstract(model).items()
    }
    tokenizer = source.load_tokenizer()
    ids = SpecialTokenIds.of(tokenizer, source.cfg.text_vocab_size)
    fns = PolicyFns(nnx.split(model)[0], source.cfg, ids)
    policy = EvalPolicy(fns, source.load_params(specs), tokenizer)

    rewards.register("redness")(
        lambda cs, context: np.array([round(c.pixels[..., 0].mean() / 255, 2) for c in cs])
    )
    suite = generation_suites["dpg"]
    prompts = [GenerationPrompt(f"p{i}", f"a photo of {i} cows", "", {}) for i in range(3)]
    settings = DrawSettings(samples=4, seed=1, guidance=2.0, temperature=1.0, batch_size=8)
    options = RewardOptions(models=dict.fromkeys(REWARD_MODELS, "") | {"clip": "tiny"})

    folder = pathlib.Path(out)
    with sharding_context(sharder):
        draw_suite(policy, 256, suite, prompts, folder, settings, {"name": "small"}, quiet=True)
    records = score_pictures(
        suite, prompts, folder, 4, 16, ("redness", "clip_score"), options, sharder, quiet=True
    )
    print(json.dumps([[record.id, dict(record.scores)] for record in records]))


if __name__ == "__main__":
    main(*sys.argv[1:])
