# SPDX-License-Identifier: Apache-2.0
r"""A character model trained by several processes, on one machine or many, by PyTorch's DDP.

    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
    torchrun --standalone --nproc-per-node 2 --max-restarts 3 \
        -m pyrnn.examples.distributed --checkpoint run.pt

Every process computes on its share of the windows of each step; gradients are averaged while the backward
goes on. When a process dies, torchrun starts all of them again, and they go on from the last checkpoint. The
variable gives each start a store of its own: in the one that torchrun else shares, gloo finds the addresses
of processes that are dead.
"""

from __future__ import annotations

import argparse
import math
import os
import signal
import time
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

import pyrnn
import pyrnn.torch
from pyrnn.examples.text import Alphabet, read_text, split


class Windows(Dataset[tuple[Tensor, Tensor]]):
    """Windows of `length` characters of a text, one after another, and the characters that follow each."""

    def __init__(self, ids: Tensor, length: int) -> None:
        self.ids, self.length = ids, length

    def __len__(self) -> int:
        return (len(self.ids) - 1) // self.length

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        window = self.ids[index * self.length : (index + 1) * self.length + 1]
        return window[:-1], window[1:]


class CharModel(torch.nn.Module):
    """Embedding, recurrent layers, and scores of every character."""

    def __init__(self, vocabulary: int, hidden: int, layers: int) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(vocabulary, 32)
        self.layers = pyrnn.torch.LSTM(32, hidden, layers, batch_first=True)
        self.head = torch.nn.Linear(hidden, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        """Scores (B, V, T) from characters (B, T)."""
        y, _ = self.layers(self.embedding(ids))
        scores: Tensor = self.head(y).transpose(1, 2)
        return scores


class Training:
    """Model, optimiser and place in the data, and the file that holds them between runs.

    Attributes
    ----------
    step : int
        Steps done, over all epochs.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.step = options, 0
        alphabet = Alphabet(text := read_text(options.text))
        ids = torch.from_numpy(split(alphabet.encode(text))[0]).long()[: options.characters]
        self.windows = Windows(ids, options.length)
        torch.manual_seed(options.seed)  # the same parameters in every process
        self.model = CharModel(len(alphabet), options.hidden, options.layers)
        self.optimiser = torch.optim.Adam(self.model.parameters(), lr=options.rate)
        if os.path.exists(options.checkpoint):
            state = torch.load(options.checkpoint, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    def save(self) -> None:
        """Write beside, and rename: a process that dies leaves the file before or the file after."""
        beside = f"{self.options.checkpoint}.{os.getpid()}"
        state = {
            "model": self.model.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(state, beside)
        os.replace(beside, self.options.checkpoint)

    def run(self) -> float:
        """Train to the last step; the last loss in bits per character, averaged over the processes."""
        options, rank, world = self.options, dist.get_rank(), dist.get_world_size()
        if options.batch % world:
            raise ValueError(f"--batch: expected a multiple of the {world} processes, got {options.batch}")
        model = DistributedDataParallel(self.model)
        sampler: DistributedSampler[Any] = DistributedSampler(self.windows, seed=options.seed, drop_last=True)
        loader = DataLoader(self.windows, options.batch // world, sampler=sampler, drop_last=True)
        if not len(loader):
            raise ValueError(f"--batch: expected at most {len(self.windows)} windows, got {options.batch}")
        began, first, bits = time.perf_counter(), self.step, math.nan
        while self.step < options.steps:
            epoch, done = divmod(self.step, len(loader))
            sampler.set_epoch(epoch)  # the order depends on the epoch's number alone: a restart repeats it
            for index, (ids, targets) in enumerate(loader):
                if index < done or self.step >= options.steps:
                    continue
                loss = torch.nn.functional.cross_entropy(model(ids), targets)
                self.optimiser.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
                self.optimiser.step()
                self.step += 1
                if self.step == options.die_at and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
                    dist.barrier()
                    if rank == world - 1:
                        os.kill(os.getpid(), signal.SIGKILL)
                if self.step % options.every == 0 or self.step == options.steps:
                    mean = loss.detach() / math.log(2) / world
                    dist.all_reduce(mean)
                    bits = mean.item()
                    if rank == 0:
                        self.save()
                        print(f"step {self.step}: {bits:.4f} bits per character", flush=True)
        if rank == 0 and self.step > first:
            characters = (self.step - first) * options.batch * options.length
            rate = characters / (time.perf_counter() - began)
            print(f"{world} processes from step {first}: {rate:.0f} characters per s", flush=True)
        return bits


def main(arguments: Sequence[str] | None = None) -> int:
    """The program; see --help."""
    parser = argparse.ArgumentParser(prog="pyrnn.examples.distributed", description=__doc__)
    parser.add_argument("--checkpoint", required=True, help="read if it exists, written every --every steps")
    parser.add_argument("--text", help="a UTF-8 file; the default text when absent")
    parser.add_argument("--characters", type=int, help="of the text's beginning; all when absent")
    for name, default in (("steps", 400), ("batch", 32), ("length", 64), ("hidden", 128), ("layers", 1)):
        parser.add_argument(f"--{name}", type=int, default=default, help="%(default)s")
    parser.add_argument("--every", type=int, default=50, help="steps between checkpoints: %(default)s")
    parser.add_argument("--rate", type=float, default=3e-3, help="learning rate: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="%(default)s")
    parser.add_argument(
        "--die-at", type=int, default=0, help="kill the last process after this step, once, to see a restart"
    )
    options = parser.parse_args(arguments)
    dist.init_process_group("gloo")
    try:
        pyrnn.set_num_threads(max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))))
        Training(options).run()
    finally:
        dist.destroy_process_group()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
