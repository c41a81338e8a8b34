# SPDX-License-Identifier: Apache-2.0
"""Layers from the recurrent operators of ONNX models."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from pyrnn.io.gates import ONNX, layer_name, ours
from pyrnn.io.layers import recurrent
from pyrnn.io.onnx_files import GATES, Graph, Node
from pyrnn.layout import Array
from pyrnn.options import CURVES

#: What each operator computes with where nothing is said, in the order of its attribute.
DEFAULTS = {"LSTM": ("Sigmoid", "Tanh", "Tanh"), "GRU": ("Sigmoid", "Tanh"), "RNN": ("Tanh",)}
IDENTITY = ("affine", 1.0, 0.0)
#: Activations whose numbers the standard leaves open: ONNX Runtime takes zeros.
UNSAID = ("affine", "scaledtanh")
#: Activations of an LSTM that cells of their own have.
LINEAR = {
    (("sigmoid",), IDENTITY, ("tanh",)): "lstm_no_input_activation",
    (("sigmoid",), ("tanh",), IDENTITY): "lstm_no_output_activation",
}


class Part(NamedTuple):
    """One node as a layer: what `recurrent` needs, what the model fixes of a call's arguments."""

    config: dict[str, Any]
    params: list[dict[str, Array]]  # of each direction, by our names without `_l0`
    lengths: str  # name of the value, "" without
    states: dict[str, Array]  # constant ones by input


def from_onnx(model: Any, node: str | None = None, *, constants: bool = False) -> Any:
    """A layer from the LSTM, GRU and RNN operators of an ONNX model.

    Parameters
    ----------
    model : onnx.ModelProto, its bytes, or path
        Weights in the model, float32 or float64. Damaged and forged files are refused; paths of external
        data are not followed.
    node : str, optional
        Name of one node, or of its output Y. When None, the only recurrent node of the model, or all of them
        where each reads what the one before returns and nothing else: a stack.
    constants : bool
        Whether to return what the model fixes of a call's arguments as well.

    Returns
    -------
    layer : pyrnn.LSTM, GRU, RNN or Recurrent
        With `batch_first=True` where the operator has layout 1 or reads a transposed input, as PyTorch
        exports it; `reverse=True` for the reverse direction. Lengths and states that the model computes or
        takes as inputs are for the caller to pass.
    given : dict, only with `constants`
        For `layer(x, **given)`: the model's constant `lengths` and `state`.

    Raises
    ------
    TypeError
        `model` is none of these.
    ValueError
        The model is damaged; it has no recurrent node or several that are no stack; weights are computed or
        stored elsewhere; the operator does what no layer here does; or it has constant lengths or a constant
        initial state other than zero, without `constants`.
    OSError
        The file cannot be read.

    Examples
    --------
    >>> import pyrnn
    >>> layer = pyrnn.GRU(3, 5, bidirectional=True, seed=0)
    >>> pyrnn.io.from_onnx(pyrnn.io.to_onnx(layer))  # doctest: +SKIP
    GRU(3, 5, bidirectional=True)
    """
    graph = Graph(model)
    nodes = chosen(graph, node)
    parts = [part_of(graph, n) for n in nodes]
    first = parts[0]
    if any((part.config, part.lengths) != (first.config, first.lengths) for part in parts):
        raise ValueError(
            f"model: expected nodes with the same options, got others in {labels(nodes)}; give node="
        )
    tensors = {
        kind + f"_l{k}" + "_reverse" * way: a
        for k, part in enumerate(parts)
        for way, params in enumerate(part.params)
        for kind, a in params.items()
    }
    config = first.config | {"batch_first": first.config["batch_first"] or transposed(graph, nodes[0])}
    layer = recurrent(layer_name(config["cell"]), config, tensors)
    given = given_by(graph, nodes, parts, layer)
    if constants:
        return layer, given
    if given:
        raise ValueError(
            f"model: expected no constant {' or '.join(given)}, got some; constants=True returns them"
        )
    return layer


def labels(nodes: list[Node]) -> str:
    """Names of nodes for a message."""
    return ", ".join(repr(n.label[:80]) for n in nodes[:20]) or "none"


def chosen(graph: Graph, name: str | None) -> list[Node]:
    """The nodes that make the layer, the lowest first."""
    if name is not None:
        found = [n for n in graph.nodes if name in (n.label, n.output)]
        if len(found) != 1:
            raise ValueError(f"node: expected one of {labels(graph.nodes)}, got {name!r}")
        return found
    if not graph.nodes:
        raise ValueError("model: expected an LSTM, GRU or RNN node in the main graph, got none")
    by_output = {n.output: n for n in graph.nodes}
    below: dict[str, str] = {}
    for node in graph.nodes:
        source = read_by(graph, by_output, node)
        if source is not None:
            below[node.output] = source
    tops = [n for n in graph.nodes if n.output not in below.values()]
    stack = tops[:1]
    while stack and stack[0].output in below and len(stack) <= len(graph.nodes):
        stack.insert(0, by_output[below[stack[0].output]])
    if len(stack) != len(graph.nodes):
        raise ValueError(
            f"model: expected one recurrent node or a stack, got {labels(graph.nodes)}; give node="
        )
    return stack


