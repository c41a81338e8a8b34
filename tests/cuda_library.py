# SPDX-License-Identifier: Apache-2.0
"""Builds the CUDA library for the host, with a C++ compiler: the same sources, emulated."""

import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from problems import DISTINCT, FUSED, ON_CUDA

CUDA = Path(__file__).parent.parent / "cuda"
#: What kernels.cu is compiled for: the name of what it defines, and the type of its products.
MATHS = dict(
    re.findall(
        r"^const LayerFunctions\* (\w+)\(int cell\);  // (.+)$",
        (CUDA / "kernels.h").read_text(),
        re.MULTILINE,
    )
)
#: The cells that are compiled with each: one is enough of those that differ in their formula alone, and
#: products of float32 without tensor cores are those of float64, which have all.
CELLS = {
    "float64_functions": ON_CUDA,
    "float32_exact_functions": [cell for cell in DISTINCT if cell in ON_CUDA],
    "float32_fma_functions": [],
}
OTHERWISE = [*(cell for cell in DISTINCT if cell in FUSED), "gru_reset_before"]
FLAGS = ("-std=c++17", "-O1", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra", "-Werror")


def compiler():
    """A C++ compiler, or the reason there is none."""
    found = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if not found:
        pytest.skip("no C++ compiler")
    return found


def run(command):
    result = subprocess.run([str(c) for c in command], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return result


def only(name):
    """What leaves out the cells that tests need not."""
    cells = CELLS.get(name, OTHERWISE)
    return f'-DPYRNN_ONLY="{" ".join(cells)}"'


def shared_emulation(folder):
    """The emulated library in `folder`, which test sessions share: built once for these sources."""
    cxx, root = compiler(), CUDA.parent
    digest = hashlib.sha256(" ".join([cxx, *FLAGS, *map(only, MATHS)]).encode())
    folders = (CUDA, root / "csrc", root / "csrc" / "cells", root / "csrc" / "scores")
    for path in sorted(p for f in folders for p in f.iterdir() if p.suffix in (".h", ".cu", ".cpp")):
        digest.update(path.read_bytes())
    kept = folder / f"pyrnn-emulation-{digest.hexdigest()[:16]}.so"
    with (folder / "pyrnn-emulation.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # who comes second waits for the first's
        if not kept.exists():
            own = Path(tempfile.mkdtemp(prefix="pyrnn-emulation-", dir=folder))
            build_emulation(own).replace(kept)
            shutil.rmtree(own)
            for old in folder.glob("pyrnn-emulation-*.so"):
                if old != kept and time.time() - old.stat().st_mtime > 86400:
                    old.unlink()
    return kept


def build_emulation(folder, cuda=CUDA):
    """The emulated library, in `folder`; `cuda` are the sources."""
    cxx = compiler()
    objects = {
        name: [f"-DPYRNN_MATH={math}", f"-DPYRNN_FUNCTIONS={name}", only(name)]
        for name, math in MATHS.items()
    }
    commands = [
        [cxx, *FLAGS, *defines, "-x", "c++", "-c", cuda / "kernels.cu", "-o", folder / f"{name}.o"]
        for name, defines in objects.items()
    ]
    for name in ("module", "attention"):
        commands.append([cxx, *FLAGS, "-x", "c++", "-c", cuda / f"{name}.cu", "-o", folder / f"{name}.o"])
    commands.append([cxx, *FLAGS, "-c", cuda / "emulator.cpp", "-o", folder / "emulator.o"])
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(run, commands))
    library = folder / "libpyrnn_emulated.so"
    run([cxx, "-shared", *sorted(folder.glob("*.o")), "-o", library])
    return library


STUB = """
#include <string.h>
#include "cuda/abi.h"
using namespace pyrnn::cuda;
static Table table;
extern "C" const Table* pyrnn_cuda_table(uint32_t) {
  table.size = sizeof(Table) + GROWN;
  table.version = VERSION;
  table.build = "a stub";
  table.error = [] { return "cudaGetDeviceCount: no CUDA-capable device is detected"; };
  table.device_count = [](int* count) { return *count = 0, STATUS; };
  return NOTHING ? nullptr : &table;
}
"""


def build_stub(folder, **defines):
    """A library in `folder` that has the interface and no device, or what `defines` make of it."""
    source, library = folder / "stub.cpp", folder / "stub.so"
    source.write_text(STUB, encoding="utf-8")
    values = {"VERSION": "pyrnn::cuda::abi_version", "GROWN": 0, "NOTHING": 0, "STATUS": 0} | defines
    flags = [f"-D{name}={value}" for name, value in values.items()]
    run([compiler(), "-std=c++17", "-shared", "-fPIC", f"-I{CUDA.parent}", source, "-o", library, *flags])
    return library
