"""Adapters in PEFT's layout, both ways: peft loads what a run wrote, corl_jax what peft wrote."""

from __future__ import annotations

import json

import grain
import huggingface_hub
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax import Policy
from corl_jax.commands.cli import main
from corl_jax.core.errors import UserError
from corl_jax.core.trees import bind
from corl_jax.data.shapes.vocabulary import write_tokenizer
from corl_jax.engine.checkpoints.checkpoint import Checkpointer
from corl_jax.engine.checkpoints.manifest import RunIdentity
from corl_jax.engine.optim import OptimConfig, make_optimizer
from corl_jax.engine.state import create_state
from corl_jax.models.janus.model import abstract
from corl_jax.models.lora import Lora, is_adapter
from corl_jax.models.random_params import random_params
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.policy_source import config_to_json, open_policy_source
from corl_jax.porting.writer import checkpoint_entries

TOLERANCE = 1e-4
"""Largest difference of logits, relative to the largest logit, where one side adds A and B to their
kernel first and the other multiplies by them apart, in float32 and in another framework."""
DECODER = Lora(rank=3, alpha=12.0)
SOME = Lora(
    rank=3,
    alpha=12.0,
    target=(
        "language_model/layers/attention/?_proj/kernel",
        "vision_model/layers/fc2/kernel",
        "aligner/fc1/kernel",
    ),
)
Q_PROJ = "base_model.model.model.language_model.layers.{}.self_attn.q_proj.lora_{}.weight"


@pytest.fixture(scope="module")
def base(dot_policy_folder):
    """The policy that all adapters here belong to."""
    return Policy.load(dot_policy_folder, dtype="float32")


@pytest.fixture(scope="module")
def torch_base(torch, dot_policy_folder):
    """A function that reads the same policy into transformers."""
    from transformers import JanusForConditionalGeneration

    return lambda: JanusForConditionalGeneration.from_pretrained(
        dot_policy_folder, dtype=torch.float32
    )


@pytest.fixture(scope="module")
def write_run(base, dot_policy_folder, tmp_path_factory):
    """A function from adapters to the work directory of a run that trained them."""

    def write(lora):
        workdir = tmp_path_factory.mktemp("run")
        write_tokenizer(workdir / "tokenizer")
        model = config_to_json(base.cfg) | {"lora": {"rank": lora.rank, "scale": lora.scale}}
        adapters = {
            path: jnp.asarray(leaf * (0.3 if path.endswith("lora_b") else 1.0))
            for path, leaf in random_params(abstract(base.cfg, lora), 1).items()
            if is_adapter(path)
        }
        state = create_state(adapters, base.params, make_optimizer(OptimConfig(1e-3, 2)))
        checkpointer = Checkpointer(workdir / "checkpoints", RunIdentity("rl", model, {}))
        checkpointer.save(1, state, iter(grain.MapDataset.range(4).to_iter_dataset()))
        checkpointer.close()
        return workdir

    return write


@pytest.fixture
def export(tmp_path, dot_policy_folder, write_run):
    """A function from adapters to their run and the folder that ``corl export`` wrote."""

    def write(lora):
        workdir, out = write_run(lora), tmp_path / "adapters"
        flags = [
            "--policy",
            str(workdir),
            "--out",
            str(out),
            "--base-model",
            str(dot_policy_folder),
        ]
        assert main(["export", "--adapters", *flags]) == 0
        return workdir, out

    return write


def text_logits(policy, tokens):
    """Logits of texts without padding."""
    model = bind(nnx.split(abstract(policy.cfg))[0], policy.params)
    rows, length = tokens.shape
    positions = jnp.tile(jnp.arange(length), (rows, 1))
    visible = jnp.tile(jnp.tril(jnp.ones((length, length), bool)), (rows, 1, 1))

    @jax.jit
    def logits(model, tokens):
        states, _ = model.language_model(model.language_model.embed(tokens), positions, visible)
        return model.text_logits(states)

    return logits(model, tokens)


def assert_same_weights(torch_model, params, cfg):
    """All parameters, up to rounding of one sum."""
    stored = torch_model.state_dict()
    entries = checkpoint_entries(params, cfg, LAYOUTS["transformers"], np.dtype(np.float32))
    for name, entry in entries.items():
        np.testing.assert_allclose(
            entry.get_array(), stored[name].numpy(), rtol=0, atol=1e-6, err_msg=name
        )