def read_by(graph: Graph, by_output: dict[str, Node], node: Node) -> str | None:
    """The Y that a node reads through nothing but a change of its shape to a sequence, or None."""
    path: list[tuple[str, list[int] | None]] = []
    for maker in graph.before(node.inputs.get("X", "")):
        source = by_output.get(maker.output[0])
        if source is not None:
            return source.output if sequence(source, path) else None
        listed = [int(n) for a in maker.attribute if a.name in ("axes", "perm") for n in a.ints]
        second = graph.integers(maker.input[1]) if len(maker.input) > 1 else None
        if maker.op_type not in ("Identity", "Dropout"):
            path.append((maker.op_type, listed or second))
    return None


def sequence(node: Node, path: list[tuple[str, list[int] | None]]) -> bool:
    """Whether what follows Y (T, directions, B, H) makes (T, B, directions·H) of it; the last comes first."""
    ways = 1 + (node.attributes.get("direction") == "bidirectional")
    if node.attributes.get("layout", 0):
        return False
    if ways == 1 and path == [("Squeeze", [1])]:
        return True
    if len(path) != 2 or path[1] != ("Transpose", [0, 2, 1, 3]) or path[0][0] != "Reshape":
        return False
    shape = path[0][1] or []
    return len(shape) == 3 and shape[2] in (-1, ways * node.attributes.get("hidden_size", 0))


def transposed(graph: Graph, node: Node) -> bool:
    """Whether X comes batch first and is transposed for the node."""
    maker = graph.makers.get(node.inputs.get("X", ""))
    if maker is None or maker.op_type != "Transpose":
        return False
    return [int(n) for a in maker.attribute if a.name == "perm" for n in a.ints] == [1, 0, 2]


def part_of(graph: Graph, node: Node) -> Part:
    """The parameters and options of one node."""
    attributes, label = node.attributes, node.label
    direction = attributes.get("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        raise ValueError(
            f"{label}: expected direction forward, reverse or bidirectional, got {direction[:40]!r}"
        )
    ways = 1 + (direction == "bidirectional")
    for name, least in (("layout", 0), ("input_forget", 0), ("linear_before_reset", 0)):
        if attributes.get(name, least) not in (0, 1):
            raise ValueError(f"{label}: expected {name} 0 or 1, got {attributes[name]}")

    W, R = (graph.constant(node, name) for name in ("W", "R"))
    B, P = (graph.constant(node, name) for name in ("B", "P"))
    if W is None or R is None:
        raise ValueError(f"{label}: expected inputs X, W and R, got {', '.join(node.inputs)}")
    gates = GATES[node.operator]
    H, inputs = R.shape[-1] if R.ndim else 0, W.shape[-1] if W.ndim else 0
    if attributes.get("hidden_size", H) != H:
        raise ValueError(f"{label}: expected hidden_size {H}, which R has, got {attributes['hidden_size']}")
    shapes: dict[str, tuple[int, ...]] = {"W": (ways, gates * H, inputs), "R": (ways, gates * H, H)}
    shapes |= {"B": (ways, 2 * gates * H), "P": (ways, 3 * H)}
    for (name, shape), a in zip(shapes.items(), (W, R, B, P), strict=True):
        if a is not None and (a.shape != shape or 0 in shape or a.dtype.kind != "f" or a.dtype != W.dtype):
            raise ValueError(f"{label}: expected {name} of floats and shape {shape}, got {a.dtype} {a.shape}")

    cell, more = cell_of(node, P is not None, ways)
    order = ONNX[cell]
    params: list[dict[str, Array]] = []
    for way in range(ways):
        arrays = {"weight_ih": W[way], "weight_hh": R[way]}
        if B is not None:
            arrays |= dict(zip(("bias_ih", "bias_hh"), np.split(B[way], 2), strict=True))
        if cell == "lstm_coupled":  # without the rows of f, which is 1 - i
            arrays = {kind: np.delete(a, slice(2 * H, 3 * H), axis=0) for kind, a in arrays.items()}
        arrays = {kind: ours(a, order) for kind, a in arrays.items()}
        if P is not None:
            arrays["weight_peephole"] = np.ascontiguousarray(P[way].reshape(3, H)[[0, 2, 1]])
        params.append(arrays)
    config = {
        "cell": cell,
        "batch_first": attributes.get("layout", 0) == 1,
        "reverse": direction == "reverse",
        "dropout": 0.0,
        **more,
    }
    return Part(config, params, node.inputs.get("sequence_lens", ""), constant_states(graph, node, H, ways))


