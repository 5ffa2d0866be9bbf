"""The adapters of a run in PEFT's layout: peft loads them, and so does corl_jax."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.trees import bind
from corl_jax.models.janus.model import abstract
from corl_jax.porting.policy_source import open_policy_source
from corl_jax.stages.run import run

TOLERANCE = 2e-5
"""Largest difference of logits, relative to the largest logit, where one side adds A and B to their
kernel first and the other multiplies by them apart, in float32."""
PART_OF_DECODER = ("language_model/layers/attention/?_proj/kernel",)


@pytest.fixture(scope="module")
def trained(rl_config, small_world, tmp_path_factory):
    """Work directories of two steps, by what has adapters."""
    folder = tmp_path_factory.mktemp("trained")
    targets = {
        "decoder": {},
        "some": {"lora.target": (*PART_OF_DECODER, "aligner/fc1/kernel", "vision_model/*/fc2/kernel")},
    }
    with small_world():
        for name, options in targets.items():
            options = {"lora.rank": 3, "lora.alpha": 12.0, **options}
            run(rl_config(**options), folder / name)
    return folder


def export(policy, folder, *flags):
    return main(["export", "--policy", str(policy), "--out", str(folder), *flags])


def text_logits(policy, tokens):
    """Logits of a text, from the parameters of a policy."""
    model = bind(nnx.split(abstract(policy.cfg))[0], policy.params)
    length = tokens.shape[1]
    positions = jnp.tile(jnp.arange(length), (len(tokens), 1))
    visible = jnp.broadcast_to(jnp.tril(jnp.ones((length, length), bool)), (len(tokens), length, length))
    embeddings = model.language_model.embed(tokens)
    states, _ = model.language_model(embeddings, positions, visible)
    return model.text_logits(states)


@pytest.mark.parametrize("name", ["decoder", "some"])
def test_peft_computes_what_the_merged_policy_computes(
    torch, trained, name, dot_policy_folder, rng, tmp_path, assert_close, recwarn
):
    peft = pytest.importorskip("peft")
    from transformers import JanusForConditionalGeneration

    flags = ("--adapters", "--base-model", str(dot_policy_folder))
    assert export(trained / name, tmp_path / "adapters", *flags) == 0
    base = JanusForConditionalGeneration.from_pretrained(dot_policy_folder, dtype=torch.float32)
    tokens = rng.integers(8, base.config.text_config.vocab_size, (2, 12))
    with torch.no_grad():
        before = base(input_ids=torch.from_numpy(tokens)).logits
        model = peft.PeftModel.from_pretrained(base, tmp_path / "adapters").eval()
        logits = model(input_ids=torch.from_numpy(tokens)).logits
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]

    # From the checkpoint, and from the folder of adapters on top of the base.
    for policy in (trained / name, tmp_path / "adapters"):
        assert_close(text_logits(Policy.load(policy, dtype="float32"), tokens), logits, TOLERANCE)
    assert np.abs(logits - before).max() > 100 * TOLERANCE * np.abs(before).max()

    # Every module, those of the vision tower included, which a text does not pass.
    merged = model.merge_and_unload()
    merged.save_pretrained(tmp_path / "merged")
    for file in dot_policy_folder.glob("token*"):
        (tmp_path / "merged" / file.name).write_bytes(file.read_bytes())
    expected = Policy.load(tmp_path / "merged", dtype="float32").params
    params = Policy.load(tmp_path / "adapters", dtype="float32").params
    start = Policy.load(dot_policy_folder, dtype="float32").params
    changed = {path for path, leaf in params.items() if np.any(leaf != start[path])}
    assert len(changed) == {"decoder": 7, "some": 6}[name]
    for path, leaf in expected.items():
        np.testing.assert_allclose(params[path], leaf, rtol=0, atol=1e-6, err_msg=path)


def test_the_work_directory_and_its_adapters_are_one_policy(trained, dot_policy_folder, tmp_path):
    flags = ("--adapters", "--base-model", str(dot_policy_folder))
    assert export(trained / "decoder", tmp_path / "out", *flags) == 0
    params = Policy.load(tmp_path / "out", dtype="float32").params
    for path, leaf in Policy.load(trained / "decoder", dtype="float32").params.items():
        np.testing.assert_array_equal(params[path], leaf, err_msg=path)

    # What tells it from another policy changes with the adapters.
    before = open_policy_source(str(tmp_path / "out")).identity()
    settings = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    settings["lora_alpha"] = 11
    (tmp_path / "out" / "adapter_config.json").write_text(json.dumps(settings))
    after = open_policy_source(str(tmp_path / "out")).identity()
    assert before["base"] == after["base"] and before["adapters"] != after["adapters"]