@pytest.mark.parametrize(("lora", "kernels"), [(DECODER, 7), (SOME, 6)], ids=["decoder", "some"])
def test_peft_computes_what_the_merged_policy_computes(
    torch, torch_base, export, base, lora, kernels, rng, assert_close, recwarn
):
    peft = pytest.importorskip("peft")
    workdir, folder = export(lora)
    model = torch_base()
    tokens = rng.integers(8, base.cfg.decoder.vocab_size, (2, 12))
    with torch.no_grad():
        before = model(input_ids=torch.from_numpy(tokens)).logits.numpy()
        adapted = peft.PeftModel.from_pretrained(model, folder).eval()
        logits = adapted(input_ids=torch.from_numpy(tokens)).logits.numpy()
    assert not [warning for warning in recwarn if "adapter keys" in str(warning.message)]
    assert np.abs(logits - before).max() > 100 * TOLERANCE * np.abs(before).max()

    # From the checkpoint, and from the folder of adapters on top of their base.
    from_run, from_folder = (Policy.load(path, dtype="float32") for path in (workdir, folder))
    assert_close(text_logits(from_folder, tokens), logits, TOLERANCE)
    for path, leaf in from_run.params.items():
        np.testing.assert_array_equal(from_folder.params[path], leaf, err_msg=path)

    # Weights that a text does not pass, too.
    assert_same_weights(adapted.merge_and_unload(), from_folder.params, base.cfg)
    changed = [
        path for path, leaf in from_folder.params.items() if np.any(leaf != base.params[path])
    ]
    assert len(changed) == kernels


@pytest.mark.parametrize(
    "options",
    [
        # Both the decoder and the vision tower have modules of these names.
        {"target_modules": ["q_proj", "down_proj", "fc1"], "use_rslora": True},
        {"target_modules": ["v_proj"], "layers_to_transform": [1], "exclude_modules": ["lm_head"]},
        {"target_modules": "all-linear", "lora_dropout": 0.1},
        {"target_modules": r".*aligner\.fc1|.*language_model.*\.k_proj"},
    ],
    ids=["list", "layers", "all", "pattern"],
)
def test_adapters_that_peft_wrote(torch, torch_base, base, dot_policy_folder, options, tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(r=3, lora_alpha=7, **options)
    model = peft.get_peft_model(torch_base(), config)
    numbers = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, leaf in model.named_parameters():
            if "lora_B" in name:
                leaf.copy_(0.2 * torch.randn(leaf.shape, generator=numbers))
    model.save_pretrained(tmp_path)

    policy = Policy.load(tmp_path, dtype="float32")
    assert open_policy_source(str(tmp_path)).name == str(tmp_path)
    assert_same_weights(model.merge_and_unload(), policy.params, base.cfg)
    changed = [path for path, leaf in policy.params.items() if np.any(leaf != base.params[path])]
    assert changed


def set_entries(**entries):
    def edit(folder):
        path = folder / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | entries))

    return edit


def edit_tensors(change):
    def edit(folder):
        path = folder / "adapter_model.safetensors"
        tensors = load_file(path)
        change(tensors)
        save_file(tensors, path)

    return edit


def pop(name):
    return edit_tensors(lambda tensors: tensors.pop(name))


def put(name, shape):
    return edit_tensors(lambda tensors: tensors.update({name: np.ones(shape, np.float32)}))


