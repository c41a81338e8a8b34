# SPDX-License-Identifier: Apache-2.0
"""The CUDA library of pyrnn-kernels, which finds it through the entry point `pyrnn.device_libraries`."""

from pathlib import Path


def library_path() -> Path:
    """Where libpyrnn_cuda.so is."""
    return Path(__file__).with_name("libpyrnn_cuda.so")
