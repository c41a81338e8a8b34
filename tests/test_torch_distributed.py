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

import pyrnn.torch  # noqa: E402

ROOT = Path(__file__).parent.parent
STEPS = 3


class Model(torch.nn.Module):
    """Both directions, two layers, lengths and single steps."""

    def __init__(self):
        super().__init__()
        self.layers = pyrnn.torch.LSTM(3, 4, 2, bidirectional=True)
        self.cell = pyrnn.torch.GRUCell(8, 4)

    def forward(self, x, lengths):
        y, _ = self.layers(x, lengths=lengths)
        return self.cell(y.sum(0))


def problem():
    torch.manual_seed(0)
    return Model().double(), torch.randn(5, 8, 3, dtype=torch.float64), torch.tensor([5, 0, 3, 4, 2, 1, 5, 5])


def steps(model, x, lengths):
    """Gradients of the first step, and the parameters after the last, flat."""
    optimiser, grads = torch.optim.Adam(model.parameters(), lr=0.1), None
    for _ in range(STEPS):
        optimiser.zero_grad()
        model(x, lengths).square().mean().backward()
        if grads is None:
            grads = torch.cat([p.grad.flatten() for p in model.parameters()])
        optimiser.step()
    return torch.stack([grads, torch.cat([p.detach().flatten() for p in model.parameters()])])


def worker(rank, world, store, results):
    pyrnn.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world)
    model, x, lengths = problem()
    mine = slice(rank * 8 // world, (rank + 1) * 8 // world)
    parallel = torch.nn.parallel.DistributedDataParallel(model)
    torch.save(steps(parallel, x[:, mine], lengths[mine]), f"{results}/{rank}.pt")
    torch.distributed.destroy_process_group()


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


def test_goes_on_after_a_process_was_killed(tmp_path):
    """A worker is killed at step 6; all start again from step 4 and end where an undisturbed run ends."""
    torn, whole = tmp_path / "torn.pt", tmp_path / "whole.pt"
    assert "from step 4" in launch(torn, "--die-at", "6")
    assert re.findall(r"(?m)^step (\d+): ", launch(whole)) == ["4", "8", "12"]
    states = [torch.load(path, weights_only=True) for path in (torn, whole)]
    assert states[0]["step"] == states[1]["step"] == 12
    assert all(torch.equal(a, b) for a, b in zip(*(s["model"].values() for s in states), strict=True))
    assert not list(tmp_path.glob("*.pt.*"))
