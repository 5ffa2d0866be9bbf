"""Merged folders: every tensor by the method, whatever layout the policies lie in, and refused in one clear line."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from safetensors.numpy import load_file

from corl_jax.commands.cli import main
from corl_jax.models.janus.model import abstract
from corl_jax.objectives.weight_merging import merges
from corl_jax.porting.janus.folder import Folder
from corl_jax.porting.janus.layouts import FORMATS
from corl_jax.porting.writer import save_folder


@pytest.fixture(scope="module")
def cfg(dot_policy_folder):
    return Folder(dot_policy_folder).cfg


@pytest.fixture(scope="module")
def experts(cfg, dot_policy_folder, random_params, tmp_path_factory):
    """Two policies whose language model differs from the base, the second in the original layout."""
    home = tmp_path_factory.mktemp("experts")
    base = random_params(abstract(cfg))
    folders = []
    for seed, (name, layout) in enumerate((("one", "transformers"), ("two", "original"))):
        rng = np.random.default_rng(seed)
        params = {
            path: leaf + rng.normal(0, 0.1 + seed, leaf.shape).astype(np.float32)
            if path.startswith("lang")
            else leaf
            for path, leaf in base.items()
        }
        save_folder(params, cfg, dot_policy_folder, home / name, layout=FORMATS[layout])
        if layout == "original":  # the same once more, to compare with
            save_folder(params, cfg, dot_policy_folder, home / "two_again")
        folders.append(home / name)
    return folders


def merge(base, experts, out, *more):
    return main(
        ["merge", "--base", str(base), "--experts", *map(str, experts), "--out", str(out), *more]
    )


def weights(folder):
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    ("flags", "method", "lam", "shares"),
    [
        ((), "gaussian", 2.0, ()),
        (("--lambda", "0.5"), "gaussian", 0.5, ()),
        (("--method", "linear"), "linear", 2.0, (0.5, 0.5)),
        (("--method", "linear", "--weights", "0.2", "0.7"), "linear", 2.0, (0.2, 0.7)),
    ],
)
def test_every_tensor_is_merged_by_itself(
    dot_policy_folder, experts, tmp_path, capsys, flags, method, lam, shares
):
    out = tmp_path / "merged"
    assert merge(
        dot_policy_folder, experts, out, *flags
    ) == 0 and capsys.readouterr().out.strip() == str(out)
    base, one, two = (
        weights(f) for f in (dot_policy_folder, experts[0], experts[1].with_name("two_again"))
    )
    got = weights(out)
    assert got.keys() == base.keys()
    for name, tensor in got.items():
        wanted = merges[method](base[name], [one[name], two[name]], lam, shares)
        np.testing.assert_allclose(tensor, wanted, atol=1e-6, err_msg=name)
        assert np.array_equal(tensor, base[name]) == (
            "language_model" not in name and "lm_head" not in name
        ), name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["merged"]
    assert (out / "config.json").read_bytes() == (dot_policy_folder / "config.json").read_bytes()


def test_bfloat16_is_written_when_asked_for(dot_policy_folder, experts, tmp_path):
    assert merge(dot_policy_folder, experts, tmp_path / "new", "--dtype", "bfloat16") == 0
    assert {str(tensor.dtype) for tensor in weights(tmp_path / "new").values()} == {"bfloat16"}


def test_policies_that_do_not_belong_together(
    dot_policy_folder, tiny_policy_folder, experts, cfg, random_params, tmp_path, capsys
):
    wider = dataclasses.replace(cfg, decoder=dataclasses.replace(cfg.decoder, mlp_dim=96))
    save_folder(random_params(abstract(wider)), wider, dot_policy_folder, tmp_path / "wider")
    words = tmp_path / "words"
    save_folder(random_params(abstract(cfg)), cfg, dot_policy_folder, words)
    table = words / "tokenizer.json"
    text = table.read_text()
    assert '"red"' in text and '"blue"' in text
    table.write_text(
        text.replace('"red"', '"@"').replace('"blue"', '"red"').replace('"@"', '"blue"')
    )
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("x")
    for others, out, flags, says in (
        ([tmp_path / "wider"], "new", (), "other shapes: decoder.mlp_dim is 64 and 96"),
        ([words], "new", (), "have other tokenizers"),
        ([tmp_path / "nowhere"], "new", (), "is no folder"),
        (experts, "full", (), "exists and is not empty"),
        (experts, "new", ("--lambda", "0"), "lambda=0.0 is out of range"),
        (experts, "new", ("--weights", "1", "1"), "are for the method linear"),
        (experts, "new", ("--method", "linear", "--weights", "1"), "1 weights for 2 experts"),
        (experts, "new", ("--method", "mean"), "mean"),
        ([], "new", (), "--experts"),
    ):
        assert merge(dot_policy_folder, others, tmp_path / out, *flags) == 2, says
        err = capsys.readouterr().err
        assert err.startswith("error: ") and err.count("\n") == 1 and says in err, err
        assert not (tmp_path / "new").exists() and not list(tmp_path.glob(".*"))
