"""Fuzzes the readers of weight files: ``python tests/fuzz/fuzz_safetensors.py``.

Needs atheris. Arguments are those of libFuzzer, for example ``-max_total_time=120``. Heads of
safetensors, pickles of torch and heads of NumPy are made of the input. Anything but a UserError is
a finding.
"""

from __future__ import annotations

import json
import pathlib
import sys
import tempfile
import zipfile

import atheris

with atheris.instrument_imports(include=["corl_jax.porting", "pickle"]):
    from corl_jax.core.errors import UserError
    from corl_jax.porting.npy_files import read_npy
    from corl_jax.porting.tensors import open_weights

DTYPES = ("F32", "BF16", "F16", "I64", "F64", "BOOL", "U8", "F8_E4M3", "")
PICKLE = (
    b"\x80\x02}X\x01\x00\x00\x00xctorch._utils\n_rebuild_tensor_v2\n((X\x07\x00\x00\x00storage"
    b"ctorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQK\x00K\x02K\x03\x86K\x03K"
    b"\x01\x86\x89NtRs."
)
HEAD = b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }"


def fuzz(data: bytes) -> None:
    """Writes one file of one kind and reads all of it."""
    provider = atheris.FuzzedDataProvider(data)
    for file in FOLDER.iterdir():
        file.unlink()
    try:
        kind = provider.ConsumeIntInRange(0, 3)
        if kind == 0:
            (FOLDER / "model.safetensors").write_bytes(_safetensors(provider))
        elif kind == 1:
            with zipfile.ZipFile(FOLDER / "pytorch_model.bin", "w") as archive:
                archive.writestr("a/data.pkl", _splice(PICKLE, provider))
                archive.writestr("a/data/0", bytes(24))
        elif kind == 2:
            # The older format, and archives that are damaged as a whole.
            (FOLDER / "pytorch_model.bin").write_bytes(provider.ConsumeBytes(4000))
        else:
            (FOLDER / "codes.npy").write_bytes(_splice(HEAD, provider) + bytes(24))
            read_npy(FOLDER / "codes.npy", "--codes")
            return

        weights = open_weights(FOLDER)
        for name in weights.headers:
            weights.read(name)
    except UserError as error:
        assert "\n" not in str(error)


def _safetensors(provider: atheris.FuzzedDataProvider) -> bytes:
    """A head of some tensors with numbers behind it; lengths may be wrong."""
    header: dict[str, object] = {}
    end = 0
    for _ in range(provider.ConsumeIntInRange(0, 4)):
        start, size = end, provider.ConsumeIntInRange(-1, 64)
        end = start + size
        header[provider.ConsumeUnicodeNoSurrogates(6)] = {
            "dtype": DTYPES[provider.ConsumeIntInRange(0, len(DTYPES) - 1)],
            "shape": provider.ConsumeIntListInRange(provider.ConsumeIntInRange(0, 10), -1, 20),
            "data_offsets": [start, end],
        }
    text = _splice(json.dumps(header).encode(), provider)
    length = len(text) + provider.ConsumeIntInRange(-1, 1)
    return max(length, 0).to_bytes(8, "little") + text + provider.ConsumeBytes(256)


def _splice(content: bytes, provider: atheris.FuzzedDataProvider) -> bytes:
    """``content`` with some bytes replaced."""
    for _ in range(provider.ConsumeIntInRange(0, 3)):
        position = provider.ConsumeIntInRange(0, len(content))
        piece = provider.ConsumeBytes(provider.ConsumeIntInRange(0, 12))
        content = (
            content[:position] + piece + content[position + provider.ConsumeIntInRange(0, 12) :]
        )
    return content


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        FOLDER = pathlib.Path(temporary)
        atheris.Setup(sys.argv, fuzz)
        atheris.Fuzz()
