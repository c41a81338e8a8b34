# SPDX-License-Identifier: Apache-2.0
"""The safetensors format in NumPy: written atomically, and read as if an enemy had written it.

A file is an 8-byte little-endian length, that many bytes of JSON, and the tensors without a gap. The JSON
maps every name to its dtype, shape and range of bytes in the data, and `__metadata__` to strings. Nothing in
it is executed. Files written here also carry a CRC-32 of the whole file in the metadata: a flipped bit is an
error, and not a slightly different network. Files without one are read all the same.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import stat
import zlib
from collections.abc import Mapping
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from pyrnn.layout import Array

#: The format's names of the dtypes that NumPy has, little-endian.
DTYPES = {
    "BOOL": np.dtype("?"),
    "U8": np.dtype("u1"),
    "I8": np.dtype("i1"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
    "F64": np.dtype("<f8"),
}
NAMES = {dtype: name for name, dtype in DTYPES.items()}
MAX_HEADER = 100_000_000  # bytes; the format's own limit
METADATA = "__metadata__"
CHECKSUM = "pyrnn-checksum"
MARK = "pyrnn-crc32:"  # in front of the eight digits, so that they are found even under a damaged name
UNSET = "0" * 8  # what the digits are while the checksum is computed


class Entry(NamedTuple):
    """Where one tensor lies in the data."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    begin: int
    end: int


