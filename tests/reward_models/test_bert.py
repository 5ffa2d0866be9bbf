"""BERT and MPNet folders: states and word pieces of transformers, tensor names, what is refused."""

import json
import math

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file

from corl_jax.core.errors import UserError
from corl_jax.core.sharding import Sharder, make_mesh
from corl_jax.core.trees import bind, count, flatten_abstract
from corl_jax.porting.rules import checkpoint_tensors, is_unused
from corl_jax.reward_models.base import load_reward_model
from corl_jax.reward_models.bert.model import BertConfig, relative_position_buckets
from corl_jax.reward_models.bert.tokenizer import (
    BERT_SPECIAL_TOKENS,
    MPNET_SPECIAL_TOKENS,
    WordPieceTokenizer,
)
from corl_jax.reward_models.bert.weights import BERT, BERT_RULES, SENTENCE, UNUSED_TENSORS
from tests.reward_models.encoders import TEXTS, torch_states, write_encoder

MPNET = {"model_type": "mpnet", "pad_token_id": 1}
ENCODERS = {"bert": (BERT, BERT_SPECIAL_TOKENS), "mpnet": (SENTENCE, MPNET_SPECIAL_TOKENS)}


@pytest.fixture(scope="module")
def sharder():
    return Sharder(make_mesh({"data": 1}, jax.devices()[:1]))


@pytest.fixture(
    scope="module", params=[("bert", False), ("bert", True), ("mpnet", False), ("mpnet", True)]
)
def encoder_folder(request, torch, tmp_path_factory):
    """Name, torch's model and folder of an encoder, with and without the prefix of a head."""
    name, with_head = request.param
    folder = tmp_path_factory.mktemp(f"{name}{with_head}")
    return name, write_encoder(torch, name, folder, with_head), folder


def jax_states(model, rows, width, pad):
    """Last states of each row, without its padding, from one batch padded to ``width``."""
    tokens = np.full((len(rows), width), pad, np.int32)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
    lengths = np.array([len(row) for row in rows])
    run = jax.jit(lambda params, *batch: bind(model.graphdef, params)(*batch))
    states = run(model.params, tokens, lengths)
    return [np.asarray(state[: len(row)]) for state, row in zip(states, rows, strict=True)]


def test_states_of_a_padded_batch(encoder_folder, torch, sharder, assert_close):
    name, torch_model, folder = encoder_folder
    spec, special_tokens = ENCODERS[name]
    model = load_reward_model(spec, str(folder), sharder)
    max_tokens = model.cfg.max_tokens
    tokenizer = WordPieceTokenizer(model.folder, special_tokens, max_tokens, model.cfg.vocab_size)
    rows = tokenizer([*TEXTS, "red dog " * 1000])
    assert min(len(row) for row in rows) == 2 and len(rows[-1]) == 64 == max_tokens
    assert rows[-1][-1] == rows[0][-1]  # cut off before the end token

    states = jax_states(model, rows, 64, tokenizer.pad_id)
    expected = torch_states(torch, torch_model, rows, tokenizer.pad_id)
    for row_states, row_expected in zip(states, expected, strict=True):
        assert_close(row_states, row_expected)


def test_old_names_of_norms_give_the_same_parameters(encoder_folder, sharder, tmp_path):
    name, _, folder = encoder_folder
    tensors = load_file(folder / "model.safetensors")
    old_names = {"LayerNorm.weight": "LayerNorm.gamma", "LayerNorm.bias": "LayerNorm.beta"}
    renamed = {}
    for path, value in tensors.items():
        for new_name, old_name in old_names.items():
            path = path.replace(new_name, old_name)
        renamed[path] = value
    assert any("gamma" in path for path in renamed)
    assert not any(path.endswith("LayerNorm.bias") for path in renamed)

    # With the buffer that older writers saved.
    word_path = next(path for path in renamed if "word_embeddings" in path)
    buffer_path = word_path.removesuffix("word_embeddings.weight") + "position_ids"
    save_file(renamed | {buffer_path: np.arange(64)[None]}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())

    params, old_params = (
        load_reward_model(ENCODERS[name][0], str(path), sharder).params
        for path in (folder, tmp_path)
    )
    assert params.keys() == old_params.keys()
    assert all((params[path] == old_params[path]).all() for path in params)


def test_buckets_are_those_of_mpnet(torch):
    from transformers.models.mpnet.modeling_mpnet import MPNetEncoder

    positions = torch.arange(512)
    distances = positions[None] - positions[:, None]
    expected = MPNetEncoder.relative_position_bucket(distances, num_buckets=32)
    np.testing.assert_array_equal(relative_position_buckets(512, 32), expected.numpy())


def test_names_and_shapes_at_full_size(test_data):
    lines = (test_data("spec") / "keys" / "bert_base_keys.txt").read_text().splitlines()
    released = {
        name: tuple(json.loads(shape)) for name, shape in (line.split("\t") for line in lines)
    }
    base = BertConfig(30522, 768, 12, 12, 3072, 512, token_types=2)
    leaves = flatten_abstract(nnx.eval_shape(lambda: BERT.build_module(base, nnx.Rngs(0))))
    tensors = checkpoint_tensors({path: leaf.shape for path, leaf in leaves.items()}, BERT_RULES)
    used = {name: tensor.shape for name, tensor in tensors.items()}
    unused = {name: shape for name, shape in released.items() if name not in used}
    assert used.items() <= released.items()
    assert all(is_unused(name, UNUSED_TENSORS) for name in unused)
    assert len(released) == 199 and len(unused) == 2
    assert count(leaves) + sum(map(math.prod, unused.values())) == 109_482_240


