# SPDX-License-Identifier: Apache-2.0
"""The decoder on arrays of a CUDA device: what `pyrnn.decoding` does for NumPy's, in one call of the kernels.

The projection of the memory is the array library's own product; all else is the kernels'. Nothing here waits
for the device.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from pyrnn import _core, checks, decoding, scoring, windows
from pyrnn.attending import Memory
from pyrnn.backends import attention as attend
from pyrnn.backends.cuda import CudaBackend
from pyrnn.backends.device import DeviceArrays, library_of, number_of
from pyrnn.decoding import LAYER, DecoderGradients, cell_names

#: The kernels' names of the cell's weights, in the order of `cell_names`.
CELL = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "params")


@cache
def cells_of(device: int) -> CudaBackend:
    """The cells that a device runs."""
    return CudaBackend(f"cuda:{device}")


@dataclass(slots=True)
class DeviceDecoderSaved:
    """What a forward on a device keeps for its backward: opaque, tied to the arrays it read and gave."""

    core: Any  # what the kernels saved
    arrays: DeviceArrays
    dtype: str
    cell: dict[str, Any]  # the cell's and the layer's weights, by the kernels' names
    names: dict[str, str]  # of the parameters, by those
    score: str
    held: dict[str, Any]  # the score's parameters
    asked: dict[str, Any]  # what the queries and scores of the kernels have
    memory: Any
    keys: Any
    weight_key: Any
    states: Sequence[Any]
    inputs: int
    fed: int
    outputs: tuple[int, ...]
    weights: tuple[int, ...]
    with_feed: bool
    owner: Any = None

    def backward(self, doutputs: Any, dstate: Any = None, dweights: Any = None) -> DecoderGradients:
        """The gradients; see `pyrnn.functional.decoder_backward`."""
        arrays, dtype, held = self.arrays, self.dtype, self.held
        (B, T, _), (S, H) = self.outputs, (len(self.states), self.states[0].shape[1])
        given: dict[str, Any] = {}
        if doutputs is not None:
            given["doutputs"] = array_of(arrays, "doutputs", doutputs, self.outputs, "(B, Tq, O)", dtype)
        if dweights is not None:
            given["dweights"] = array_of(arrays, "dweights", dweights, self.weights, "(B, Tq, Tk)", dtype)
        dstates = None
        if dstate is not None:
            dstates = [
                arrays.contiguous(d) for d in arrays.states("dstate", dstate, S, (B, H), "(B, H)", dtype)
            ]
        made = {f"d{name}": arrays.empty(a.shape, dtype) for name, a in (self.cell | self.asked).items()}
        made["dx"] = arrays.empty((B, T, self.inputs), dtype)
        made["dfeed"] = arrays.zeros((B, self.fed), dtype)
        made["dkey"], made["dvalue"] = (arrays.empty(a.shape, dtype) for a in (self.keys, self.memory))
        dstate_out = [arrays.empty(s.shape, dtype) for s in self.states]
        _core.cuda_decoder_backward(
            self.core,
            {name: arrays.describe(a) for name, a in (made | given).items()},
            None if dstates is None else [arrays.describe(d) for d in dstates],
            [arrays.describe(d) for d in dstate_out],
            allocate=arrays.allocate,
            stream=arrays.stream(),
        )
        dkey, dweight_key = scoring.project_backward(
            made["dkey"], self.weight_key, self.memory, operator.matmul, arrays.without_padding
        )
        dweight_query: Any = made.get("dweight_query")
        found: dict[str, Any] = {}
        if self.score == "general":
            found["weight"] = arrays.contiguous(dweight_query.T)
        elif self.score == "concat":
            found["weight"] = arrays.joined([dweight_query, dweight_key])
        else:
            found |= {"weight_query": dweight_query, "weight_key": dweight_key}
        if "weight_score" in held:
            found |= attend.effective_backward(held, made["dweight_score"])
        found["bias"] = made.get("dbias_query")
        return DecoderGradients(
            made["dx"],
            dkey + made["dvalue"],
            dstate_out[0] if S == 1 else tuple(dstate_out),
            made["dfeed"] if self.with_feed else None,
            {named: made[f"d{name}"] for name, named in self.names.items()},
            {name: found[name] for name in held},
            None,
            None,
        )


def forward(
    device: int,
    cell: str,
    x: Any,
    memory: Any,
    params: Any,
    state: Any = None,
    *,
    attention: Mapping[str, Any],
    memory_lengths: Any = None,
    mask: Any = None,
    query: str = "current",
    input_feed: bool = True,
    feed: Any = None,
    previous: Any = None,
    coverage: Any = None,
    out: Any = None,
    save: bool = False,
) -> tuple[Any, Any, Any, DeviceDecoderSaved | None]:
    """Run the decoder on `device`, with the arguments of `pyrnn.functional.decoder_forward`."""
    spec = cells_of(device).spec(cell)
    attend.ready()
    checks.choice("query", query, ("current", "previous"))
    checks.flag("input_feed", input_feed)
    arrays = library_of("x", x, device)
    dtype = number_of("x", arrays.describe(x)[3])
    options = decoding.attention_options(attention)
    score = checks.choice("score", options["score"], tuple(scoring.SCORES))
    attend.check_kind(
        score, options.get("alignment", "softmax"), options.get("local"), previous=previous, coverage=coverage
    )
    made = memory if isinstance(memory, Memory) else None
    if made is not None:
        memory_lengths, memory = decoding.lengths_in(made, memory_lengths), made.key
    x, values = (
        sequence(arrays, name, a, axes, dtype)
        for name, a, axes in (("x", x, "(B, Tq, I)"), ("memory", memory, "(B, Tk, M)"))
    )
    (B, T, I), (rows, Tk, M) = x.shape, values.shape  # noqa: E741
    if rows != B:
        raise checks.wrong_shape("memory", "(B, Tk, M)", (B, "Tk", "M"), tuple(values.shape))

    sizes, names, weights = read_params(arrays, spec, x, values, params, input_feed, query, dtype)
    H, O, fed, S = sizes.hidden_size, sizes.output_size, sizes.fed, spec.states  # noqa: E741
    held = attend.read_params(arrays, score, options["params"], H, M, dtype)
    if state is None:
        states = [arrays.zeros((B, H), dtype) for _ in range(S)]
    else:
        states = [arrays.contiguous(s) for s in arrays.states("state", state, S, (B, H), "(B, H)", dtype)]
    if feed is not None:
        if query == "previous" or not input_feed:
            raise ValueError("feed: expected None without input feeding of the current query, got an array")
        axes = "(B, O)" if "weight_attention" in weights else "(B, M)"
        feed = array_of(arrays, "feed", feed, (B, fed), axes, dtype)
    given = attend.read_mask(arrays, mask, (B,), T, Tk, False, dtype)
    if memory_lengths is not None:
        given["lengths"] = arrays.describe(
            attend.read_lengths(arrays, memory_lengths, B, Tk, "memory_lengths")
        )
    if out is not None:
        read = [x, values, *states, *weights.values(), *held.values(), *([] if feed is None else [feed])]
        arrays.output(out, (B, T, O), "(B, Tq, O)", dtype, read)
    rule = windows.rule_of(
        options.get("causal", False),
        options.get("window"),
        options.get("local"),
        options.get("query_offset", 0),
    )
    scale = options.get("scale")
    scale = checks.finite("scale", scale) if scale is not None else H**-0.5 if score == "scaled_dot" else 1.0

    weight_query, weight_key = scoring.matrices(score, held, H)
    if made is None:
        keys = arrays.contiguous(scoring.project(values, weight_key, operator.matmul))
    else:
        check_memory(made, score, options["params"])
        keys = made.projected
    v = attend.effective(held)
    asked = {"weight_query": weight_query, "bias_query": held.get("bias"), "weight_score": v}
    asked = {name: arrays.contiguous(a) for name, a in asked.items() if a is not None}
    joined, alignment = arrays.empty((B, T, M + H), dtype), arrays.empty((B, T, Tk), dtype)
    outputs = arrays.empty((B, T, O), dtype) if "weight_attention" in weights else joined
    filled = arrays.zeros((B, T, I + fed), dtype)
    filled[:, :, :I] = x
    if feed is not None and T:
        filled[:, 0, I:] = feed
    there: dict[str, Any] = {
        "read": filled,
        "key": keys,
        "value": values,
        "query": arrays.empty((B, T, keys.shape[2]), dtype),
        "joined": joined,
        "weights": alignment,
        "outputs": None if outputs is joined else outputs,
        **weights,
        **asked,
    }
    final = [arrays.empty((B, H), dtype) for _ in range(S)]
    core = _core.cuda_decoder_forward(
        cell,
        "dot" if v is None else "additive",
        {name: arrays.describe(a) for name, a in there.items() if a is not None} | given,
        [arrays.describe(s) for s in states],
        [arrays.describe(s) for s in final],
        allocate=arrays.allocate,
        device=device,
        stream=arrays.stream(),
        fed=fed,
        query_previous=query == "previous",
        scale=scale,
        causal=rule.causal,
        left=-1 if rule.left is None else min(rule.left, attend.FAR),
        right=0 if rule.right is None else min(rule.right, attend.FAR),
        offset=min(rule.offset, attend.FAR),
        save=save,
    )
    saved = None
    if core is not None:
        saved = DeviceDecoderSaved(
            core=core,
            arrays=arrays,
            dtype=dtype,
            cell=weights,
            names=names,
            score=score,
            held=held,
            asked=asked,
            memory=values,
            keys=keys,
            weight_key=weight_key,
            states=states,
            inputs=I,
            fed=fed,
            outputs=(B, T, O),
            weights=(B, T, Tk),
            with_feed=feed is not None,
        )
    if out is not None:
        out[...] = outputs
        outputs = out
    return outputs, final[0] if S == 1 else tuple(final), alignment, saved


def read_params(
    arrays: DeviceArrays,
    spec: Any,
    x: Any,
    memory: Any,
    params: Any,
    input_feed: bool,
    query: str,
    dtype: str,
) -> tuple[decoding.Sizes, dict[str, str], dict[str, Any]]:
    """Sizes, names by those of the kernels, and the decoder's parameters by these, checked."""
    if not isinstance(params, Mapping):
        raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
    held = {name: arrays.plain(name, a, dtype) for name, a in params.items()}
    shaped = {name: np.broadcast_to(np.float32(0), tuple(a.shape)) for name, a in held.items()}
    sizes, layer = decoding.read_sizes(spec, x, memory, shaped, input_feed, query)
    named = decoding.decoder_shapes(spec, sizes, any(str(name).startswith("bias") for name in params), layer)
    checks.named_arrays(named, shaped, np.dtype("float32"))
    names = dict(zip((*CELL, *LAYER), (*cell_names(spec), *LAYER), strict=True))
    names = {name: named for name, named in names.items() if named in held}
    return sizes, names, {name: arrays.contiguous(held[named]) for name, named in names.items()}