def save_safetensors(
    path: str | os.PathLike[str], tensors: Mapping[str, Array], metadata: Mapping[str, str] | None = None
) -> None:
    """Write arrays to a safetensors file: completely, or not at all.

    The file is written beside its destination, flushed to the disk and renamed: no full disk and no Ctrl-C
    leaves half a file, and no reader meets one. The same arrays give the same bytes.

    Parameters
    ----------
    path : path
        Replaced if it exists.
    tensors : mapping of str to array
        bool, integers, float16, float32 or float64, in any layout and byte order.
    metadata : mapping of str to str, optional

    Raises
    ------
    TypeError
        A name or a metadata value is no string, a value is no array, or has a dtype that the format lacks.
    ValueError
        A name is reserved.
    OSError
        The file cannot be written; what was there before is still there.

    Notes
    -----
    Equivalent to `safetensors.numpy.save_file(tensors, path, metadata)`.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from pyrnn.io import load_safetensors, save_safetensors
    >>> path = os.path.join(tempfile.mkdtemp(), "two.safetensors")
    >>> save_safetensors(path, {"a": np.arange(3.0), "b": np.ones((2, 2), np.int8)}, {"made": "here"})
    >>> tensors, metadata = load_safetensors(path)
    >>> tensors["a"], metadata
    (array([0., 1., 2.]), {'made': 'here'})
    """
    arrays = {name: stored(name, a) for name, a in tensors.items()}
    for key, value in (metadata or {}).items():
        if not isinstance(key, str) or not isinstance(value, str):
            raise TypeError(f"metadata: expected strings, got {key!r}: {type(value).__name__}")
        if key == CHECKSUM or value.startswith(MARK):
            raise ValueError(
                f"metadata: {CHECKSUM!r} and values that begin with {MARK!r} are reserved, got {key!r}"
            )
    # Widest dtypes first: every tensor is then aligned to its own item size.
    ordered = sorted(arrays, key=lambda name: (-arrays[name].itemsize, name))
    header: dict[str, Any] = {METADATA: {CHECKSUM: MARK + UNSET, **(metadata or {})}}
    begin = 0
    for name in ordered:
        a = arrays[name]
        end = begin + a.nbytes
        header[name] = {"dtype": NAMES[a.dtype], "shape": list(a.shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    if len(text) > MAX_HEADER:
        raise ValueError(
            f"tensors: expected names and metadata of at most {MAX_HEADER} bytes, got {len(text)}"
        )
    head = len(text).to_bytes(8, "little") + text
    checksum = zlib.crc32(head)
    for name in ordered:
        checksum = zlib.crc32(raw(arrays[name]), checksum)
    head = head.replace((MARK + UNSET).encode(), f"{MARK}{checksum:08x}".encode(), 1)
    write_atomically(path, [head, *(raw(arrays[name]) for name in ordered)])


def load_safetensors(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, str]]:
    """Read a safetensors file.

    Parameters
    ----------
    path : path

    Returns
    -------
    tensors : dict of str to array
        Native byte order, writable, each in its own memory, in the order of the file.
    metadata : dict of str to str

    Raises
    ------
    ValueError
        The file is truncated, damaged, or not in this format, or holds a dtype that NumPy lacks (bfloat16).
    OSError
        It cannot be read.

    Notes
    -----
    Equivalent to `safetensors.numpy.load_file(path)`. Memory is allocated only for bytes that the file has.

    Examples
    --------
    >>> import numpy as np, os, tempfile
    >>> from pyrnn.io import load_safetensors, save_safetensors
    >>> path = os.path.join(tempfile.mkdtemp(), "one.safetensors")
    >>> save_safetensors(path, {"a": np.arange(3.0)})
    >>> load_safetensors(path)
    ({'a': array([0., 1., 2.])}, {})
    """
    where = os.fspath(path)
    with open(path, "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError(f"{where}: expected a regular file")
        try:
            return read(file, status.st_size)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def read(file: BinaryIO, size: int) -> tuple[dict[str, Array], dict[str, str]]:
    """Tensors and metadata of an open file of `size` bytes; ValueError for whatever is wrong with it."""
    prefix = file.read(8)
    length = int.from_bytes(prefix, "little")
    if len(prefix) < 8 or length > size - 8:
        raise ValueError(f"truncated, or no safetensors file: {size} bytes, and the header claims {length}")
    if length > MAX_HEADER:
        raise ValueError(f"expected a header of at most {MAX_HEADER} bytes, got {length}")
    text = file.read(length)
    entries, metadata = parse(text, size - 8 - length)
    digits, unset = claimed_checksum(text, metadata)

    checksum = zlib.crc32(prefix + unset)
    tensors = {}
    for entry in entries:
        try:
            a = np.empty(entry.shape, entry.dtype)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{entry.name!r}: impossible shape {entry.shape}: {error}") from None
        if file.readinto(raw(a)) != a.nbytes:  # type: ignore[attr-defined]
            raise ValueError(f"truncated in {entry.name!r}")
        if entry.dtype == np.bool_ and a.size and a.view(np.uint8).max() > 1:
            raise ValueError(f"{entry.name!r}: expected booleans of 0 and 1, got {a.view(np.uint8).max()}")
        checksum = zlib.crc32(raw(a), checksum)
        tensors[entry.name] = a.astype(a.dtype.newbyteorder("="), copy=False)
    if digits is not None and digits != f"{checksum:08x}":
        raise ValueError(f"damaged: expected checksum {digits}, got {checksum:08x}")
    return tensors, metadata


def parse(text: bytes, data_size: int) -> tuple[list[Entry], dict[str, str]]:
    """The entries of a header in the order of the data, and the metadata, once they are known to be sound."""
    if not text.startswith(b"{"):
        raise ValueError("no safetensors file: the header does not begin with '{'")
    try:
        header = json.loads(text.decode(), object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise ValueError("header nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"header is not valid: {error}") from None
    metadata = header.pop(METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{METADATA}: expected a mapping of strings to strings")

    entries = sorted(
        (entry_of(name, fields) for name, fields in header.items()), key=lambda e: (e.begin, e.end)
    )
    position = 0
    for entry in entries:
        if entry.begin != position:
            kind = "overlap" if entry.begin < position else "gap"
            raise ValueError(f"{kind} before {entry.name!r}: expected offset {position}, got {entry.begin}")
        if entry.end > data_size:
            raise ValueError(f"truncated: {entry.name!r} ends at {entry.end}, the data at {data_size}")
        position = entry.end
    if position != data_size:
        raise ValueError(f"expected {position} bytes of data, got {data_size}")
    return entries, metadata


def entry_of(name: str, fields: Any) -> Entry:
    """One tensor's line of the header, checked on its own."""
    if not isinstance(fields, dict) or set(fields) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{name!r}: expected dtype, shape and data_offsets")
    kind, shape, offsets = fields["dtype"], fields["shape"], fields["data_offsets"]
    dtype = DTYPES.get(kind) if isinstance(kind, str) else None
    if dtype is None:
        raise ValueError(f"{name!r}: expected a dtype of {', '.join(DTYPES)}, got {str(kind)[:40]!r}")
    for label, numbers in (("shape", shape), ("data_offsets", offsets)):
        # type() and not isinstance: True is an int to Python, but no size.
        if not isinstance(numbers, list) or not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
            raise ValueError(f"{name!r}: expected {label} of integers from 0, got {str(numbers)[:80]}")
    if len(offsets) != 2 or offsets[1] - offsets[0] != math.prod(shape) * dtype.itemsize:
        raise ValueError(
            f"{name!r}: shape {str(shape)[:80]} of {kind} does not fit offsets {str(offsets)[:80]}"
        )
    return Entry(name, dtype, tuple(shape), *offsets)


def claimed_checksum(text: bytes, metadata: dict[str, str]) -> tuple[str | None, bytes]:
    """Take the checksum out of the metadata: its digits or None, and the header it was computed from."""
    keys = [key for key, value in metadata.items() if value.startswith(MARK)]
    if not keys and CHECKSUM not in metadata:
        return None, text
    value = metadata.pop(CHECKSUM, "")
    digits = value.removeprefix(MARK)
    if keys != [CHECKSUM] or len(digits) != len(UNSET) or text.count(value.encode()) != 1:
        raise ValueError(f"damaged: the header's {CHECKSUM} is not what was written")
    return digits, text.replace(value.encode(), (MARK + UNSET).encode())


def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object, refused when a name stands in it twice."""
    names = dict(pairs)
    if len(names) != len(pairs):
        raise ValueError("a name occurs twice")
    return names


def refuse(constant: str) -> None:
    """NaN and Infinity are not JSON."""
    raise ValueError(f"{constant} is not JSON")


def stored(name: Any, a: Any) -> Array:
    """`a` as the format stores it: C order, little-endian."""
    if not isinstance(name, str):
        raise TypeError(f"tensors: expected names that are strings, got {name!r}")
    if name == METADATA:
        raise ValueError(f"tensors: the name {METADATA!r} is reserved")
    if not isinstance(a, np.ndarray) or isinstance(a, np.ma.MaskedArray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(a).__name__}")
    dtype = a.dtype.newbyteorder("<")
    if dtype not in NAMES:
        raise TypeError(f"{name}: expected a dtype of {', '.join(map(str, NAMES))}, got {a.dtype}")
    return np.asarray(a).astype(dtype, order="C", copy=False)


def raw(a: Array) -> memoryview:
    """The bytes of a C-contiguous array, without a copy."""
    return a.reshape(-1).view(np.uint8).data


def write_atomically(path: str | os.PathLike[str], chunks: list[bytes | memoryview]) -> None:
    """Write beside `path` (behind a link: beside what it points to), flush to the disk, rename."""
    target = os.path.realpath(path)
    folder = os.path.dirname(target)
    beside = os.path.join(folder, f".{os.path.basename(target)[:200]}.{secrets.token_hex(8)}.tmp")
    try:
        # Not tempfile: its files are private, and this one is to have the permissions the user's umask gives.
        with open(beside, "xb") as file:
            file.writelines(chunks)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, target)
    except BaseException as error:
        if os.path.lexists(beside):
            os.unlink(beside)
        if isinstance(error, OSError) and error.filename == beside:  # a name that nobody asked for
            raise OSError(error.errno, error.strerror, os.fspath(path)) from None
        raise
    if os.name == "posix":  # the new name itself must survive a power cut
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
