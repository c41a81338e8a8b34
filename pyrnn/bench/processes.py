# SPDX-License-Identifier: Apache-2.0
"""Processes that measure: as many processors as threads, and every library told so before it is imported."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyrnn
from pyrnn.bench.session import Plan

#: Variables that pools of threads read: OpenMP, BLAS, XLA and this library.
POOLS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NPROC", "PYRNN_NUM_THREADS")


def environment(threads: int, package: Path | None = None) -> dict[str, str]:
    """The variables of such a process, which imports pyrnn from where this one has it, or from `package`."""
    root = package or Path(pyrnn.__file__).parent.parent
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    pools = dict.fromkeys(POOLS, str(threads))
    return {
        **os.environ, **pools, "PYTHONPATH": os.pathsep.join(paths), "PYTHONIOENCODING": "utf-8",
        "TF_CPP_MIN_LOG_LEVEL": "3", "JAX_PLATFORMS": "cpu",
    }  # fmt: skip


@contextmanager
def processors(threads: int) -> Iterator[None]:
    """What starts meanwhile may use so many processors, the first of those that this process has."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def start(
    arguments: Sequence[str], threads: int, package: Path | None = None, **options: object
) -> subprocess.Popen[str]:
    """A Python process with its own pools."""
    with processors(threads):
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [sys.executable, "-P", *arguments], env=environment(threads, package), text=True, **options
        )


def measure(plan: Plan) -> None:
    """Carry out a plan in a process of its own.

    Raises
    ------
    KeyboardInterrupt
        Here or there; the rows measured so far are in the plan's file.
    ValueError
        The process failed.
    """
    process = start(["-m", "pyrnn.bench.session"], plan.threads, stdin=subprocess.PIPE)
    try:
        assert process.stdin
        with process.stdin:
            process.stdin.write(plan.text())
        code = process.wait()
    except BaseException:
        process.send_signal(signal.SIGINT)
        process.wait()
        raise
    if code == 130 or code == -signal.SIGINT:
        raise KeyboardInterrupt
    if code:
        raise ValueError(f"the process that measures {plan.threads} threads ended with code {code}")