def test_word_pieces_are_those_of_transformers(encoder_folder):
    import transformers

    name, _, folder = encoder_folder
    classes = {"bert": transformers.BertTokenizer, "mpnet": transformers.MPNetTokenizer}
    expected = classes[name].from_pretrained(folder)
    tokenizer = WordPieceTokenizer(folder, ENCODERS[name][1], 64, 100)
    texts = [*TEXTS, "RED\u00a0Dog\u4e00cat's", "a\tb\n" + "x" * 200]
    assert tokenizer(texts) == [expected(text)["input_ids"] for text in texts]


def test_limits_and_padding_of_the_file_do_not_count(encoder_folder, tmp_path):
    import tokenizers

    name, _, folder = encoder_folder
    plain = WordPieceTokenizer(folder, ENCODERS[name][1], 64, 100)
    limited = tokenizers.Tokenizer.from_str(plain._tokenizer.to_str())
    limited.enable_truncation(5)
    limited.enable_padding(length=8)
    limited.save(str(tmp_path / "tokenizer.json"))
    assert WordPieceTokenizer(tmp_path, ENCODERS[name][1], 64, 100)(TEXTS) == plain(TEXTS)


def test_upper_case_stays_where_the_config_says_so(encoder_folder, tmp_path):
    name, _, folder = encoder_folder
    (tmp_path / "vocab.txt").write_text((folder / "vocab.txt").read_text())
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    uncased, cased = (
        WordPieceTokenizer(path, ENCODERS[name][1], 64, 100) for path in (folder, tmp_path)
    )
    assert uncased(["Red"]) == uncased(["red"]) == cased(["red"]) != cased(["Red"])


def test_special_tokens_in_a_text_are_words(encoder_folder, tmp_path):
    import tokenizers

    name, _, folder = encoder_folder
    special = ENCODERS[name][1]
    plain = WordPieceTokenizer(folder, special, 64, 100)
    with_special = tokenizers.Tokenizer.from_str(plain._tokenizer.to_str())
    with_special.add_special_tokens([special.start, special.end, special.pad])
    with_special.save(str(tmp_path / "tokenizer.json"))
    tokenizer = WordPieceTokenizer(tmp_path, special, 64, 100)
    (row,) = tokenizer([f"red {special.end}{special.pad} dog"])
    end_id = tokenizer([""])[0][-1]
    assert row.count(end_id) == 1 and tokenizer.pad_id not in row


@pytest.mark.parametrize("name", ENCODERS)
def test_the_tiny_tokenizer_reads_any_text(name):
    spec, special_tokens = ENCODERS[name]
    cfg = spec.tiny_config
    tokenizer = WordPieceTokenizer(None, special_tokens, cfg.max_tokens, cfg.vocab_size)
    words, chinese, long = tokenizer(["Two red dogs, 3 cats!", "\u4e00", "a" * 5000 + " b" * 5000])
    unknown_id = chinese[1]
    assert len(words) == 2 + 17 and unknown_id not in words
    assert len(chinese) == 3 and len(long) == 512


@pytest.mark.parametrize(
    ("spec", "changes", "message"),
    [
        (BERT, {"model_type": "roberta"}, "model_type .* must be 'bert'; got 'roberta'"),
        (SENTENCE, {}, "model_type .* must be 'mpnet'; got 'bert'"),
        (SENTENCE, {"model_type": "mpnet"}, "pad_token_id .* must be 1; got 0"),
        (
            SENTENCE,
            MPNET | {"relative_attention_num_buckets": 8},
            "num_buckets .* must be 32; got 8",
        ),
        (BERT, {"hidden_act": "relu"}, "hidden_act .* must be 'gelu'; got 'relu'"),
        (
            BERT,
            {"position_embedding_type": "relative_key"},
            "must be 'absolute'; got 'relative_key'",
        ),
        (
            BERT,
            {"hidden_size": None},
            "hidden_size in .* must be a whole number from 1 to .*; got None",
        ),
        (
            BERT,
            {"num_attention_heads": 5},
            "hidden_size .* must be a multiple of its 5 heads; got 48",
        ),
        (
            BERT,
            {"intermediate_size": 96},
            "do not fit its config.json .*of another shape: .*intermediate.dense.bias",
        ),
        (BERT, {"num_hidden_layers": 4}, "do not fit its config.json .*missing: encoder.layer.3"),
        (BERT, {"num_hidden_layers": 2}, "do not fit its config.json .*not used: encoder.layer.2"),
    ],
)
def test_folders_that_are_refused(spec, changes, message, bert_folder, sharder, tmp_path):
    raw = json.loads((bert_folder / "config.json").read_text()) | changes
    (tmp_path / "config.json").write_text(json.dumps(raw))
    (tmp_path / "model.safetensors").symlink_to(bert_folder / "model.safetensors")
    with pytest.raises(UserError, match=message) as error:
        load_reward_model(spec, str(tmp_path), sharder)
    assert "\n" not in str(error.value)


@pytest.fixture(scope="module")
def bert_folder(torch, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    write_encoder(torch, "bert", folder)
    return folder


@pytest.mark.parametrize(
    ("files", "vocab_size", "message"),
    [
        ({}, 100, "must hold tokenizer.json or vocab.txt beside the weights; got neither"),
        (
            {"tokenizer.json": "{"},
            100,
            "tokenizer.json' is not JSON .*; take the tokenizer of the original",
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
def test_tokenizers_that_are_refused(files, vocab_size, message, tmp_path):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message) as error:
        WordPieceTokenizer(tmp_path, BERT_SPECIAL_TOKENS, 64, vocab_size)
    assert "\n" not in str(error.value)


def test_a_vocabulary_that_is_not_utf_8_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(b"\xff\xfe\n")
    with pytest.raises(UserError, match="must be a list of words in UTF-8"):
        WordPieceTokenizer(tmp_path, BERT_SPECIAL_TOKENS, 64, 100)
