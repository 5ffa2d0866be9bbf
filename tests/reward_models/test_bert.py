"""BERT and MPNet folders: states against transformers' torch models, names, word pieces, refusals."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tests.porting.encoders import TEXTS, torch_states, write_encoder

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, count, flatten_abstract
from corl_jax.porting.rules import knowingly_unused, plan
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.bert.model import BertConfig, buckets
from corl_jax.reward_models.bert.tokenizer import BERT_MARKS, MPNET_MARKS, WordPieces
from corl_jax.reward_models.bert.weights import BERT, BERT_RULES, SENTENCE, UNUSED

MPNET = {"model_type": "mpnet", "pad_token_id": 1}
KINDS = {"bert": (BERT, BERT_MARKS), "mpnet": (SENTENCE, MPNET_MARKS)}


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(
    scope="module", params=[("bert", False), ("bert", True), ("mpnet", False), ("mpnet", True)]
)
def written(request, torch, tmp_path_factory):
    """Name, torch's model, folder; with and without the prefix."""
    name, headed = request.param
    folder = tmp_path_factory.mktemp(f"{name}{headed}")
    return name, write_encoder(torch, name, folder, headed), folder


def ours(net, rows, width, pad):
    tokens = np.full((len(rows), width), pad, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    states = jax.jit(lambda params, *batch: bind(net.graphdef, params)(*batch))(
        net.params, tokens, lengths
    )
    return [np.asarray(state[: len(row)]) for state, row in zip(states, rows, strict=True)]


def test_states_of_a_padded_batch(written, torch, sharder, assert_close):
    name, model, folder = written
    net = load_reward_model(KINDS[name][0], str(folder), sharder)
    pieces = WordPieces(net.folder, KINDS[name][1], net.cfg.max_tokens, net.cfg.vocab_size)
    rows = pieces([*TEXTS, "red dog " * 1000])
    assert sorted({len(row) for row in rows})[0] == 2 and len(rows[-1]) == 64 == net.cfg.max_tokens
    assert rows[-1][-1] == rows[0][-1]  # cut off before the mark of the end
    for mine, theirs in zip(
        ours(net, rows, 64, pieces.pad_id),
        torch_states(torch, model, rows, pieces.pad_id),
        strict=True,
    ):
        assert_close(mine, theirs)


def test_old_names_of_norms_give_the_same(written, sharder, tmp_path):
    name, _, folder = written
    weights = load_file(folder / "model.safetensors")
    old = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for path, value in weights.items():
        for new, former in old.items():
            path = path.replace(new, former)
        renamed[path] = value
    head = next(path for path in renamed if "word_embeddings" in path).removesuffix(
        "word_embeddings.weight"
    )
    save_file(
        renamed | {f"{head}position_ids": np.arange(64)[None]}, tmp_path / "model.safetensors"
    )
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    assert any("gamma" in path for path in renamed) and not any(
        path.endswith("LayerNorm.bias") for path in renamed
    )
    here, there = (
        load_reward_model(KINDS[name][0], str(place), sharder).params
        for place in (folder, tmp_path)
    )
    assert here.keys() == there.keys() and all((here[path] == there[path]).all() for path in here)


def test_buckets_are_those_of_mpnet(torch):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    steps = torch.arange(512)
    theirs = MPNetEncoder.relative_position_bucket(steps[None] - steps[:, None], num_buckets=32)
    np.testing.assert_array_equal(buckets(512, 32), theirs.numpy())


def test_names_and_shapes_at_full_size(test_data):
    listed = (test_data("spec") / "keys" / "bert_base_keys.txt").read_text().splitlines()
    found = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in listed)
    }
    base = BertConfig(30522, 768, 12, 12, 3072, 512, token_types=2)
    leaves = flatten_abstract(nnx.eval_shape(lambda: BERT.build(base, nnx.Rngs(0))))
    made = {
        name: tensor.shape
        for name, tensor in plan({k: v.shape for k, v in leaves.items()}, BERT_RULES).items()
    }
    rest = {name: shape for name, shape in found.items() if name not in made}
    assert made.items() <= found.items() and all(knowingly_unused(name, UNUSED) for name in rest)
    assert len(found) == 199 and len(rest) == 2
    assert count(leaves) + sum(map(math.prod, rest.values())) == 109_482_240


def test_word_pieces_are_those_of_transformers(written):
    import transformers

    name, _, folder = written
    kind = {"bert": transformers.BertTokenizer, "mpnet": transformers.MPNetTokenizer}[name]
    theirs = kind.from_pretrained(folder)
    mine = WordPieces(folder, KINDS[name][1], 64, 100)
    texts = [*TEXTS, "RED\u00a0Dog\u4e00cat's", "a\tb\n" + "x" * 200]
    assert mine(texts) == [theirs(text)["input_ids"] for text in texts]


