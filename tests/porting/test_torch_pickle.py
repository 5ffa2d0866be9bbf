"""``pytorch_model.bin`` without torch: tensors are read, everything else is refused."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import numpy as np
import pytest

from corl_jax.core.errors import UserError
from corl_jax.porting.torch_pickle import TorchFile


def read_all(path):
    file = TorchFile.open(path)
    return {name: file.read(name) for name in file.tensors}


def test_tensors_of_every_kind(torch, tmp_path):
    base = torch.arange(24, dtype=torch.float32).reshape(4, 6)
    tensors = {
        "plain": base,
        "transposed": base.T,
        "part": base[1:3, 2:],
        "scalar": torch.tensor(3.5),
        "empty": torch.zeros(0, 3),
        "bfloat16": base.bfloat16(),
        "float16": base.half(),
        "int64": torch.arange(5),
        "flag": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base * 2),
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    arrays = read_all(tmp_path / "pytorch_model.bin")
    assert arrays.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach().float().numpy()
        np.testing.assert_array_equal(arrays[name].astype(np.float32), expected, err_msg=name)
        assert arrays[name].shape == tuple(tensor.shape)
    assert str(arrays["bfloat16"].dtype) == "bfloat16" and arrays["int64"].dtype == np.int64


class Malicious:
    """Runs a shell command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("exit 1",)


def write_archive(path, description: bytes, storages=()):
    """Writes a file in the zip format of ``torch.save``."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", description)
        for name, content in storages:
            file.writestr(f"archive/data/{name}", content)


class FakeTensor:
    """``ForgingPickler`` writes it like a tensor of torch, valid or not."""

    def __init__(self, size, shape, stride, offset=0, kind="FloatStorage"):
        self.storage = ("storage", kind, "0", "cpu", size)
        self.shape = shape
        self.stride = stride
        self.offset = offset


class ForgingPickler(pickle._Pickler):
    """Writes ``torch._utils._rebuild_tensor_v2(storage, ...)`` without torch."""

    def save(self, obj, save_persistent_id=True):
        # Opcodes: c imports, ( begins a tuple, t ends it, Q refers to a storage, R calls.
        if isinstance(obj, FakeTensor):
            self.write(b"ctorch._utils\n_rebuild_tensor_v2\n(")
            self.write(b"(")
            self.save("storage")
            self.write(f"ctorch\n{obj.storage[1]}\n".encode())
            for part in obj.storage[2:]:
                self.save(part)
            self.write(b"tQ")
            for part in (obj.offset, obj.shape, obj.stride, False, None):
                self.save(part)
            self.write(b"tR")
        else:
            super().save(obj, save_persistent_id)


def pickled(value):
    """The bytes of ``value``, with fake tensors in it."""
    out = io.BytesIO()
    ForgingPickler(out, protocol=2).dump(value)
    return out.getvalue()


def test_a_valid_fake_tensor_is_read(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    write_archive(
        tmp_path / "a.bin",
        pickled({"x": FakeTensor(6, (2, 3), (3, 1))}),
        [("0", numbers.tobytes())],
    )
    np.testing.assert_array_equal(read_all(tmp_path / "a.bin")["x"], numbers.reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"x": Malicious()}), "imports posix.system, which is not part of a tensor"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"x": 3}), "its entry 'x' is not a complete tensor"),
        (pickle.dumps({"x": {"y": 1}}), "its entry 'x' is not a complete tensor"),
        (b"not a pickle", "is refused"),
        (pickle.dumps({"x": "long" * 99})[:20], "is refused"),
        (
            pickled({"x": FakeTensor(6, (1000, 1000), (1000, 1))}),
            "its entry 'x' is not a complete tensor",
        ),
        (pickled({"x": FakeTensor(6, (2, 3), (-3, 1))}), "its entry 'x' is not a complete tensor"),
        (
            pickled({"x": FakeTensor(6, (2, 3), (3, 1), offset=-1)}),
            "its entry 'x' is not a complete tensor",
        ),
        (
            pickled({"x": FakeTensor(6, (2, 3), (3, 1), kind="QInt8Storage")}),
            "imports torch.QInt8Storage",
        ),
    ],
)
def test_everything_but_tensors_is_refused(tmp_path, content, message):
    write_archive(tmp_path / "pytorch_model.bin", content, [("0", bytes(24))])
    with pytest.raises(UserError, match=message) as error:
        TorchFile.open(tmp_path / "pytorch_model.bin")
    assert "\n" not in str(error.value)


def test_damaged_archives(torch, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.arange(1000.0)}, path)
    content = path.read_bytes()

    # An interrupted download, and the older format of torch.
    path.write_bytes(content[:500])
    with pytest.raises(UserError, match="not an archive of torch.save .*; get the file again"):
        TorchFile.open(path)
    torch.save({"x": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="not an archive of torch.save"):
        TorchFile.open(path)

    # A changed byte, and storages that are too short or absent.
    position = content.index(np.arange(1000, dtype=np.float32).tobytes()) + 40
    path.write_bytes(content[:position] + b"\x00\x00\x80\x7f" + content[position + 4 :])
    with pytest.raises(UserError, match="tensor 'x' .*cannot be read .*CRC"):
        read_all(path)
    write_archive(path, pickled({"x": FakeTensor(6, (6,), (1,))}), [("0", bytes(8))])
    with pytest.raises(UserError, match="has 2 of its 6 numbers"):
        read_all(path)
    write_archive(path, pickled({"x": FakeTensor(6, (6,), (1,))}))
    with pytest.raises(UserError, match="tensor 'x' .*cannot be read"):
        read_all(path)
