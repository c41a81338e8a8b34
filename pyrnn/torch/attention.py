# SPDX-License-Identifier: Apache-2.0
"""Attention and the decoder that attends as modules of PyTorch."""

from __future__ import annotations

import json
from typing import Any, TypeAlias

import torch
from torch import Tensor

import pyrnn
from pyrnn import placing
from pyrnn.aligning import Aligner
from pyrnn.functional import KERNELS
from pyrnn.torch import eager
from pyrnn.torch.attending import ATTEND, PARAM, SCORE, differentiable, options_of, plain_of, spec_of
from pyrnn.torch.decoding import decode

__all__ = ["AttentionDecoder", "BahdanauAttention", "LuongAttention"]

State: TypeAlias = Any  # Tensor (B, H), or a tuple of them


def seed() -> int:
    """For initial parameters: of PyTorch's generator, so that torch.manual_seed decides them."""
    return int(torch.randint(2**62, ()))


def call(options: str, given: dict[str, Any], causal: bool = False, query_offset: int = 0) -> list[Tensor]:
    """The operator on the inputs that are there, by name."""
    given = {name: a for name, a in given.items() if a is not None}
    for name, a in given.items():
        if a.device.type not in ("cpu", "meta"):
            raise RuntimeError(f"{name}: expected a tensor on the CPU, got one on {a.device}")
    mask = given.get("mask")
    if mask is not None and mask.requires_grad:
        raise RuntimeError("mask: expected a tensor that requires no gradient; the kernels give it none")
    if not torch.compiler.is_compiling() and (eager.transforms() or eager.forward_mode()):
        tensors, constants = differentiable(list(given), list(given.values()))
        return list(plain_of(spec_of(list(given), options, causal, query_offset), constants)(*tensors))
    save = torch.is_grad_enabled()
    results: list[Tensor] = ATTEND(list(given.values()), list(given), options, causal, query_offset, save)
    return results[:-1]


class OnDevice(torch.autograd.Function):
    """Attention on a CUDA device; inputs by name, as for the operator."""

    @staticmethod
    def forward(ctx: Any, device: int, options: dict[str, Any], names: list[str], *tensors: Tensor) -> Any:
        context, weights, ctx.kept = attend_there(
            device, options, dict(zip(names, tensors, strict=True)), True
        )
        ctx.names = names
        ctx.save_for_backward(*tensors)  # so that PyTorch notices when one changes
        ctx.set_materialize_grads(False)
        # The kept weights are another tensor than the result, which holds what is kept.
        return context, weights.detach()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> Any:
        assert ctx.saved_tensors
        found = ctx.kept.backward(*grads)
        named = {"query": found.query, "key": found.key, "value": found.value}
        named |= {PARAM + name: a for name, a in found.params.items()}
        return None, None, None, *map(named.get, ctx.names)


def attend_there(device: int, options: dict[str, Any], given: dict[str, Any], save: bool) -> Any:
    """`pyrnn.backends.attention.forward` of inputs by name."""
    from pyrnn.backends import attention

    params = {name.removeprefix(PARAM): a for name, a in given.items() if name.startswith(PARAM)}
    rest = {name: a for name, a in given.items() if not name.startswith(PARAM)}
    return attention.forward(device, params=params, save=save, **rest, **options)


class Attention(torch.nn.Module):
    """What the kinds of attention share: parameters drawn as those of `pyrnn`, and the call."""

    def __init__(self, aligner: Aligner) -> None:
        super().__init__()
        self.aligner = aligner
        for name, a in aligner.params.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(a.copy())))
        aligner.params.clear()
        self.options = json.dumps(aligner._arguments(training=True))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor | None = None,
        *,
        mask: Tensor | None = None,
        key_lengths: Any = None,
        causal: bool = False,
        query_offset: int = 0,
        previous: Tensor | None = None,
        coverage: Tensor | None = None,
        return_weights: bool = False,
    ) -> Any:
        """Attend; see `pyrnn.functional.attention_forward` for every argument.

        Parameters
        ----------
        query : tensor (B, Tq, Dq), (B, Dq) for one query, or (B, heads, Tq, Dq)
        key : tensor (B, Tk, Dk) or (B, heads, Tk, Dk)
        value : tensor (B, Tk, Dv) or (B, heads, Tk, Dv), optional
            The key when None.
        mask : bool tensor, True = attend, or a float tensor added to the scores, optional
        key_lengths : integers (B,), optional
        return_weights : bool

        Returns
        -------
        context : tensor (B, Tq, Dv), as the query
        weights : tensor (B, Tq, Tk), only with `return_weights`; differentiable as well
        """
        for name, a, size in (("query", query, self.aligner.query_size), ("key", key, self.aligner.key_size)):
            if a.dim() < 2 or a.shape[-1] != size:
                raise ValueError(f"{name}: expected shape (…, {size}), got {tuple(a.shape)}")
        lengths = None if key_lengths is None else torch.as_tensor(key_lengths)
        given: dict[str, Any] = {
            "query": query,
            "key": key,
            "value": value,
            "mask": mask,
            "key_lengths": lengths,
            "previous": previous,
            "coverage": coverage,
        }
        given |= {PARAM + name: a for name, a in self.own().items()}
        device = placing.device_of(query)
        if device is None:
            context, weights = call(self.options, given, causal, query_offset)
        else:
            given = {name: a for name, a in given.items() if a is not None}
            options = options_of(self.options) | {"causal": causal, "query_offset": query_offset}
            if torch.is_grad_enabled():
                context, weights = OnDevice.apply(device, options, list(given), *given.values())
            else:
                context, weights, _ = attend_there(device, options, given, save=False)
        return (context, weights) if return_weights else context

    def own(self) -> dict[str, Tensor]:
        """The parameters by name, as they are now: parametrised ones are computed."""
        return {name: getattr(self, name) for name in self.aligner._shapes.shapes}

    def extra_repr(self) -> str:
        return f"{self.aligner.query_size}, {self.aligner.key_size}"