def test_a_folders_own_limits_and_padding_do_not_count(written, tmp_path):
    import tokenizers

    name, _, folder = written
    plain = WordPieces(folder, KINDS[name][1], 64, 100)
    own = tokenizers.Tokenizer.from_str(plain._tokenizer.to_str())
    own.enable_truncation(5)
    own.enable_padding(length=8)
    own.save(str(tmp_path / "tokenizer.json"))
    assert WordPieces(tmp_path, KINDS[name][1], 64, 100)(TEXTS) == plain(TEXTS)


def test_case_is_kept_where_the_folder_says_so(written, tmp_path):
    name, _, folder = written
    (tmp_path / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    lower, kept = (WordPieces(place, KINDS[name][1], 64, 100) for place in (folder, tmp_path))
    assert lower(["Red"]) == lower(["red"]) == kept(["red"]) != kept(["Red"])


def test_marks_in_a_text_are_words(written, tmp_path):
    import tokenizers

    name, _, folder = written
    marks = KINDS[name][1]
    own = tokenizers.Tokenizer.from_str(WordPieces(folder, marks, 64, 100)._tokenizer.to_str())
    own.add_special_tokens([marks.start, marks.end, marks.pad])
    own.save(str(tmp_path / "tokenizer.json"))
    pieces = WordPieces(tmp_path, marks, 64, 100)
    (row,) = pieces([f"red {marks.end}{marks.pad} dog"])
    assert row.count(pieces([""])[0][-1]) == 1 and pieces.pad_id not in row


@pytest.mark.parametrize("name", KINDS)
def test_tiny_reads_any_text(name):
    kind, marks = KINDS[name]
    pieces = WordPieces(None, marks, kind.tiny.max_tokens, kind.tiny.vocab_size)
    words, other, long = pieces(["Two red dogs, 3 cats!", "\u4e00", "a" * 5000 + " b" * 5000])
    unknown = other[1]
    assert len(words) == 2 + 17 and unknown not in words and len(other) == 3 and len(long) == 512


@pytest.mark.parametrize(
    ("kind", "changes", "message"),
    [
        (BERT, {"model_type": "roberta"}, "model_type='roberta'; expected 'bert'"),
        (SENTENCE, {}, "model_type='bert'; expected 'mpnet'"),
        (SENTENCE, {"model_type": "mpnet"}, "pad_token_id=0; expected 1"),
        (SENTENCE, MPNET | {"relative_attention_num_buckets": 8}, "num_buckets=8; expected 32"),
        (BERT, {"hidden_act": "relu"}, "hidden_act='relu'; expected 'gelu'"),
        (BERT, {"position_embedding_type": "relative_key"}, "'relative_key'; expected 'absolute'"),
        (BERT, {"hidden_size": None}, "hidden_size=None; expected a whole number of at least 1"),
        (BERT, {"num_attention_heads": 5}, "hidden_size=48 for 5 heads, which does not divide"),
        (
            BERT,
            {"intermediate_size": 96},
            "do not fit its config.json .*of another shape: .*intermediate.dense.bias",
        ),
        (BERT, {"num_hidden_layers": 4}, "do not fit its config.json .*missing: encoder.layer.3"),
        (BERT, {"num_hidden_layers": 2}, "do not fit its config.json .*not used: encoder.layer.2"),
    ],
)
def test_refusals(kind, changes, message, bert_folder, sharder, tmp_path):
    raw = json.loads((bert_folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").symlink_to(bert_folder / "model.safetensors")
    with pytest.raises(UserError, match=message) as caught:
        load_reward_model(kind, str(tmp_path), sharder)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def bert_folder(torch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    write_encoder(torch, "bert", folder)
    return folder


@pytest.mark.parametrize(
    ("files", "size", "message"),
    [
        ({}, 100, "there is no tokenizer.json and no vocab.txt in '.*'; expected one of them"),
        (
            {"tokenizer.json": "{"},
            100,
            "tokenizer.json' cannot be read as a tokenizer .*; get the file again",
        ),
        (
            {"vocab.txt": "red\ndog\n"},
            100,
            r"lacks \[CLS\], \[SEP\], \[PAD\], \[UNK\]; take the tokenizer files",
        ),
        (
            {"vocab.txt": "[PAD]\n[UNK]\n[CLS]\n[SEP]\nred\n"},
            4,
            "ids up to 4, but its model has 4 words; take",
        ),
    ],
)
def test_refusals_of_tokenizers(files, size, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        WordPieces(tmp_path, BERT_MARKS, 64, size)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_that_is_no_text(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="not a list of words in UTF-8"):
        WordPieces(tmp_path, BERT_MARKS, 64, 100)