def cell_of(node: Node, peepholes: bool, ways: int) -> tuple[str, dict[str, Any]]:
    """Our cell for a node, and the options that it needs."""
    attributes, label = node.attributes, node.label
    functions: tuple[tuple[Any, ...], ...] | None = activations_of(node, ways)
    coupled = attributes.get("input_forget", 0) == 1
    if coupled and peepholes:
        raise ValueError(f"{label}: expected input_forget 0 with peepholes, got 1")
    if node.operator == "LSTM":
        cell = "lstm_coupled" if coupled else "lstm_peephole" if peepholes else "lstm"
    elif node.operator == "GRU":
        cell = "gru" if attributes.get("linear_before_reset", 0) else "gru_reset_before"
    else:
        cell = "rnn_relu" if functions == (("relu",),) else "rnn_tanh"
    clip = attributes.get("clip")
    if clip is not None and not clip > 0:
        raise ValueError(f"{label}: expected a positive clip, got {clip:g}")
    if clip is not None and clip >= np.finfo(np.float32).max:  # as runtimes write none
        clip = None
    if functions == usual(node.operator) or cell == "rnn_relu":
        functions = None
    elif cell == "lstm" and clip is None and functions in LINEAR:
        cell, functions = LINEAR[functions], None
    more: dict[str, Any] = {}
    if functions is not None:
        more["activations"] = tuple(f if len(f) > 1 else f[0] for f in functions)
    if clip is not None:
        more["gate_clip"] = float(clip)
    return cell, more


def usual(operator: str) -> tuple[tuple[Any, ...], ...]:
    """What an operator computes with where nothing is said, in the form of `activations_of`."""
    return tuple((name.lower(),) for name in DEFAULTS[operator])


def activations_of(node: Node, ways: int) -> tuple[tuple[Any, ...], ...]:
    """Names, in lower case, and parameters of the activations, the same in both directions."""
    names = node.attributes.get("activations") or list(DEFAULTS[node.operator]) * ways
    count = len(DEFAULTS[node.operator])
    if len(names) != count * ways:
        raise ValueError(f"{node.label}: expected {count * ways} activations, got {len(names)}")
    given = {field: iter(node.attributes.get(f"activation_{field}", ())) for field in ("alpha", "beta")}
    functions = []
    for name in map(str.lower, names):
        if name not in CURVES:
            raise ValueError(f"{node.label}: expected activations of the operator, got {name[:40]!r}")
        values = []
        for field, default in zip(("alpha", "beta"), CURVES[name], strict=False):
            value = next(given[field], None if name in UNSAID else default)
            if value is None or not np.isfinite(value):
                raise ValueError(f"{node.label}: expected a finite {field} for {name}, got {value}")
            values.append(float(value))
        functions.append((name, *values))
    if functions[:count] * ways != functions:
        raise ValueError(f"{node.label}: expected the same activations in both directions, got others")
    return tuple(functions[:count])


def constant_states(graph: Graph, node: Node, H: int, ways: int) -> dict[str, Array]:
    """Initial states (directions, B, H) that the model holds, other than zeros."""
    found: dict[str, Array] = {}
    for name in ("initial_h", "initial_c"):
        if name in node.inputs and graph.tensor(node.inputs[name]) is not None:
            a = graph.constant(node, name)
            assert a is not None
            if node.attributes.get("layout", 0) == 1 and a.ndim == 3:
                a = a.swapaxes(0, 1)
            if a.ndim != 3 or a.shape[::2] != (ways, H) or a.dtype not in (np.float32, np.float64):
                raise ValueError(f"{node.label}: expected {name} of shape ({ways}, B, {H}), got {a.shape}")
            if a.any():
                found[name] = a
    return found


def given_by(graph: Graph, nodes: list[Node], parts: list[Part], layer: Any) -> dict[str, Any]:
    """The arguments of a call that the model fixes."""
    given: dict[str, Any] = {}
    if parts[0].lengths and graph.tensor(parts[0].lengths) is not None:
        lengths = graph.constant(nodes[0], "sequence_lens")
        if lengths is None or lengths.ndim != 1 or lengths.dtype.kind != "i":
            raise ValueError(f"{nodes[0].label}: expected sequence_lens of shape (B,), got another")
        given["lengths"] = lengths
    sizes = {a.shape[1] for part in parts for a in part.states.values()}
    if len(sizes) > 1:
        raise ValueError(f"model: expected initial states of one batch size, got {sorted(sizes)}")
    if sizes and layer._layout.ragged:
        raise ValueError(
            "model: expected one hidden_size where initial states are constant, got several; give node="
        )
    if sizes:
        zeros = np.zeros((1 + layer.bidirectional, sizes.pop(), layer.hidden_size))
        states = tuple(
            np.concatenate([part.states.get(name, zeros) for part in parts]).astype(layer.dtype)
            for name in ("initial_h", "initial_c")[: layer._layout.spec.states]
        )
        given["state"] = states if len(states) > 1 else states[0]
    return given
