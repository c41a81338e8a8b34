# SPDX-License-Identifier: Apache-2.0
"""Arguments of a decoder with attention: checked and brought into one form for any back end.

The kernels and the NumPy reference are two such back ends; what is here is written once for both. A decoder
is one cell that attends to a memory at every step: cell + attention + input feeding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from pyrnn import attending, checks, scoring
from pyrnn.attending import Memory
from pyrnn.backends.layer import Backend as Layers
from pyrnn.layout import KINDS, Array, Layout, Shapes, Spec
from pyrnn.states import State

ATTENTION = ("score", "params", "scale", "causal", "window", "alignment", "local", "query_offset")
LAYER = ("weight_attention", "bias_attention")


class Backend(Protocol):
    """What runs the whole loop of a decoder; see `pyrnn.reference.decoder.Loop` for the arguments."""

    @property
    def cells(self) -> Layers:
        """The registered cells and the number types."""

    @property
    def attention(self) -> attending.Backend:
        """Attention on its own; it checks the arguments of the decoder's."""

    def forward(self, *arguments: Any, **options: Any) -> tuple[Array, Sequence[Array], Array, Any]:
        """Outputs, final states, alignment weights, and what `backward` needs."""

    def backward(self, *arguments: Any) -> dict[str, Any]:
        """Gradients by name."""


class DecoderGradients(NamedTuple):
    """Gradients in the structure of what they belong to.

    Attributes
    ----------
    x : array (B, Tq, I)
    memory : array (B, Tk, M)
    state : array or tuple of arrays, as the state; gradient of the initial state
    feed : array or None
        As `feed` when it was given.
    params : dict of arrays
        The cell's and the attention layer's, by name.
    attention : dict of arrays
        The score's, by name.
    previous, coverage : array (B, Tk) or None
        When they were given.
    """

    x: Array
    memory: Array
    state: State
    feed: Array | None
    params: dict[str, Array]
    attention: dict[str, Array]
    previous: Array | None
    coverage: Array | None


class Sizes(NamedTuple):
    """Sizes of a decoder."""

    input_size: int  # I
    memory_size: int  # M
    hidden_size: int  # H
    output_size: int  # O
    fed: int  # what the cell reads beside x


class Keys(NamedTuple):
    """The memory, and the score that is left when the projection of the keys is done.

    Attributes
    ----------
    score : str
        "additive" of "concat", else the score itself.
    params : dict of arrays
        Without what projects the keys.
    projected : array (B, Tk, D)
    values : array (B, Tk, M)
    weight : array (D, M) or None
        What projected the keys.
    """

    score: str
    params: dict[str, Array]
    projected: Array
    values: Array
    weight: Array | None


@dataclass(eq=False)
class Saved:
    """What a forward keeps for its backward: opaque, tied to the arrays of that call."""

    backend: Backend
    spec: Spec
    dtype: np.dtype[Any]
    kept: Any  # what the back end saved
    keys: Keys
    score: str
    score_names: tuple[str, ...]
    named: Shapes
    hidden_size: int
    outputs: tuple[int, ...]  # shape of the outputs
    weights: tuple[int, ...]  # shape of the alignment
    given: dict[str, bool]  # which of feed, previous, coverage
    owner: Any = None


def sizes_of(I: int, M: int, H: int, layer: int | None, input_feed: bool, query: str) -> Sizes:  # noqa: E741
    """The sizes of a decoder with an attention layer of size `layer`, or without."""
    O = M + H if layer is None else layer  # noqa: E741
    fed = M if layer is None or query == "previous" else layer
    return Sizes(I, M, H, O, fed if input_feed else 0)


def decoder_shapes(spec: Spec, sizes: Sizes, bias: bool, layer: bool) -> Shapes:
    """Names and shapes of a decoder's own parameters: the cell's, and the attention layer's if any."""
    width, H, O = sizes.input_size + sizes.fed, sizes.hidden_size, sizes.output_size  # noqa: E741
    cell = Layout(spec, width, H, bias=bias, suffixes=False)
    named = {name: (shape, cell.axes(name)) for name, shape in cell.shapes.items()}
    if sizes.fed:
        shape, axes = named["weight_ih"]
        named["weight_ih"] = (shape, axes.replace("I)", "I + fed)"))
    if layer:
        named["weight_attention"] = ((O, sizes.memory_size + H), "(O, M + H)")
        if bias:
            named["bias_attention"] = ((O,), "(O,)")
    return Shapes(named)


