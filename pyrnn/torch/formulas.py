# SPDX-License-Identifier: Apache-2.0
"""A layer in plain PyTorch operations, step by step: differentiable any number of times, on any device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pyrnn.torch.arrays import passes

#: PyTorch's own single steps; each returns the new h, or (h, c) for the LSTM.
CELLS = {
    "lstm": torch.lstm_cell,
    "gru": torch.gru_cell,
    "rnn_tanh": torch.rnn_tanh_cell,
    "rnn_relu": torch.rnn_relu_cell,
}


def step(cell: str, x: Tensor, states: Sequence[Tensor], weights: Sequence[Any]) -> tuple[Tensor, ...]:
    """One step from x (B, I) and states (B, H)."""
    if len(weights) > 4:
        return projected(x, states[0], states[1], *weights)
    if cell not in CELLS:
        raise NotImplementedError(f"cell: {cell!r} has kernels, but no plain operations of PyTorch")
    function: Any = CELLS[cell]
    new = function(x, tuple(states) if len(states) > 1 else states[0], *weights)
    return new if isinstance(new, tuple) else (new,)


def projected(
    x: Tensor,
    h: Tensor,
    c: Tensor,
    weight_ih: Tensor,
    weight_hh: Tensor,
    bias_ih: Tensor | None,
    bias_hh: Tensor | None,
    weight_hr: Tensor,
) -> tuple[Tensor, Tensor]:
    """A step of an LSTM whose h is projected (Sak et al. 2014), for which PyTorch has none."""
    linear = torch.nn.functional.linear
    i, f, g, o = (linear(x, weight_ih, bias_ih) + linear(h, weight_hh, bias_hh)).chunk(4, 1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return linear(o.sigmoid() * c.tanh(), weight_hr), c


def sequence(
    x: Tensor,
    state: Sequence[Tensor],
    weights: Sequence[Tensor],
    cell: str,
    directions: int,
    batch_first: bool,
    lengths: Tensor | None = None,
    mask: Tensor | None = None,
    resets: Tensor | None = None,
    reset_to_initial: bool = False,
) -> list[Tensor]:
    """The operator `pyrnn::sequence` without its last result: y, and the final states (directions, B, H)."""
    if batch_first:
        x = x.transpose(0, 1)
    T, B, _ = x.shape
    active = mask
    if lengths is not None:
        within = torch.arange(T, device=x.device)[:, None] < lengths.to(x.device)
        active = within if mask is None else within & mask
    if active is not None:
        x = torch.where(active[:, :, None], x, 0)  # what is skipped, even NaN, has no gradient
    outputs, finals = [], []
    for d, one in enumerate(passes(weights, directions)):
        initial = [s[d] for s in state]
        states, steps = initial, []
        for t in reversed(range(T)) if d else range(T):
            before = states
            if resets is not None:
                begin = [s if reset_to_initial else torch.zeros_like(s) for s in initial]
                states = [torch.where(resets[t, :, None], b, s) for b, s in zip(begin, states, strict=True)]
            states = list(step(cell, x[t], states, one))
            y = states[0]
            if active is not None:
                on = active[t, :, None]
                y = torch.where(on, y, 0)
                states = [torch.where(on, s, b) for s, b in zip(states, before, strict=True)]
            steps.append(y)
        H = one[1].shape[1]
        outputs.append(torch.stack(steps[::-1] if d else steps) if steps else x.new_empty((0, B, H)))
        finals.append(states)
    y = outputs[0] if directions == 1 else torch.cat(outputs, 2)
    return [
        y.transpose(0, 1) if batch_first else y,
        *(torch.stack([states[s] for states in finals]) for s in range(len(state))),
    ]
