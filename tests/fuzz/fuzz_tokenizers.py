"""Fuzzes ``open_tokenizer`` and the texts that it encodes: ``python tests/fuzz/fuzz_tokenizers.py``.

Needs atheris. Arguments are those of libFuzzer, for example ``-max_total_time=120``. The input is
spliced into a good file at places that the fuzzer chooses. Anything but a UserError is a finding.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile

import atheris

with atheris.instrument_imports(include=["corl_jax.data", "corl_jax.core.checks.json_reader"]):
    from corl_jax.core.errors import UserError
    from corl_jax.data.text_tokenizer import TextTokenizer

from corl_jax.data.shapes.vocabulary import build_tokenizer

CONTENT = json.loads(build_tokenizer().to_str())
CONTENT["model"]["vocab"] = {
    word: token_id for word, token_id in CONTENT["model"]["vocab"].items() if token_id < 24
}
KEYS = sorted(CONTENT)
STEPS = (
    '{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}',
    '{"type": "Replace", "pattern": {"Regex": "(a+)+$"}, "content": "b"}',
    '{"type": "Prepend", "prepend": "x"}',
    '{"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true}',
    '{"type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,'
    ' "strip_accents": null, "lowercase": true}',
    '{"type": "NFKC"}',
    '{"type": "Metaspace", "replacement": "_", "prepend_scheme": "always", "split": true}',
    '{"type": "WordPiece", "prefix": "##", "cleanup": true}',
    '{"type": "Split", "pattern": {"Regex": "."}, "behavior": "Isolated", "invert": false}',
)


def fuzz(data: bytes) -> None:
    """Writes one file, opens it, and encodes and decodes one text."""
    provider = atheris.FuzzedDataProvider(data)
    content = dict(CONTENT)
    text = provider.ConsumeUnicode(40)

    # Up to three entries are others: a known step, or whatever the fuzzer has.
    for _ in range(provider.ConsumeIntInRange(0, 3)):
        key = KEYS[provider.ConsumeIntInRange(0, len(KEYS) - 1)]
        if provider.ConsumeBool():
            chosen = [
                STEPS[provider.ConsumeIntInRange(0, len(STEPS) - 1)]
                for _ in range(provider.ConsumeIntInRange(1, 5))
            ]
            names = {"normalizer": "normalizers", "pre_tokenizer": "pretokenizers"}
            name = names.get(key, "decoders")
            content[key] = json.loads(f'{{"type": "Sequence", "{name}": [{", ".join(chosen)}]}}')
        else:
            content[key] = provider.ConsumeUnicode(30)
    file = json.dumps(content).encode()

    # Some bytes of the file are others, too.
    position = provider.ConsumeIntInRange(0, len(file))
    splice = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 20))
    if splice:
        file = file[:position] + splice + file[position + provider.ConsumeIntInRange(0, 20) :]
    (FOLDER / "tokenizer.json").write_bytes(file)

    try:
        tokenizer = TextTokenizer.load(FOLDER)
        ids = tokenizer.encode(text)
        tokenizer.decode([*ids, provider.ConsumeIntInRange(0, 200)])
        tokenizer.banned_text_ids()
    except UserError as error:
        assert "\n" not in str(error)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        FOLDER = pathlib.Path(temporary)
        atheris.Setup(sys.argv, fuzz)
        atheris.Fuzz()
