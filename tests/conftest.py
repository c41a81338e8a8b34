# SPDX-License-Identifier: Apache-2.0
"""Fixtures for every test: the number of threads is what it was before."""

import pytest

import pyrnn


@pytest.fixture
def threads():
    """`threads(n)` sets the number of threads until the test ends."""
    before = pyrnn.num_threads()
    yield pyrnn.set_num_threads
    pyrnn.set_num_threads(before)
