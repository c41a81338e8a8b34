# SPDX-License-Identifier: Apache-2.0
"""Safetensors files: nothing that is damaged or forged is believed."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forged import ONE, file_of, loaded
from hypothesis import given
from hypothesis import strategies as st
from wrong_arguments import FUZZ

from pyrnn.io import load_safetensors, save_safetensors
from pyrnn.io import safetensors as module


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A small file as it is written here: three dtypes, an empty tensor, a scalar, metadata."""
    path = tmp_path_factory.mktemp("sound") / "x"
    tensors = {
        "weight": np.arange(6, dtype=np.float32).reshape(2, 3) / 7,
        "count": np.array(3, np.int64),
        "none": np.zeros((0, 5), np.float16),
        "flags": np.array([True, False, True]),
    }
    save_safetensors(path, tensors, {"made": "in a test", "ünicode": "✓"})
    return path.read_bytes()


def entry(dtype: Any = "F32", shape: Any = (2, 3), offsets: Any = (0, 24), **more: Any) -> dict[str, Any]:
    return {"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets, **more}}


SECOND = {"dtype": "U8", "shape": [4]}
HOSTILE = {
    "empty file": b"",
    "seven bytes": b"\0" * 7,
    "no header": b"\0" * 8,
    "header beyond the end": file_of({"a": ONE}, bytes(24), length=10**6),
    "header of all the memory": file_of({"a": ONE}, bytes(24), length=2**64 - 1),
    "header ends early": file_of({"a": ONE}, bytes(24), length=20),
    "header with data in it": file_of({"a": ONE}, bytes(24), length=len(json.dumps({"a": ONE})) + 1),
    "not JSON": file_of(b"{'a': 1}"),
    "not UTF-8": file_of(b'{"\xff": 1}'),
    "UTF-16": file_of("{}".encode("utf-16")),
    "leading space": file_of(b" {}"),
    "byte order mark": file_of(b"\xef\xbb\xbf{}"),
    "a list": file_of(b"[]"),
    "two values": file_of(b"{}{}"),
    "NaN": file_of(b'{"a": NaN}'),
    "infinity for a shape": file_of(
        b'{"a":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,24]}}', bytes(24)
    ),
    "nested deeply": file_of(b'{"a":' * 100_000),
    "an endless number": file_of(b'{"a":' + b"1" * 10_000 + b"}"),
    "name twice": file_of(b'{"a":%s,"a":%s}' % ((json.dumps(ONE).encode(),) * 2), bytes(24)),
    "metadata twice": file_of(b'{"__metadata__":{},"__metadata__":{}}'),
    "field twice": file_of(b'{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', b"\0"),
    "metadata of numbers": file_of({"__metadata__": {"k": 1}}),
    "metadata is a list": file_of({"__metadata__": []}),
    "metadata is null": file_of({"__metadata__": None}),
    "entry is a list": file_of({"a": []}),
    "field missing": file_of({"a": {"dtype": "F32", "shape": [0]}}),
    "field too many": file_of(entry(more=1), bytes(24)),
    "dtype unknown": file_of(entry(dtype="F33"), bytes(24)),
    "dtype bfloat16": file_of(entry(dtype="BF16", offsets=[0, 12]), bytes(12)),
    "dtype of another case": file_of(entry(dtype="f32"), bytes(24)),
    "dtype object": file_of(entry(dtype="O"), bytes(24)),
    "dtype null": file_of(entry(dtype=None), bytes(24)),
    "dtype is a list": file_of(entry(dtype=["F32"]), bytes(24)),
    "dtype too wide for the data": file_of(entry(dtype="F64"), bytes(24)),
    "shape too small": file_of(entry(shape=[2, 2]), bytes(24)),
    "shape negative twice": file_of(entry(shape=[-2, -3]), bytes(24)),
    "shape of floats": file_of(entry(shape=[2.0, 3]), bytes(24)),
    "shape of booleans": file_of(entry(dtype="F64", shape=[True, 3]), bytes(24)),
    "shape of strings": file_of(entry(shape=["2", 3]), bytes(24)),
    "shape is a number": file_of(entry(shape=6), bytes(24)),
    "shape overflows 64 bits to its size": file_of(entry(shape=[2**62 + 6, 4, 2**62]), bytes(24)),
    "shape beyond 64 bits": file_of(entry(shape=[0, 2**64], offsets=[0, 0])),
    "shape impossible though empty": file_of(entry(shape=[0, 2**62, 2**62], offsets=[0, 0])),
    "shape of 100 axes": file_of(entry(shape=[1] * 100, dtype="U8", offsets=[0, 1]), b"\0"),
    "offsets reversed": file_of(entry(offsets=[24, 0]), bytes(24)),
    "offsets negative": file_of(entry(offsets=[-24, 0]), bytes(24)),
    "offsets beyond the end": file_of(entry(offsets=[8, 32]), bytes(24)),
    "offsets of one": file_of(entry(offsets=[24]), bytes(24)),
    "offsets of three": file_of(entry(offsets=[0, 24, 24]), bytes(24)),
    "offsets of floats": file_of(entry(offsets=[0, 24.0]), bytes(24)),
    "offsets huge": file_of(entry(offsets=[2**70, 2**70 + 24]), bytes(24)),
    "overlap": file_of({"a": ONE, "b": {**SECOND, "data_offsets": [20, 24]}}, bytes(24)),
    "the same bytes twice": file_of({"a": ONE, "b": ONE}, bytes(24)),
    "one inside another": file_of({"a": ONE, "b": {**SECOND, "data_offsets": [4, 8]}}, bytes(24)),
    "gap": file_of({"a": ONE, "b": {**SECOND, "data_offsets": [28, 32]}}, bytes(32)),
    "gap in front": file_of(entry(offsets=[4, 28]), bytes(28)),
    "data too long": file_of({"a": ONE}, bytes(25)),
    "data too short": file_of({"a": ONE}, bytes(23)),
    "data and no tensor": file_of({}, b"\0"),
    "boolean of two": file_of(entry("BOOL", [2], [0, 2]), b"\1\2"),
    "checksum of words": file_of({"__metadata__": {"pyrnn-checksum": "yes"}}),
    "checksum wrong": file_of({"__metadata__": {"pyrnn-checksum": "pyrnn-crc32:01234567"}}),
    "checksum under another name": file_of({"__metadata__": {"checksum": "pyrnn-crc32:01234567"}}),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_hostile_file(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(ValueError, match=r"x\.safetensors: ."):
        loaded(tmp_path, content)


def test_header_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "sparse"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", module.MAX_HEADER + 1))
        file.truncate(module.MAX_HEADER + 100)  # a hole: no disk, and no memory unless it is read
    with pytest.raises(ValueError, match="header of at most"):
        load_safetensors(path)


def test_truncated_anywhere(tmp_path: Path, sound: bytes) -> None:
    assert loaded(tmp_path, sound)
    for length in range(len(sound)):
        with pytest.raises(ValueError):
            loaded(tmp_path, sound[:length])
    with pytest.raises(ValueError):
        loaded(tmp_path, sound + b"\0")


def test_every_flipped_bit_is_found(tmp_path: Path, sound: bytes) -> None:
    for bit in range(8 * len(sound)):
        content = bytearray(sound)
        content[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ValueError):
            loaded(tmp_path, bytes(content))


@FUZZ
@given(data=st.data())
def test_flipped_bits_without_a_checksum(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(file_of({"a": ONE, "b": {**SECOND, "data_offsets": [24, 28]}}, bytes(range(28))))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    try:
        tensors, _ = loaded(tmp_path_factory.getbasetemp(), bytes(content))
    except ValueError:
        return
    # Nobody can tell a flipped letter of a name from another name; every byte is still in exactly one tensor.
    length = struct.unpack("<Q", content[:8])[0]
    found = b"".join(a.tobytes() for a in tensors.values())
    assert found == content[8 + length :]


@FUZZ
@given(st.binary(max_size=200), st.booleans())
def test_arbitrary_bytes(tmp_path_factory: pytest.TempPathFactory, content: bytes, framed: bool) -> None:
    content = file_of(b"{" + content) if framed else content
    try:
        tensors, _ = loaded(tmp_path_factory.getbasetemp(), content)
    except ValueError:
        return
    assert all(a.size == 0 for a in tensors.values()) or len(content) > 8


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@FUZZ
@given(st.sampled_from(["dtype", "shape", "data_offsets"]), JSON)
def test_arbitrary_fields(tmp_path_factory: pytest.TempPathFactory, field: str, value: Any) -> None:
    content = file_of({"a": {**ONE, field: value}}, bytes(24))
    if field == "dtype" and value in ("I32", "U32"):
        return
    try:
        tensors, _ = loaded(tmp_path_factory.getbasetemp(), content)
    except ValueError:
        return
    assert tensors["a"].size == 6