def cell_names(spec: Spec) -> tuple[str, ...]:
    """Names of the cell's parameters in the order of a back end's `weights`."""
    return (*(kind if kind in spec.kinds else "" for kind in KINDS), f"weight_{spec.param_name}")


def read_sizes(
    spec: Spec, x: Array, memory: Array, params: Mapping[str, Any], input_feed: bool, query: str
) -> tuple[Sizes, bool]:
    """The sizes that x, the memory and the parameters tell, and whether there is an attention layer."""
    rows = f"{spec.from_h}*H" if spec.from_h > 1 else "H" if spec.from_h else str(spec.params)
    H, layer = scoring.extent(params, "weight_hh", (rows, "H"))[1], None
    if "weight_attention" in params:
        layer = scoring.extent(params, "weight_attention", ("O", "M + H"))[0]
    return sizes_of(x.shape[2], memory.shape[2], H, layer, input_feed, query), layer is not None


def forward(
    backend: Backend,
    cell: str,
    x: Array,
    memory: Array | Memory,
    params: Any,
    state: State | None = None,
    *,
    attention: Mapping[str, Any],
    memory_lengths: Any = None,
    mask: Array | None = None,
    query: str = "current",
    input_feed: bool = True,
    feed: Array | None = None,
    previous: Array | None = None,
    coverage: Array | None = None,
    out: Array | None = None,
    save: bool = False,
) -> tuple[Array, State, Array, Any]:
    """Run the decoder, with the arguments of `pyrnn.functional.decoder_forward`.

    The fourth result is a Saved when `save`.
    """
    spec = backend.cells.spec(cell)
    checks.choice("query", query, ("current", "previous"))
    checks.flag("input_feed", input_feed)
    dtype = dtype_of(backend, params)
    x = sequence("x", x, "(B, Tq, I)", dtype)
    values = sequence("memory", memory.key if isinstance(memory, Memory) else memory, "(B, Tk, M)", dtype)
    if isinstance(memory, Memory):
        memory_lengths = lengths_in(memory, memory_lengths)
    (B, T, _), (rows, Tk, _) = x.shape, values.shape
    if rows != B:
        raise checks.wrong_shape("memory", "(B, Tk, M)", (B, "Tk", "M"), values.shape)
    sizes, layer = read_sizes(spec, x, values, params, input_feed, query)
    named = decoder_shapes(spec, sizes, any(str(name).startswith("bias") for name in params), layer)
    arrays = checks.named_arrays(named, params, dtype)
    H, S = sizes.hidden_size, spec.states

    if state is None:
        states = tuple(np.zeros((B, H), dtype) for _ in range(S))
    else:
        states = read_state("state", state, S, (B, H), dtype)
    if feed is not None:
        if query == "previous" or not input_feed:
            raise ValueError("feed: expected None without input feeding of the current query, got an array")
        feed = array_of("feed", feed, (B, sizes.fed), "(B, O)" if layer else "(B, M)", dtype)
    if previous is not None:
        previous = array_of("previous", previous, (B, Tk), "(B, Tk)", dtype)
    if coverage is not None:
        coverage = array_of("coverage", coverage, (B, Tk), "(B, Tk)", dtype)
    lengths = None
    if memory_lengths is not None:
        lengths = checks.lengths_of(memory_lengths, Tk, B, False, "memory_lengths", "Tk")
    mask = None if mask is None else mask_of(mask, (B, T, Tk))
    options = attention_options(attention)
    sums: dict[str, Any] = {"previous": previous, "coverage": coverage}
    check_attention(backend, options, values, H, mask, **sums)
    if out is not None:
        read = [x, values, *states, *arrays.values(), *options["params"].values(), *sums.values(), feed, mask]
        shape = (B, T, sizes.output_size)
        checks.output(out, shape, "(B, Tq, O)", dtype, [a for a in read if a is not None])
    made = memory if isinstance(memory, Memory) else None
    keys = keys_of(options, values, H, made, backend.attention.multiply)
    outputs, finals, weights, kept = backend.forward(
        cell,
        x,
        keys.projected,
        keys.values,
        states,
        [arrays.get(name) for name in cell_names(spec)],
        [arrays.get(name) for name in LAYER],
        options | {"score": keys.score, "params": keys.params},
        lengths=lengths,
        mask=mask,
        query=query,
        input_feed=input_feed,
        feed=feed,
        save=save,
        **sums,
    )
    saved = None
    if save:
        given = {"feed": feed is not None, "previous": previous is not None, "coverage": coverage is not None}
        shapes, names = (outputs.shape, weights.shape), tuple(options["params"])
        saved = Saved(backend, spec, dtype, kept, keys, options["score"], names, named, H, *shapes, given)
    if out is not None:
        out[...] = outputs
        outputs = out
    return outputs, finals[0] if S == 1 else tuple(finals), weights, saved


