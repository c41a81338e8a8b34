# SPDX-License-Identifier: Apache-2.0
"""Training by several processes: the gradients, the steps and the restart are those of one."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("this PyTorch has no gloo", allow_module_level=True)

import torch.multiprocessing as mp  # noqa: E402
from distributed_work import problem, steps, worker  # noqa: E402

ROOT = Path(__file__).parent.parent


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_two_processes_are_one(tmp_path):
    """Gradients are those of the whole batch, and all weights the same after three steps."""
    mp.spawn(worker, (2, str(tmp_path / "store"), str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert torch.equal(first, second)
    expected = steps(*problem())
    torch.testing.assert_close(first[0], expected[0], rtol=1e-11, atol=1e-13)
    torch.testing.assert_close(first[1], expected[1], rtol=0, atol=1e-6)  # Adam divides by small gradients


def launch(checkpoint, *arguments):
    """The example under torchrun, two processes on a small text; its output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "MASTER_"))}
    environment |= {"OMP_NUM_THREADS": "1", "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    environment |= {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path[1:]])}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["--max-restarts", "1", "-m", "pyrnn.examples.distributed", "--checkpoint", str(checkpoint)]
    command += "--characters 4000 --steps 12 --every 4 --batch 8 --length 16 --hidden 16".split()
    done = subprocess.run(
        [*command, *arguments], capture_output=True, text=True, env=environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(
    not os.environ.get("PYRNN_TEST_ELASTIC"),
    reason="starts PyTorch in eight processes, one after the other: PYRNN_TEST_ELASTIC=1 runs it",
)
def test_goes_on_after_a_process_was_killed(tmp_path):
    """A worker is killed at step 6; all start again from step 4 and end where an undisturbed run ends."""
    torn, whole = tmp_path / "torn.pt", tmp_path / "whole.pt"
    assert "from step 4" in launch(torn, "--die-at", "6")
    assert re.findall(r"^step (\d+): ", launch(whole), re.M) == ["4", "8", "12"]
    states = [torch.load(path, weights_only=True) for path in (torn, whole)]
    assert states[0]["step"] == states[1]["step"] == 12
    assert all(torch.equal(a, b) for a, b in zip(*(s["model"].values() for s in states), strict=True))
    assert not list(tmp_path.glob("*.pt.*"))
