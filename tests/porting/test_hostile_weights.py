"""Weight files that are damaged or made to cost much: one line, before memory or time is used."""

from __future__ import annotations

import io
import json
import pickle
import re
import struct
import tracemalloc
import zipfile

import numpy as np
import pytest
from hostile_json import SETTINGS, refusal
from hypothesis import example, given
from hypothesis import strategies as st

from corl_jax.core.errors import UserError
from corl_jax.porting import npy_files
from corl_jax.porting.npy_files import read_npy, read_npz
from corl_jax.porting.size_limits import MAX_PICKLE_BYTES, MAX_TENSORS
from corl_jax.porting.tensors import open_weights
from corl_jax.porting.torch_legacy_pickle import MAGIC, read_legacy
from corl_jax.porting.torch_pickle import TorchFile

STORAGE = (
    b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06tQ"
)
"""A storage of six numbers in the file 0, as torch describes it."""


def pickled_tensor(shape: bytes, stride: bytes, storage: bytes = STORAGE) -> bytes:
    """``{"x": tensor}``; shape and stride are pickled tuples."""
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00" + shape + stride + b"\x89NtR"
    )
    return b"\x80\x02}X\x01\x00\x00\x00x" + call + b"s."


GOOD = pickled_tensor(b"K\x02K\x03\x86", b"K\x03K\x01\x86")


def write_archive(
    path, description: bytes, storage: bytes = bytes(24), compression=zipfile.ZIP_STORED
):
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("a/data.pkl", description)
        file.writestr("a/data/0", storage)
    return path