def backward(
    saved: Saved, doutputs: Array | None, dstate: State | None = None, dweights: Array | None = None
) -> DecoderGradients:
    """The reverse sweep through the steps; see `pyrnn.functional.decoder_backward`."""
    if not isinstance(saved, Saved):
        raise TypeError(f"saved: expected what decoder_forward returned, got {type(saved).__name__}")
    dtype, S, B, H = saved.dtype, saved.spec.states, saved.outputs[0], saved.hidden_size
    if doutputs is not None:
        doutputs = array_of("doutputs", doutputs, saved.outputs, "(B, Tq, O)", dtype)
    if dweights is not None:
        dweights = array_of("dweights", dweights, saved.weights, "(B, Tq, Tk)", dtype)
    dstates = None if dstate is None else read_state("dstate", dstate, S, (B, H), dtype)
    grads = saved.backend.backward(saved.kept, doutputs, dstates, dweights)

    keys, given = saved.keys, saved.given
    dkey, dattention = keys_backward(
        saved.score, keys, grads["keys"], grads["attention"], saved.backend.attention.multiply
    )
    params = dict(zip((*cell_names(saved.spec), *LAYER), (*grads["weights"], *grads["layer"]), strict=True))
    states = grads["states"]
    return DecoderGradients(
        grads["x"],
        dkey + grads["values"],
        states[0] if S == 1 else tuple(states),
        grads["feed"] if given["feed"] else None,
        {name: params[name] for name in saved.named.shapes},
        {name: dattention[name] for name in saved.score_names},
        grads["previous"] if given["previous"] else None,
        grads["coverage"] if given["coverage"] else None,
    )


def attention_options(attention: Any) -> dict[str, Any]:
    """The keyword arguments of the attention, their names checked; their values are for `check_attention`."""
    if not isinstance(attention, Mapping):
        raise TypeError(f"attention: expected a dict of arguments, got {type(attention).__name__}")
    for name in attention:
        if name not in ATTENTION:
            raise ValueError(f"attention: expected names among {', '.join(ATTENTION)}, got {name!r}")
    params = attention.get("params")
    return {"score": "dot", **attention, "params": {} if params is None else params}


def remembers(attention: Mapping[str, Any]) -> tuple[bool, bool]:
    """Whether a query needs the weights of the query before, and whether it needs their sum so far."""
    follows = attention["score"] == "location" or "monotonic" in attention.get("alignment", "softmax")
    return follows, "weight_coverage" in attention["params"]


def check_attention(
    backend: Backend,
    options: dict[str, Any],
    values: Array,
    H: int,
    mask: Array | None,
    **given: Any,
) -> None:
    """Have the attention check its arguments on no query and no key, which costs nothing."""
    none: dict[str, Any] = {name: None if a is None else a[:, :0] for name, a in given.items()}
    none["mask"] = None if mask is None else mask[:, :0, :0]
    attending.forward(
        backend.attention,
        np.zeros((values.shape[0], 0, H), values.dtype),
        values[:, :0],
        **options | none,
    )


