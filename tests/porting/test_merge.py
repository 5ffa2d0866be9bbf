"""Every tensor of a merged folder follows the method; policies that do not fit are refused."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from corl_jax.commands.cli import main
from corl_jax.models.janus.model import abstract
from corl_jax.objectives.weight_merging import merges
from corl_jax.porting.janus.folder import JanusFolder
from corl_jax.porting.janus.layouts import LAYOUTS
from corl_jax.porting.writer import save_folder


@pytest.fixture(scope="module")
def cfg(dot_policy_folder):
    return JanusFolder(dot_policy_folder).cfg


@pytest.fixture(scope="module")
def experts(cfg, dot_policy_folder, random_params, tmp_path_factory):
    """Two policies with other language models than the base; the second in the original layout."""
    home = tmp_path_factory.mktemp("experts")
    base = random_params(abstract(cfg))
    folders = []
    for seed, (name, layout) in enumerate((("first", "transformers"), ("second", "original"))):
        rng = np.random.default_rng(seed)
        params = {
            path: leaf + rng.normal(0, 0.1 + seed, leaf.shape).astype(np.float32)
            if path.startswith("lang")
            else leaf
            for path, leaf in base.items()
        }
        save_folder(params, cfg, dot_policy_folder, home / name, layout=LAYOUTS[layout])

        # A copy in the other layout, whose tensors have the names of the merged folder.
        if layout == "original":
            save_folder(params, cfg, dot_policy_folder, home / "second_transformers")
        folders.append(home / name)
    return folders


def merge(base, experts, out, *flags):
    return main(
        ["merge", "--base", str(base), "--experts", *map(str, experts), "--out", str(out), *flags]
    )


def load_weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("flags", "method", "lam", "weights"),
    [
        ((), "gaussian", 2.0, ()),
        (("--lambda", "0.5"), "gaussian", 0.5, ()),
        (("--method", "linear"), "linear", 2.0, (0.5, 0.5)),
        (("--method", "linear", "--weights", "0.2", "0.7"), "linear", 2.0, (0.2, 0.7)),
    ],
)
def test_every_tensor_is_merged_by_itself(
    dot_policy_folder, experts, tmp_path, capsys, flags, method, lam, weights
):
    out = tmp_path / "merged"
    assert merge(dot_policy_folder, experts, out, *flags) == 0
    assert capsys.readouterr().out.strip() == str(out)

    base = load_weights(dot_policy_folder)
    first = load_weights(experts[0])
    second = load_weights(experts[1].with_name("second_transformers"))
    merged = load_weights(out)
    assert merged.keys() == base.keys()
    for name, tensor in merged.items():
        expected = merges[method](base[name], [first[name], second[name]], lam, weights)
        np.testing.assert_allclose(tensor, expected, atol=1e-6, err_msg=name)

        # Only the language model of the experts differs from the base.
        in_language_model = "language_model" in name or "lm_head" in name
        assert np.array_equal(tensor, base[name]) == (not in_language_model), name

    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]
    assert (out / "config.json").read_bytes() == (dot_policy_folder / "config.json").read_bytes()


def test_bfloat16_is_written_on_request(dot_policy_folder, experts, tmp_path):
    assert merge(dot_policy_folder, experts, tmp_path / "new", "--dtype", "bfloat16") == 0
    assert {str(tensor.dtype) for tensor in load_weights(tmp_path / "new").values()} == {"bfloat16"}


def test_policies_and_flags_that_are_refused(
    dot_policy_folder, tiny_policy_folder, experts, cfg, random_params, tmp_path, capsys
):
    wider = dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, mlp_dim=96))
    save_folder(random_params(abstract(wider)), wider, dot_policy_folder, tmp_path / "wider")

    # A tokenizer in which two words have swapped their ids.
    swapped = tmp_path / "swapped"
    save_folder(random_params(abstract(cfg)), cfg, dot_policy_folder, swapped)
    tokenizer_file = swapped / "tokenizer.json"
    text = tokenizer_file.read_text()
    assert '"red"' in text and '"blue"' in text
    tokenizer_file.write_text(
        text.replace('"red"', '"@"').replace('"blue"', '"red"').replace('"@"', '"blue"')
    )

    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for policies, out, flags, message in (
        (
            [tmp_path / "wider"],
            "new",
            (),
            "must have the same sizes; got decoder.mlp_dim 64 and 96",
        ),
        ([swapped], "new", (), "must have the same tokenizer"),
        ([tmp_path / "nowhere"], "new", (), "is not a folder"),
        (experts, "full", (), "exists and is not empty"),
        (
            experts,
            "new",
            ("--lambda", "0"),
            "--lambda must be a finite number above 0; got 0.0. Try 2",
        ),
        (
            experts,
            "new",
            ("--weights", "1", "1"),
            "--weights must be () unless the method is linear; got (1.0, 1.0)",
        ),
        (experts, "new", ("--method", "linear", "--weights", "1"), "got 1 weights for 2 experts"),
        (experts, "new", ("--method", "mean"), "mean"),
        (experts, "new", ("--weights", "nan", "1"), "--weights must be a finite number; got nan"),
        ([], "new", (), "--experts"),
    ):
        assert merge(dot_policy_folder, policies, tmp_path / out, *flags) == 2, message
        error = capsys.readouterr().err
        assert error.startswith("error: ") and error.count("\n") == 1, error
        assert message in error, error
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))
