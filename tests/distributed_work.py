# SPDX-License-Identifier: Apache-2.0
"""What the processes of the test of distributed training do; a module that they can import."""

import torch

import pyrnn
import pyrnn.torch

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