def sequence(arrays: DeviceArrays, name: str, a: Any, axes: str, dtype: str) -> Any:
    """An array with three axes, contiguous; only their number, and that there is a feature, is checked."""
    a = arrays.plain(name, a, dtype)
    if len(a.shape) != 3 or not a.shape[2]:
        raise ValueError(f"{name}: expected shape {axes} with positive {axes[-2]}, got {tuple(a.shape)}")
    return arrays.contiguous(a)


def array_of(arrays: DeviceArrays, name: str, a: Any, shape: tuple[int, ...], axes: str, dtype: str) -> Any:
    """An array of this shape, contiguous."""
    a = arrays.plain(name, a, dtype)
    if tuple(a.shape) != shape:
        raise checks.wrong_shape(name, axes, shape, tuple(a.shape))
    return arrays.contiguous(a)


def check_memory(memory: Memory, score: str, params: Any) -> None:
    """Refuse a memory made for another score, or with another array as the weight."""
    from pyrnn.attending import key_weight

    if score != memory.score:
        raise ValueError(f"memory: expected one made for score {score!r}, got one for {memory.score!r}")
    if key_weight(score, params) is not memory.weight:
        raise ValueError("memory: expected one made with the params given, got one of other weights")


def precompute(device: int, key: Any, lengths: Any, *, score: str, params: Mapping[str, Any]) -> Memory:
    """What the keys (B, Tk, Dk) alone decide, for a decoder's steps; see `pyrnn.functional.precompute`."""
    from pyrnn.attending import key_weight

    arrays = library_of("key", key, device)
    key = arrays.contiguous(key)
    weight = key_weight(score, params)
    matrix = weight if weight is None else weight[:, weight.shape[1] - key.shape[-1] :]
    if lengths is not None:
        lengths = attend.read_lengths(arrays, lengths, key.shape[0], key.shape[1])
    projected = arrays.contiguous(scoring.project(key, matrix, operator.matmul))
    return Memory(score, key, None, lengths, projected, weight)
