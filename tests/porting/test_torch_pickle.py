"""``pytorch_model.bin`` without torch: what it reads, and what it refuses."""

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
        "narrow": base.bfloat16(),
        "half": base.half(),
        "whole": torch.arange(5),
        "flag": torch.tensor([True, False]),
        "parameter": torch.nn.Parameter(base * 2),
    }
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    found = read_all(tmp_path / "pytorch_model.bin")
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        expected = tensor.detach().float().numpy()
        np.testing.assert_array_equal(found[name].astype(np.float32), expected, err_msg=name)
        assert found[name].shape == tuple(tensor.shape)
    assert str(found["narrow"].dtype) == "bfloat16" and found["whole"].dtype == np.int64


class Evil:
    def __reduce__(self):
        return os.system, ("exit 1",)


def archive(path, described: bytes, storages=()):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", described)
        for name, content in storages:
            file.writestr(f"archive/data/{name}", content)


class _Tensor:
    """Pickles like a tensor of torch."""

    def __init__(self, size, shape, stride, offset=0, kind="FloatStorage"):
        self.storage, self.shape, self.stride, self.offset = (
            ("storage", kind, "0", "cpu", size),
            shape,
            stride,
            offset,
        )


class _Pickler(pickle._Pickler):
    """Writes ``torch._utils._rebuild_tensor_v2(storage, ...)`` without torch."""

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, _Tensor):
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


def described(value):
    out = io.BytesIO()
    _Pickler(out, protocol=2).dump(value)
    return out.getvalue()


def test_our_forgery_is_read_where_it_is_honest(tmp_path):
    numbers = np.arange(6, dtype=np.float32)
    archive(
        tmp_path / "a.bin", described({"x": _Tensor(6, (2, 3), (3, 1))}), [("0", numbers.tobytes())]
    )
    np.testing.assert_array_equal(read_all(tmp_path / "a.bin")["x"], numbers.reshape(2, 3))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"x": Evil()}), "asks for posix.system, which is no part of a tensor"),
        (pickle.dumps([1, 2]), "holds a list"),
        (pickle.dumps({"x": 3}), "its entry 'x' is no whole tensor"),
        (pickle.dumps({"x": {"y": 1}}), "its entry 'x' is no whole tensor"),
        (b"not a pickle", "is refused"),
        (pickle.dumps({"x": "long" * 99})[:20], "is refused"),
        (described({"x": _Tensor(6, (1000, 1000), (1000, 1))}), "its entry 'x' is no whole tensor"),
        (described({"x": _Tensor(6, (2, 3), (-3, 1))}), "its entry 'x' is no whole tensor"),
        (
            described({"x": _Tensor(6, (2, 3), (3, 1), offset=-1)}),
            "its entry 'x' is no whole tensor",
        ),
        (
            described({"x": _Tensor(6, (2, 3), (3, 1), kind="QInt8Storage")}),
            "asks for torch.QInt8Storage",
        ),
    ],
)
def test_what_is_no_tensor_is_refused(tmp_path, content, message):
    archive(tmp_path / "pytorch_model.bin", content, [("0", bytes(24))])
    with pytest.raises(UserError, match=message) as error:
        TorchFile.open(tmp_path / "pytorch_model.bin")
    assert "\n" not in str(error.value)


def test_damaged_archives(torch, tmp_path):
    path = tmp_path / "pytorch_model.bin"
    torch.save({"x": torch.arange(1000.0)}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(UserError, match="no archive of torch.save .*; get the file again"):
        TorchFile.open(path)
    torch.save({"x": torch.arange(1000.0)}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(UserError, match="no archive of torch.save"):
        TorchFile.open(path)
    at = whole.index(np.arange(1000, dtype=np.float32).tobytes()) + 40
    path.write_bytes(whole[:at] + b"\x00\x00\x80\x7f" + whole[at + 4 :])
    with pytest.raises(UserError, match="tensor 'x' .*cannot be read .*CRC"):
        read_all(path)
    archive(path, described({"x": _Tensor(6, (6,), (1,))}), [("0", bytes(8))])
    with pytest.raises(UserError, match="has 2 of its 6 numbers"):
        read_all(path)
    archive(path, described({"x": _Tensor(6, (6,), (1,))}))
    with pytest.raises(UserError, match="tensor 'x' .*cannot be read"):
        read_all(path)