def lengths_in(memory: Memory, lengths: Any) -> Any:
    """The lengths that a precomputed memory holds; it must be the value as well as the key."""
    if lengths is not None:
        raise ValueError("memory_lengths: expected None beside a precomputed memory, got lengths")
    if memory.value is not None:
        raise ValueError("memory: expected one that is key and value, got one with values of its own")
    return memory.lengths


def keys_of(
    options: Mapping[str, Any], values: Array, H: int, memory: Memory | None, multiply: scoring.Multiply
) -> Keys:
    """The keys (B, Tk, M) projected, or taken from a memory, and what is left to do for queries of size H."""
    score, params = options["score"], options["params"]
    weight_query, weight_key = scoring.matrices(score, params, H)
    rest = {name: a for name, a in params.items() if name != "weight_key"}
    if score == "concat" and weight_query is not None:
        rest = {"weight_query": np.ascontiguousarray(weight_query)} | {
            name: a for name, a in params.items() if name != "weight"
        }
    if memory is None:
        projected = scoring.project(values, weight_key, multiply)
    else:
        memory.check(score, params)
        projected = memory.projected
    return Keys("additive" if score == "concat" else score, rest, projected, values, weight_key)


def keys_backward(
    score: str, keys: Keys, dkeys: Array, drest: dict[str, Array], multiply: scoring.Multiply
) -> tuple[Array, dict[str, Array]]:
    """Gradients of the keys and of the score's own parameters from those of what was left."""
    dkey, dweight = scoring.project_backward(dkeys, keys.weight, keys.values, multiply)
    if score == "concat":
        return dkey, scoring.matrices_backward(score, drest.pop("weight_query"), dweight) | drest
    return dkey, drest if dweight is None else drest | {"weight_key": dweight}


def dtype_of(backend: Backend, params: Any) -> np.dtype[Any]:
    """The dtype of the parameters, which everything else must have."""
    weight = params.get("weight_ih") if isinstance(params, Mapping) else None
    if not isinstance(weight, np.ndarray):
        if not isinstance(params, Mapping):
            raise TypeError(f"params: expected a dict of arrays, got {type(params).__name__}")
        if weight is None:
            raise ValueError("params: expected 'weight_ih', got no such name")
        raise TypeError(f"weight_ih: expected a NumPy array, got {type(weight).__name__}")
    dtype: np.dtype[Any] = backend.cells.dtype("weight_ih", weight.dtype)
    return dtype


def sequence(name: str, a: Any, axes: str, dtype: np.dtype[Any]) -> Array:
    """An array with three axes, contiguous; only their number, and that there is a feature, is checked."""
    a = checks.plain_array(name, a, dtype)
    if a.ndim != 3 or not a.shape[2]:
        raise ValueError(f"{name}: expected shape {axes} with positive {axes[-2]}, got {a.shape}")
    return contiguous(a, dtype)


def array_of(name: str, a: Any, shape: tuple[int, ...], axes: str, dtype: np.dtype[Any]) -> Array:
    """An array of this shape, contiguous."""
    a = checks.plain_array(name, a, dtype)
    if a.shape != shape:
        raise checks.wrong_shape(name, axes, shape, a.shape)
    return contiguous(a, dtype)


def read_state(
    name: str, state: State, count: int, shape: tuple[int, int], dtype: np.dtype[Any]
) -> tuple[Array, ...]:
    """A state as a tuple of arrays (B, H), contiguous."""
    return tuple(contiguous(s, dtype) for s in checks.states(name, state, count, shape, "(B, H)", dtype))


def contiguous(a: Array, dtype: np.dtype[Any]) -> Array:
    """`a` in native byte order, aligned and C-contiguous."""
    return np.require(a, dtype, ["C", "A"])


def mask_of(mask: Any, shape: tuple[int, ...]) -> Array:
    """A mask as a view of shape (B, Tq, Tk); its dtype is for the attention to check."""
    a = checks.array_of("mask", mask)
    try:
        return np.broadcast_to(a, shape)
    except ValueError:
        raise ValueError(
            f"mask: expected a shape that broadcasts to (B, Tq, Tk) = {shape}, got {a.shape}"
        ) from None