def peak_bytes(function, *arguments) -> tuple[str, int]:
    """The error of a call, and the most memory that it took."""
    tracemalloc.start()
    try:
        return refusal(function, *arguments), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_the_good_file_is_read(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    file = TorchFile.open(write_archive(tmp_path / "a.bin", GOOD, numbers.tobytes()))
    np.testing.assert_array_equal(file.read("x"), numbers.reshape(2, 3))


NESTED_TUPLE = b"K\x01" + b"".join(b"q\x00h\x00h\x00\x86" for _ in range(60))
"""A tuple of 2**60 numbers, each level of which has the level below twice."""


@pytest.mark.parametrize(
    ("description", "message"),
    [
        # The machine in C makes a table of that many entries.
        (b"\x80\x02}r\x00\x00\x00\x01.", None),
        (b"\x80\x02}r\xff\xff\xff\x7f.", None),
        # To hash it would take for ever, and so would to print it.
        (b"\x80\x02}" + NESTED_TUPLE + b"K\x01s.", "it has a key that is no text"),
        (b"\x80\x02" + NESTED_TUPLE + b"Q.", "it refers to a tuple, which is not the storage"),
        # A stride of 0 shows one number at any number of places.
        (pickled_tensor(b"\x8a\x06\x00\x00\x00\x00\x00\x01\x85", b"K\x00\x85"), "not a complete"),
        (pickled_tensor(b"K\x07\x85", b"K\x00\x85"), "its entry 'x' is not a complete tensor"),
        (pickled_tensor(b"K\x02K\x03\x86", b"K\x09K\x01\x86"), "its entry 'x' is not a complete"),
        (
            pickled_tensor(b"(" + b"K\x01" * 9 + b"t", b"(" + b"K\x01" * 9 + b"t"),
            "more than 8 axes",
        ),
        (pickled_tensor(b"]K\x06a", b"K\x01\x85"), "more than 8 axes"),
        (pickled_tensor(b"\x88\x85", b"K\x01\x85"), "its entry 'x' is not a complete tensor"),
        # Calls with long arguments, and of what makes other things than tensors.
        (b"\x80\x02ccollections\nOrderedDict\n(" + b"K\x01" * 9 + b"tR.", "more than 8 arguments"),
        (b"\x80\x02ccollections\nOrderedDict\n]R.", "more than 8 arguments"),
        (b"\x80\x02ccollections\nOrderedDict\n}\x85R.", "takes 0 positional arguments"),
        (b"\x80\x02X\x01\x00\x00\x00a)R.", "'str' object is not callable"),
        (b"\x80\x02cbuiltins\neval\n(X\x01\x00\x00\x001tR.", "imports builtins.eval"),
        (b"\x80\x04\x8f.", "it has the instruction 0x8f, which no tensor needs"),
        (b"I10\n.", "it has the instruction 0x49"),
        (b"\x80\x02}(K\x01K\x02d.", "it has the instruction 0x64"),
        (b"\x80\x02\x8b\xff\xff\xff\x7f.", "it has the instruction 0x8b"),
        (b"\x80\x02X\xff\xff\xff\x7fabc.", "is refused"),
        (b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", "is refused"),
        (b"", "is refused"),
        (b".", "is refused"),
        (b"\x80\x02" + b"(" * 1000 + b".", "is refused"),
        (b"\x80\x02N.", "it holds a NoneType"),
        (
            bytes(MAX_PICKLE_BYTES + 1),
            "its data.pkl has 8388609 bytes; at most 8388608 are allowed",
        ),
        (b"\x80\x02}X\x90\x01\x00\x00" + b"y" * 400 + b"K\x01s.", "its entry 'yyyy.*... is not a"),
    ],
)
def test_pickles_cost_no_more_than_their_length(tmp_path, description, message):
    path = write_archive(tmp_path / "a.bin", description, compression=zipfile.ZIP_DEFLATED)
    if message is None:
        # No tensor, and no table of two billion entries either.
        assert TorchFile.open(path).tensors == {}
    else:
        text, peak = peak_bytes(TorchFile.open, path)
        assert re.search(message, text), text
        assert peak < 5 * MAX_PICKLE_BYTES


def test_compressed_numbers_are_refused(tmp_path):
    path = write_archive(tmp_path / "a.bin", GOOD, compression=zipfile.ZIP_DEFLATED)
    assert "its numbers are compressed" in refusal(TorchFile.open(path).read, "x")


@SETTINGS
@given(st.binary(max_size=60) | st.lists(st.integers(0, len(GOOD) - 1), max_size=4).map(
    lambda places: bytes(b ^ (37 if i in places else 0) for i, b in enumerate(GOOD))))  # fmt: skip
@example(GOOD)
def test_no_pickle_ends_in_a_traceback(description):
    path = io.BytesIO()
    write_archive(path, description)
    try:
        file = TorchFile.open(path)  # type: ignore[arg-type]
        assert all(tensor.fits_storage for tensor in file.tensors.values())
    except UserError as error:
        assert "\n" not in str(error)


def legacy_file(tmp_path, count: int, tensor: bytes = GOOD, numbers: bytes = bytes(24)):
    """A file of the older format; ``count`` is what stands before its numbers."""
    machine = pickle.dumps({"little_endian": True}, 2)
    parts = [MAGIC, pickle.dumps(1001, 2), machine, tensor, pickle.dumps(["0"], 2)]
    path = tmp_path / "vgg.pth"
    path.write_bytes(b"".join(parts) + struct.pack("<q", count) + numbers)
    return path


def test_older_files(tmp_path):
    assert read_legacy(legacy_file(tmp_path, 6))["x"].shape == (2, 3)
    huge = STORAGE.replace(b"K\x06", b"\x8a\x06\x00\x00\x00\x00\x00\x01")
    shape = b"K\x02K\x03\x86"
    path = legacy_file(tmp_path, 2**40, pickled_tensor(shape, shape, huge))
    text, peak = peak_bytes(read_legacy, path)
    assert "it has 6 of 1099511627776 numbers of a storage" in text and peak < 2 * MAX_PICKLE_BYTES
    assert "numbers of a storage" in refusal(read_legacy, legacy_file(tmp_path, -1))
    assert "is refused" in refusal(read_legacy, legacy_file(tmp_path, 6, b"\x80\x02]."))


def safetensors_bytes(header: object, numbers: bytes = bytes(24)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + numbers


TENSOR = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "model.safetensors' cannot be read"),
        (b"\xff" * 8, "model.safetensors' cannot be read"),
        ((2**40).to_bytes(8, "little") + b"{}", "model.safetensors' cannot be read"),
        (safetensors_bytes(b"{"), "cannot be read"),
        (safetensors_bytes(b"\xff\xfe"), "cannot be read"),
        (safetensors_bytes(b"[" * 100_000), "cannot be read"),
        (safetensors_bytes([]), "cannot be read"),
        (safetensors_bytes({"x": TENSOR | {"data_offsets": [0, 2**60]}}), "cannot be read"),
        (safetensors_bytes({"x": TENSOR | {"data_offsets": [24, 0]}}), "cannot be read"),
        (safetensors_bytes({"x": TENSOR | {"shape": [2**40, 2**40]}}), "cannot be read"),
        (safetensors_bytes({"x": TENSOR | {"shape": [-2, -3]}}), "cannot be read"),
        (safetensors_bytes({"x": TENSOR | {"shape": None}}), "cannot be read"),
        (safetensors_bytes({"x": TENSOR, "y": TENSOR}), "cannot be read"),
        (safetensors_bytes({"x": {"dtype": "F8_E4M3", "shape": [24], "data_offsets": [0, 24]}}),
         "tensor 'x' in .* has dtype F8_E4M3; it must be one of F64, F32"),
        (safetensors_bytes({"x": TENSOR | {"shape": [2, 3, *[1] * 7]}}), "'x' in .* at most 8 axes; got 9"),
        (safetensors_bytes({"a\nb": TENSOR}), r"at most 300 printable characters; got 'a\\nb'"),
        (safetensors_bytes({"a" * 301: TENSOR}), "at most 300 printable characters; got 'aaaa"),
        (safetensors_bytes({
            f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
            for i in range(MAX_TENSORS + 1)}, b""),
         "must have at most 20000 tensors; got 20001"),
    ],
)  # fmt: skip
def test_headers_of_safetensors(tmp_path, content, message):
    (tmp_path / "model.safetensors").write_bytes(content)
    assert re.search(message, text := refusal(open_weights, tmp_path)), text


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_that_name(tmp_path, name):
    (tmp_path / name).mkdir()
    assert "must be a file; got a folder" in refusal(open_weights, tmp_path)


