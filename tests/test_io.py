# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: what is written comes back, and a write that fails leaves what was there."""

import json
import os
import stat
import struct
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import ONE, file_of, loaded

import pyrnn
from pyrnn.io import load_safetensors, save_safetensors
from pyrnn.io import safetensors as module


@pytest.mark.parametrize("dtype", module.DTYPES.values(), ids=module.DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,), (5, 7)], ids=str)
def test_round_trip(tmp_path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> None:
    a = np.random.default_rng(0).integers(0, 2 if dtype.kind == "b" else 100, shape).astype(dtype)
    save_safetensors(tmp_path / "x", {"a": a, "again": a}, {"k": "v", "": ""})
    tensors, metadata = load_safetensors(tmp_path / "x")
    assert list(tensors) == ["a", "again"] and metadata == {"k": "v", "": ""}
    for b in tensors.values():
        assert b.dtype == dtype and b.shape == shape and b.dtype.isnative and b.flags.writeable
        np.testing.assert_array_equal(b, a)


@pytest.mark.parametrize(
    "arrange",
    [
        lambda a: a.T,
        lambda a: a[::-1, ::2],
        lambda a: np.asfortranarray(a),
        lambda a: a.astype(">f4"),
        lambda a: np.broadcast_to(a[0], (4, 6)),
        lambda a: np.frombuffer(b"x" + a.tobytes(), np.uint8)[1:].view(np.float32).reshape(a.shape),
    ],
    ids=["transposed", "strided", "fortran", "byte-swapped", "broadcast", "misaligned"],
)
def test_any_memory_layout(tmp_path: Path, arrange: Any) -> None:
    a = arrange(np.arange(24, dtype=np.float32).reshape(4, 6))
    save_safetensors(tmp_path / "x", {"a": a})
    np.testing.assert_array_equal(load_safetensors(tmp_path / "x")[0]["a"], a)


def test_bytes_follow_the_format(tmp_path: Path) -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    save_safetensors(tmp_path / "x", {"count": np.array(3, np.int8), "weight": weight, "wide": np.ones(3)})
    sound = (tmp_path / "x").read_bytes()
    length = struct.unpack("<Q", sound[:8])[0]
    header, data = json.loads(sound[8 : 8 + length]), sound[8 + length :]
    assert length % 8 == 0 and sound[8:9] == b"{"
    begin, end = header["weight"]["data_offsets"]
    assert header["weight"]["dtype"] == "F32" and header["weight"]["shape"] == [2, 3]
    np.testing.assert_array_equal(np.frombuffer(data[begin:end], "<f4").reshape(2, 3), weight)
    for name, fields in header.items():
        if name != "__metadata__":
            assert fields["data_offsets"][0] % module.DTYPES[fields["dtype"]].itemsize == 0


def test_files_of_others(tmp_path: Path) -> None:
    data = np.arange(6, dtype="<f4").tobytes()
    header = {
        "b": {"dtype": "U8", "shape": [], "data_offsets": [24, 25]},
        "a": ONE,
        "__metadata__": {"k": "v"},
    }
    tensors, metadata = loaded(tmp_path, file_of(json.dumps(header).encode() + b"   ", data + b"\x07"))
    np.testing.assert_array_equal(tensors["a"], [[0, 1, 2], [3, 4, 5]])
    assert tensors["b"] == 7 and metadata == {"k": "v"}
    assert loaded(tmp_path, file_of({})) == ({}, {})


def test_agrees_with_the_safetensors_package(tmp_path: Path) -> None:
    peer = pytest.importorskip("safetensors.numpy", reason="the safetensors package is not installed")
    tensors = {"a": np.arange(6.0).reshape(2, 3), "b": np.array([True, False]), "c": np.array(1, np.int16)}
    save_safetensors(tmp_path / "ours", tensors, {"k": "v"})
    peer.save_file(tensors, tmp_path / "theirs", {"k": "v"})
    for found in (peer.load_file(tmp_path / "ours"), load_safetensors(tmp_path / "theirs")[0]):
        assert found.keys() == tensors.keys()
        for name, a in tensors.items():
            np.testing.assert_array_equal(found[name], a, strict=True)


@pytest.mark.parametrize(
    ("tensors", "metadata", "error"),
    [
        ({"a": [1.0]}, None, TypeError),
        ({"a": np.float32(1)}, None, TypeError),
        ({"a": np.array([None])}, None, TypeError),
        ({"a": np.zeros(1, complex)}, None, TypeError),
        ({"a": np.zeros(1, np.longdouble)}, None, TypeError),
        ({"a": np.array(["x"])}, None, TypeError),
        ({"a": np.ma.zeros(1)}, None, TypeError),
        ({"a": np.zeros(1, [("f", "f4")])}, None, TypeError),
        ({1: np.zeros(1)}, None, TypeError),
        ({"__metadata__": np.zeros(1)}, None, ValueError),
        ({"a\ud800": np.zeros(1)}, None, ValueError),
        ({}, {"k": 1}, TypeError),
        ({}, {1: "v"}, TypeError),
        ({}, {"pyrnn-checksum": "v"}, ValueError),
        ({}, {"k": "pyrnn-crc32:"}, ValueError),
    ],
)
def test_refused_before_anything_is_written(
    tmp_path: Path, tensors: Any, metadata: Any, error: type[Exception]
) -> None:
    path = tmp_path / "x"
    save_safetensors(path, {})
    before = path.read_bytes()
    with pytest.raises(error):
        save_safetensors(path, tensors, metadata)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x"]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("where", ["fsync", "replace"])
def test_failed_write_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException, where: str
) -> None:
    path = tmp_path / "x"
    save_safetensors(path, {"a": np.zeros(3)})

    def fail(*arguments: Any) -> None:
        raise error

    monkeypatch.setattr(os, where, fail)
    with pytest.raises(type(error)):
        save_safetensors(path, {"a": np.ones(300)})
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["x"]
    np.testing.assert_array_equal(load_safetensors(path)[0]["a"], np.zeros(3))