REFUSED = {
    "dora": (set_entries(use_dora=True), "use_dora .* must be empty"),
    "an entry of tomorrow": (set_entries(use_newlora={"a": 1}), "use_newlora .* must be empty"),
    "bias": (set_entries(bias="lora_only"), "bias .* must be 'none'"),
    "saved modules": (set_entries(modules_to_save=["lm_head"]), "modules_to_save .* must be empty"),
    "ranks": (set_entries(rank_pattern={"q_proj": 8}), "rank_pattern .* must be empty"),
    "kind": (set_entries(peft_type="IA3"), "peft_type .* must be 'LORA'"),
    "start": (set_entries(init_lora_weights="pissa"), "init_lora_weights .* must be"),
    "revision": (set_entries(revision="v2"), "revision .* must be null or main"),
    "rank": (set_entries(r=4), "of another shape"),
    "no rank": (set_entries(r=None), "r in .* must be a whole number"),
    "no base": (set_entries(base_model_name_or_path=None), "base_model_name_or_path .* must be"),
    "absent base": (set_entries(base_model_name_or_path="none/such/base"), "base of the adapters"),
    "targets": (set_entries(target_modules=["no_such"]), "must name linear modules"),
    "more targets": (set_entries(target_modules=["q_proj", "fc1"]), "missing: base_model.model"),
    "a layer": (
        edit_tensors(lambda tensors: [tensors.pop(Q_PROJ.format(1, side)) for side in "AB"]),
        r"missing: .*layers\.1\.self_attn\.q_proj",
    ),
    "half": (pop(Q_PROJ.format(0, "B")), r"missing: .*q_proj\.lora_B"),
    "another model": (put("base_model.model.visual.q_proj.lora_A.weight", (3, 8)), "not used"),
    "magnitudes": (put("base_model.model.x.lora_magnitude_vector", (3,)), "not used"),
    "shape": (put(Q_PROJ.format(0, "A"), (3, 8)), "of another shape"),
    "not finite": (
        edit_tensors(lambda tensors: tensors[Q_PROJ.format(0, "A")].fill(np.nan)),
        "NaN or infinity",
    ),
}


@pytest.fixture(scope="module")
def written(write_run, dot_policy_folder, tmp_path_factory):
    """Files of a folder of adapters, by name."""
    out = tmp_path_factory.mktemp("written") / "out"
    flags = ["--policy", str(write_run(DECODER)), "--out", str(out)]
    assert main(["export", "--adapters", *flags, "--base-model", str(dot_policy_folder)]) == 0
    return {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_does_not_fit_is_refused(written, case, tmp_path):
    edit, message = REFUSED[case]
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(written[name])
    edit(tmp_path)
    with pytest.raises(UserError, match=message) as error:
        Policy.load(tmp_path)
    assert "\n" not in str(error.value)


def test_adapters_on_adapters_and_beside_a_model_are_refused(written, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(written[name])
    set_entries(base_model_name_or_path=str(tmp_path))(tmp_path)
    with pytest.raises(UserError, match="must be a whole policy"):
        open_policy_source(str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="got both"):
        open_policy_source(str(tmp_path))


def test_the_identity_changes_with_the_adapters(written, tmp_path):
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (tmp_path / name).write_bytes(written[name])
    before = open_policy_source(str(tmp_path)).identity()
    set_entries(lora_alpha=11)(tmp_path)
    after = open_policy_source(str(tmp_path)).identity()
    assert before["base"] == after["base"] and before["adapters"] != after["adapters"]


def test_the_card_of_adapters(written, dot_policy_folder):
    text = written["README.md"].decode()
    head = huggingface_hub.ModelCard(text).data
    assert head.library_name == "peft" and "lora" in head.tags and head.base_model is None
    assert f"PeftModel.from_pretrained(model, {json.dumps('out')})" in text
    assert json.loads(written["adapter_config.json"])["base_model_name_or_path"] == str(
        dot_policy_folder
    )


def test_adapters_need_a_base_that_others_have(write_run, dot_policy_folder, tmp_path, capsys):
    run = write_run(DECODER)
    flags = ["export", "--policy", str(run), "--adapters", "--no-card", "--out"]
    for init_from, base in (("tiny", "tiny"), (str(dot_policy_folder), None)):
        config = {"stage": "rl", "init_from": init_from, "seed": 0, "steps": 1}
        (run / "config.json").write_text(json.dumps(config))
        out = tmp_path / f"out_{base}"
        assert main([*flags, str(out)]) == (2 if base is None else 0)
        if base:
            assert (
                f'"base_model_name_or_path": "{base}"' in (out / "adapter_config.json").read_text()
            )
    error = capsys.readouterr().err
    assert "--base-model must say where others find" in error and str(tmp_path) not in error
    assert not out.exists()


def test_only_runs_with_adapters_have_some_to_write(tmp_path, capsys):
    assert main(["export", "--policy", "tiny", "--adapters", "--out", str(tmp_path / "out")]) == 2
    assert "--adapters needs a run with adapters" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