def npy_bytes(head: str, numbers: bytes = bytes(24)) -> bytes:
    text = head.encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + numbers


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read as a .npy file"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (2000000000, 600)}"),
         "it has 24 bytes of numbers; its head says 4800000000000"),
        (npy_bytes("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3)}"), "cannot be read"),
        (npy_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (3,)}"), "Python objects"),
        (npy_bytes("-" * 9000 + "1"), "cannot be read as a .npy file"),
        (npy_bytes("(" * 300), "cannot be read as a .npy file"),
        (b"\x93NUMPY\x09\x00" + bytes(200), "cannot be read as a .npy file"),
    ],
)  # fmt: skip
def test_arrays_of_numpy(tmp_path, content, message):
    path = tmp_path / "codes.npy"
    path.write_bytes(content)
    assert message in refusal(read_npy, path, "--codes")
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("x.npy", content)
    assert "expected arrays as np.savez writes them" in refusal(read_npz, tmp_path / "a.npz")


def test_good_arrays_of_numpy(tmp_path, monkeypatch, rng):
    array = rng.normal(size=(3, 4)).astype(np.float32)
    np.save(tmp_path / "a.npy", array.T)
    np.testing.assert_array_equal(read_npy(tmp_path / "a.npy", "--codes"), array.T)
    np.savez_compressed(tmp_path / "a.npz", x=array, y=np.zeros(10**5))
    np.testing.assert_array_equal(read_npz(tmp_path / "a.npz")["x"], array)

    # A compressed archive may be larger than its file.
    monkeypatch.setattr(npy_files, "MAX_BYTES", 10**5)
    assert "bytes of arrays; at most 100000 are allowed" in refusal(read_npz, tmp_path / "a.npz")
