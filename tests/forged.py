# SPDX-License-Identifier: Apache-2.0
"""Safetensors files made by hand, right or wrong."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from pyrnn.io import load_safetensors

#: The entry of a float32 matrix at the beginning of the data.
ONE = {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}


def file_of(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    """The bytes of a file with any header, right or wrong."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + data


def loaded(folder: Path, content: bytes) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    path = folder / "x.safetensors"
    path.write_bytes(content)
    return load_safetensors(path)