def test_reader_never_meets_half_a_file(tmp_path: Path) -> None:
    path = tmp_path / "x"
    save_safetensors(path, {"a": np.full(50_000, 0)})
    done = threading.Event()

    def write() -> None:
        for k in range(1, 60):
            save_safetensors(path, {"a": np.full(50_000 + k, k)})
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    reads = 0
    while not done.is_set():
        a = load_safetensors(path)[0]["a"]
        assert (a == a[0]).all() and a.size == 50_000 + a[0]
        reads += 1
    writer.join()
    assert reads > 1 and os.listdir(tmp_path) == ["x"]


@pytest.mark.skipif(os.name != "posix", reason="permissions and links of POSIX")
def test_permissions_and_links(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        save_safetensors(tmp_path / "x", {})
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "x").stat().st_mode) == 0o640
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere" / "y")
    save_safetensors(tmp_path / "link", {"a": np.ones(1)})
    assert (tmp_path / "link").is_symlink()
    assert load_safetensors(tmp_path / "elsewhere" / "y")[0]["a"] == 1


def test_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load_safetensors(tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        save_safetensors(tmp_path / "none" / "x", {})
    with pytest.raises(OSError):
        load_safetensors(tmp_path)
    with pytest.raises(OSError):
        save_safetensors(tmp_path, {})
    assert os.listdir(tmp_path) == []
    if os.path.exists("/dev/zero"):
        with pytest.raises(ValueError, match="regular file"):
            load_safetensors("/dev/zero")


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    path = tmp_path / "none" / "layer.safetensors"
    with pytest.raises(FileNotFoundError) as error:
        pyrnn.GRU(3, 4).save(path)
    assert error.value.filename == str(path) and error.value.filename2 is None
