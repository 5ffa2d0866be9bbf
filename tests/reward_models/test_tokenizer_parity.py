"""Tokenizers of reward models give the ids of transformers, on texts of every kind."""

from __future__ import annotations

import json
import random

import pytest
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

from corl_jax.reward_models.bert.tokenizer import (
    BERT_SPECIAL_TOKENS,
    MPNET_SPECIAL_TOKENS,
    WordPieceTokenizer,
    word_pieces,
)
from corl_jax.reward_models.clip.tokenizer import END, START, build_tokenizer

SPECIAL_TOKENS = {"bert": BERT_SPECIAL_TOKENS, "mpnet": MPNET_SPECIAL_TOKENS}
# Accents alone and combined, ligatures, marks without width, no letters at all, several scripts.
FIXED_TEXTS = (
    "", " ", "\t\n\r", "\x00\x01\x7f", "a\u200bb", "é e\u0301", "ﬃ İ ı ẞ Ǆ ǅ", "漢字かな한국어",
    "😀👨‍👩‍👧🇩🇪", "a" * 5000, "long " * 3000, "x" * 99 + "é" * 99, "don't they'll I've", "1234 12 3",
    "…—–“”", "\ufeffa\u2028b\u2029c\u00a0d", "𝐀", "a" + "\u0300\u0301" * 50, "##s </w>", "नमस्ते",
    "עברית العربية ไทย",
)  # fmt: skip
RANGES = (
    (0x20, 0x7E), (0, 0x24F), (0x300, 0x36F), (0x370, 0x5FF), (0x900, 0xDFF), (0x1100, 0x11FF),
    (0x1E00, 0x2BFF), (0x3000, 0x30FF), (0x4E00, 0x4F00), (0xAC00, 0xD7A3), (0xF900, 0xFFEF),
    (0x10000, 0x1FFFF), (0xE0000, 0xE01FF),
)  # fmt: skip


@pytest.fixture(scope="module")
def texts():
    """The fixed texts, and random ones: half of the letters are ASCII, the others of any range."""
    rng = random.Random(0)
    made = []
    for _ in range(4000):
        ranges = [rng.choice((RANGES[0], *RANGES)) for _ in range(rng.choice((1, 3, 8, 30)))]
        letters = [chr(rng.randint(*bounds)) for bounds in ranges]
        gaps = rng.choices(("", " ", "\n", "'s", "red"), (16, 1, 1, 1, 1), k=len(letters))
        made.append("".join(letter + gap for letter, gap in zip(letters, gaps, strict=True)))
    return [*FIXED_TEXTS, *made]


def make_words(special_tokens):
    """A vocabulary that splits and joins words, and does not have all letters."""
    letters = [chr(code) for code in (*range(33, 127), *range(0xA1, 0x250), *range(0x4E00, 0x4F00))]
    pieces = ["red", "dog", "##s", "##ing", "caf", *letters, *(f"##{it}" for it in letters[:200])]
    # Theirs would add the mask where it is missing.
    masks = ("[MASK]", "<mask>")
    return list(dict.fromkeys([*vars(special_tokens).values(), *masks, *pieces]))


@pytest.mark.parametrize("lower", [True, False])
@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_word_pieces(name, lower, texts, tmp_path):
    import transformers

    special_tokens = SPECIAL_TOKENS[name]
    words = make_words(special_tokens)
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": lower}))
    ours = WordPieceTokenizer(tmp_path, special_tokens, 64, len(words))

    tokenizer_class = {"bert": transformers.BertTokenizer, "mpnet": transformers.MPNetTokenizer}
    vocabulary = {word: i for i, word in enumerate(words)}
    theirs = tokenizer_class[name](vocab=vocabulary, do_lower_case=lower)
    expected = theirs(texts, max_length=64, truncation=True)["input_ids"]
    assert [it for it in zip(texts, ours(texts), expected, strict=True) if it[1] != it[2]] == []
    assert len({tuple(row) for row in expected}) > 2000


def test_captions():
    import transformers

    words = make_words(BERT_SPECIAL_TOKENS)
    ours = word_pieces(words, BERT_SPECIAL_TOKENS, "x")
    theirs = transformers.BertTokenizer(vocab={word: i for i, word in enumerate(words)})
    rng = random.Random(1)
    for _ in range(4000):
        ids = rng.choices(range(len(words)), k=rng.randint(0, 20))
        assert ours.decode(ids) == theirs.backend_tokenizer.decode(ids, skip_special_tokens=True)


def test_byte_pairs(texts):
    import transformers

    # Merges come from training; the vocabulary has every byte, inside and at the end of a word.
    trained = tokenizers.Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(False)]
    )
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=1200, initial_alphabet=letters, end_of_word_suffix="</w>", show_progress=False
    )
    trained.train_from_iterator(
        ["red dogs don't see blue circles 漢字 é"] * 9 + texts[:1500], trainer
    )
    model = json.loads(trained.to_str())["model"]
    merges = [(left, right) for left, right in model["merges"]]
    ends = (f"{letter}</w>" for letter in letters)
    tokens = dict.fromkeys([*letters, *ends, *model["vocab"], START, END])
    vocabulary = {token: i for i, token in enumerate(tokens)}

    ours = build_tokenizer(vocabulary, merges)
    theirs = transformers.CLIPTokenizer(vocab=vocabulary, merges=merges)
    expected = theirs(texts, add_special_tokens=False)["input_ids"]
    encodings = ours.encode_batch(texts, add_special_tokens=False)
    assert [encoding.ids for encoding in encodings] == expected and len(merges) > 500