class BahdanauAttention(Attention):
    """Additive attention (Bahdanau et al. 2015), with the options of `pyrnn.BahdanauAttention`.

    Parameters
    ----------
    query_size, key_size, units : int
        Dq, Dk and A.
    **options
        normalize, bias, coverage, scale, alignment; dtype "float32" or "float64".

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> attention = pyrnn.torch.BahdanauAttention(4, 6, 8)
    >>> context, weights = attention(torch.ones(2, 3, 4), torch.ones(2, 5, 6), return_weights=True)
    >>> context.shape, weights.shape
    (torch.Size([2, 3, 6]), torch.Size([2, 3, 5]))
    """

    def __init__(self, query_size: int, key_size: int, units: int, **options: Any) -> None:
        super().__init__(pyrnn.BahdanauAttention(query_size, key_size, units, seed=seed(), **options))


class LuongAttention(Attention):
    """Multiplicative attention (Luong et al. 2015), with the options of `pyrnn.LuongAttention`.

    Parameters
    ----------
    query_size, key_size : int
        Dq and Dk.
    **options
        score, units, local, window, position_units, bias, coverage, scale, alignment; dtype.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> attention = pyrnn.torch.LuongAttention(4, 6, score="general")
    >>> attention(torch.ones(2, 3, 4), torch.ones(2, 5, 6)).shape
    torch.Size([2, 3, 6])
    """

    def __init__(self, query_size: int, key_size: int, **options: Any) -> None:
        super().__init__(pyrnn.LuongAttention(query_size, key_size, seed=seed(), **options))


class AttentionDecoder(torch.nn.Module):
    """A cell that attends to a memory at every step, as a module; see `pyrnn.AttentionDecoder`.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    input_size, hidden_size : int
        I and H.
    attention : BahdanauAttention or LuongAttention
        A module of this package; its query size is H.
    **options
        input_feed, query, attention_layer, bias; dtype.

    Examples
    --------
    >>> import torch, pyrnn.torch
    >>> attention = pyrnn.torch.LuongAttention(5, 6, score="general")
    >>> decoder = pyrnn.torch.AttentionDecoder("gru", 3, 5, attention, attention_layer=7)
    >>> outputs, state, weights = decoder(torch.ones(2, 4, 3), torch.ones(2, 9, 6), memory_lengths=[9, 2])
    >>> outputs.shape, state.shape, weights.shape
    (torch.Size([2, 4, 7]), torch.Size([2, 5]), torch.Size([2, 4, 9]))
    """

    def __init__(
        self, cell: str, input_size: int, hidden_size: int, attention: Attention, **options: Any
    ) -> None:
        super().__init__()
        if not isinstance(attention, Attention):
            raise TypeError(
                f"attention: expected an attention of pyrnn.torch, got {type(attention).__name__}"
            )
        decoder = pyrnn.AttentionDecoder(
            cell, input_size, hidden_size, attention.aligner, seed=seed(), **options
        )
        for name, a in decoder.params.items():
            self.register_parameter(name, torch.nn.Parameter(torch.from_numpy(a.copy())))
        decoder.params.clear()
        self.attention, self.decoder = attention, decoder
        self.options = json.dumps(
            {
                "cell": decoder.cell,
                "query": decoder.query,
                "input_feed": decoder.input_feed,
                "attention": attention.aligner._arguments(training=True),
            }
        )

    def forward(
        self,
        x: Tensor,
        memory: Tensor,
        memory_lengths: Any = None,
        state: State | None = None,
        *,
        mask: Tensor | None = None,
        feed: Tensor | None = None,
        previous: Tensor | None = None,
        coverage: Tensor | None = None,
    ) -> tuple[Tensor, State, Tensor]:
        """The whole target sequence; see `pyrnn.functional.decoder_forward` for every argument.

        Parameters
        ----------
        x : tensor (B, Tq, I)
        memory : tensor (B, Tk, M)
        memory_lengths : integers (B,), optional
        state : tensor (B, H), or a tuple (h, c) of them, optional

        Returns
        -------
        outputs : tensor (B, Tq, O)
        state : tensor (B, H), or a tuple of them
        weights : tensor (B, Tq, Tk)
        """
        decoder = self.decoder
        states = () if state is None else state if isinstance(state, tuple) else (state,)
        given: dict[str, Any] = {
            "x": x,
            "memory": memory,
            "memory_lengths": None if memory_lengths is None else torch.as_tensor(memory_lengths),
            "mask": mask,
            "feed": feed,
            "previous": previous,
            "coverage": coverage,
        }
        state_names = KERNELS.specs[decoder.cell].state_names
        given |= dict(zip(state_names, states, strict=False))
        given |= {PARAM + name: getattr(self, name) for name in decoder._shapes.shapes}
        given |= {SCORE + name: a for name, a in self.attention.own().items()}
        device = placing.device_of(x)
        if device is None:
            outputs, weights, *finals = call(self.options, given)
        else:
            outputs, weights, *finals = decode(device, self.options, tuple(state_names), given)
        return outputs, tuple(finals) if len(finals) > 1 else finals[0], weights

    def extra_repr(self) -> str:
        return f"{self.decoder.cell!r}, {self.decoder.input_size}, {self.decoder.hidden_size}"
