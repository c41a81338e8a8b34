# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test: the number of threads is what it was before; and samples of the cases."""

import os
import signal
from zlib import crc32

# The reference's products are small: on a busy machine the threads of its BLAS would wait for each other a
# hundred times longer than they compute. Read when NumPy is first imported.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest

import pyrnn

# A shell's background job ignores SIGINT, and so would the programs that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption(
        "--one-in",
        type=int,
        default=1,
        metavar="N",
        help="of the cases of each parametrised test one in N, at each instruction set others",
    )


def pytest_collection_modifyitems(config, items):
    n, salt = config.getoption("one_in"), pyrnn._core.isa() + os.environ.get("PYRNN_POISON", "")
    dropped = [i for i in items if hasattr(i, "callspec") and crc32(f"{salt} {i.nodeid}".encode()) % n]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        gone = set(dropped)
        items[:] = [i for i in items if i not in gone]


@pytest.fixture(scope="session")
def emulated_library(tmp_path_factory, request):
    """The CUDA library for the host, built once for all test sessions of a machine that have its sources."""
    from cuda_library import shared_emulation

    folder = tmp_path_factory.getbasetemp()
    return shared_emulation(folder if request.config.getoption("basetemp") else folder.parent)


@pytest.fixture
def threads():
    """`threads(n)` sets the number of threads until the test ends."""
    before = pyrnn.num_threads()
    yield pyrnn.set_num_threads
    pyrnn.set_num_threads(before)
