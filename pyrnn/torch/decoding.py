# SPDX-License-Identifier: Apache-2.0
"""The decoder of PyTorch's tensors on a CUDA device, with its way back."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyrnn.torch.attending import PARAM, SCORE, options_of


def part(given: dict[str, Any], prefix: str) -> dict[str, Any]:
    """The inputs whose names begin so, without the beginning."""
    return {name.removeprefix(prefix): a for name, a in given.items() if name.startswith(prefix)}


def decode_there(
    device: int, options: str, states: tuple[str, ...], given: dict[str, Any], save: bool
) -> Any:
    """`pyrnn.backends.decoder.forward` of inputs by name; `states` are those of the cell's state."""
    from pyrnn.backends import decoder

    chosen = options_of(options)
    state = tuple(given[name] for name in states if name in given)
    rest = {
        name: a for name, a in given.items() if not name.startswith((PARAM, SCORE)) and name not in states
    }
    return decoder.forward(
        device,
        chosen["cell"],
        rest.pop("x"),
        rest.pop("memory"),
        part(given, PARAM),
        None if not state else state[0] if len(states) == 1 else state,
        attention=chosen["attention"] | {"params": part(given, SCORE)},
        query=chosen["query"],
        input_feed=chosen["input_feed"],
        save=save,
        **rest,
    )


class OnDevice(torch.autograd.Function):
    """The decoder on a CUDA device; inputs by name, as for the operator."""

    @staticmethod
    def forward(
        ctx: Any, device: int, options: str, states: tuple[str, ...], names: list[str], *tensors: Tensor
    ) -> Any:
        outputs, state, weights, ctx.kept = decode_there(
            device, options, states, dict(zip(names, tensors, strict=True)), True
        )
        ctx.names, ctx.states = names, states
        ctx.save_for_backward(*tensors)  # so that PyTorch notices when one changes
        ctx.set_materialize_grads(False)
        finals = state if isinstance(state, tuple) else (state,)
        # Without an attention layer what is kept has the outputs' memory, and always that of the weights.
        return outputs.clone(), weights.clone(), *finals

    @staticmethod
    def backward(ctx: Any, doutputs: Tensor | None, dweights: Tensor | None, *dfinals: Tensor | None) -> Any:
        assert ctx.saved_tensors
        dstate: Any = None
        if any(d is not None for d in dfinals):
            zeros = torch.zeros_like(next(d for d in dfinals if d is not None))
            dstates = tuple(zeros if d is None else d for d in dfinals)
            dstate = dstates[0] if len(dstates) == 1 else dstates
        found = ctx.kept.backward(doutputs, dstate, dweights)
        named = {"x": found.x, "memory": found.memory, "feed": found.feed}
        named |= dict(
            zip(ctx.states, found.state if isinstance(found.state, tuple) else (found.state,), strict=True)
        )
        named |= {PARAM + name: a for name, a in found.params.items()}
        named |= {SCORE + name: a for name, a in found.attention.items()}
        return None, None, None, None, *map(named.get, ctx.names)


def decode(device: int, options: str, states: tuple[str, ...], given: dict[str, Any]) -> list[Tensor]:
    """Outputs, weights and final states, differentiable where gradients are wanted."""
    given = {name: a for name, a in given.items() if a is not None}
    if torch.is_grad_enabled():
        return list(OnDevice.apply(device, options, states, list(given), *given.values()))
    outputs, state, weights, _ = decode_there(device, options, states, given, save=False)
    return [outputs, weights, *(state if isinstance(state, tuple) else (state,))]
