# SPDX-License-Identifier: Apache-2.0
"""ONNX models of layers: an operator for each, joined as PyTorch's exporter joins them."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from pyrnn.io.gates import ONNX, theirs
from pyrnn.io.onnx_layers import LINEAR, usual
from pyrnn.io.refusing import refuse
from pyrnn.io.safetensors import write_atomically
from pyrnn.layout import Array
from pyrnn.options import CURVES

OPSET, IR_VERSION = 14, 8
#: The operator of each cell and what it is told.
OPERATORS: dict[str, tuple[str, dict[str, Any]]] = {
    "lstm": ("LSTM", {}),
    "lstm_peephole": ("LSTM", {}),
    "lstm_coupled": ("LSTM", {"input_forget": 1}),
    "lstm_no_input_activation": ("LSTM", {}),
    "lstm_no_output_activation": ("LSTM", {}),
    "gru": ("GRU", {"linear_before_reset": 1}),
    "gru_reset_before": ("GRU", {"linear_before_reset": 0}),
    "rnn_tanh": ("RNN", {}),
    "rnn_relu": ("RNN", {"activations": ["Relu"]}),
}
#: Activations in the standard's spelling.
SPELLED = {name: name.capitalize() for name in CURVES} | {
    "hardsigmoid": "HardSigmoid",
    "leakyrelu": "LeakyRelu",
    "scaledtanh": "ScaledTanh",
    "thresholdedrelu": "ThresholdedRelu",
}
CARRIED = ("activations", "gate_clip")
STATES = {"LSTM": "hc", "GRU": "h", "RNN": "h"}


def to_onnx(
    layer: Any, path: str | os.PathLike[str] | None = None, *, lengths: bool = False, state: bool = False
) -> Any:
    """An ONNX model of a layer's inference.

    Its input is `x` (T, B, I), or (B, T, I) with `batch_first`, with T and B left open; its outputs are `y`,
    `h_n` and for the LSTM `c_n`, with the shapes that the layer's call returns.

    Parameters
    ----------
    layer : pyrnn.Recurrent
        What acts in training alone (dropout, recurrent dropout) and `compute_dtype` are left away.
    path : path, optional
        Where to write the model as well; replaced, atomically, if it exists.
    lengths : bool
        Whether the model has an input `lengths`, int32 (B,).
    state : bool
        Whether it has inputs `h_0` and for the LSTM `c_0`, (num_layers·directions, B, H); else zeros.

    Returns
    -------
    onnx.ModelProto
        Of opset 14.

    Raises
    ------
    TypeError
        `layer` is no recurrent layer.
    ValueError
        It has a cell or an option that the operators have not: projection, layer normalisation, zoneout.

    Notes
    -----
    ONNX Runtime's operators compute in float32 alone; models of float64 layers are for other runtimes.

    Examples
    --------
    >>> import pyrnn
    >>> model = pyrnn.io.to_onnx(pyrnn.LSTM(3, 5))  # doctest: +SKIP
    >>> [output.name for output in model.graph.output]  # doctest: +SKIP
    ['y', 'h_n', 'c_n']
    """
    import pyrnn

    if not isinstance(layer, pyrnn.Recurrent):
        raise TypeError(f"layer: expected a recurrent layer, got {type(layer).__name__}")
    if layer.cell not in OPERATORS:
        raise ValueError(f"layer: expected one of the cells {', '.join(OPERATORS)}, got {layer.cell!r}")
    # What acts in training alone does not matter to a model of inference.
    refuse(layer, "ONNX", ("reverse", "weight_dropout", "recurrent_dropout_kind", *CARRIED))
    model = Builder(layer, lengths, state).model()
    if path is not None:
        write_atomically(path, [model.SerializeToString()])
    return model


class Builder:
    """The nodes and constants of a model while it is made."""

    def __init__(self, layer: Any, lengths: bool, state: bool) -> None:
        self.layer, self.lengths, self.state = layer, lengths, state
        self.operator, self.options = OPERATORS[layer.cell]
        self.states = STATES[self.operator]
        self.ways = 1 + layer.bidirectional
        self.params = layer.state_dict()
        self.nodes: list[Any] = []
        self.constants: dict[str, Array] = {}

    def add(self, operator: str, inputs: list[str], outputs: list[str], **attributes: Any) -> str:
        """A node; the name of its first output."""
        from onnx import helper

        name = f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs[0]

    def constant(self, name: str, value: Any) -> str:
        """An array of the model, kept once."""
        self.constants[name] = np.ascontiguousarray(value)
        return name

    def turned(self, source: str, target: str) -> str:
        """A sequence with its first two axes in the other order."""
        return self.add("Transpose", [source], [target], perm=[1, 0, 2])

    def model(self) -> Any:
        """All of it."""
        from onnx import helper, numpy_helper

        layer, L = self.layer, self.layer.num_layers
        below = self.turned("x", "x_time") if layer.batch_first else "x"
        if self.state and L > 1:
            sizes = self.constant("of_a_layer", np.full(L, self.ways))
            for s in self.states:
                self.add("Split", [f"{s}_0", sizes], [f"{s}_0_l{k}" for k in range(L)], axis=0)
        for k in range(L):
            below = self.level(k, below, "y" if k == L - 1 and not layer.batch_first else f"y_l{k}")
        if layer.batch_first:
            self.turned(below, "y")
        if L > 1:
            for s in self.states:
                self.add("Concat", [f"{s}_n_l{k}" for k in range(L)], [f"{s}_n"], axis=0)
        graph = helper.make_graph(
            self.nodes, "pyrnn", *self.interface(),
            [numpy_helper.from_array(a, name) for name, a in self.constants.items()],
        )  # fmt: skip
        return helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="pyrnn",
        )

    def level(self, k: int, below: str, target: str) -> str:
        """One layer of the stack, from the name of what it reads to that of what it returns."""
        layer, alone = self.layer, self.layer.num_layers == 1
        suffixes = [f"_l{k}", f"_l{k}_reverse"][: self.ways]
        inputs = [below, *(self.weights(k, suffixes)), "lengths" if self.lengths else ""]
        if self.state:
            inputs += [f"{s}_0" if alone else f"{s}_0_l{k}" for s in self.states]
        if layer.cell == "lstm_peephole":
            inputs += [""] * (7 - len(inputs))
            peepholes = [self.params["weight_peephole" + suffix][[0, 2, 1]].ravel() for suffix in suffixes]
            inputs.append(self.constant(f"P_l{k}", np.stack(peepholes)))
        while not inputs[-1]:
            inputs.pop()
        finals = [f"{s}_n" if alone else f"{s}_n_l{k}" for s in self.states]
        direction = "bidirectional" if layer.bidirectional else "reverse" if layer.reverse else "forward"
        raw = self.add(
            self.operator, inputs, [f"{target}_raw", *finals],
            hidden_size=layer.hidden_size, direction=direction, **self.options | self.activations(),
        )  # fmt: skip
        if self.ways == 1:
            return self.add("Squeeze", [raw, self.constant("directions", np.array([1]))], [target])
        side_by_side = self.add("Transpose", [raw], [f"{target}_pairs"], perm=[0, 2, 1, 3])
        shape = self.constant("joined", np.array([0, 0, self.ways * layer.hidden_size]))
        return self.add("Reshape", [side_by_side, shape], [target])

    def activations(self) -> dict[str, Any]:
        """What the operator is told of them, numbers and all: defaults differ between runtimes."""
        layer = self.layer
        more: dict[str, Any] = {} if layer.gate_clip is None else {"clip": float(layer.gate_clip)}
        fixed = {name: functions for functions, name in LINEAR.items()}.get(layer.cell)
        curves = zip("fgh", layer._variation.curves, strict=True)
        own: Any = fixed or [curve for role, curve in curves if role in layer._layout.spec.roles]
        functions = [(name, numbers[: len(CURVES[name])]) for name, *numbers in own]
        if tuple((name,) for name, _ in functions) == usual(self.operator):
            return more
        more["activations"] = [SPELLED[name] for name, _ in functions] * self.ways
        for k, field in enumerate(("alpha", "beta")):
            column = [float(numbers[k]) for _, numbers in functions if len(numbers) > k]
            if column:
                more[f"activation_{field}"] = column * self.ways
        return more

    def weights(self, k: int, suffixes: list[str]) -> list[str]:
        """W, R and B of one layer."""
        kinds = {"W": ["weight_ih"], "R": ["weight_hh"], "B": ["bias_ih", "bias_hh"]}
        names = []
        for name, group in kinds.items():
            if name == "B" and not self.layer.bias:
                names.append("")
                continue
            ways = [
                np.concatenate([self.gates(self.params[kind + suffix]) for kind in group])
                for suffix in suffixes
            ]
            names.append(self.constant(f"{name}_l{k}", np.stack(ways)))
        return names

    def gates(self, a: Array) -> Array:
        """A parameter in ONNX's order of gates."""
        a = theirs(a, ONNX[self.layer.cell])
        if self.layer.cell == "lstm_coupled":  # rows of f, which nothing reads
            H = self.layer.hidden_size
            a = np.insert(a, [2 * H] * H, 0, axis=0)
        return a

    def interface(self) -> tuple[list[Any], list[Any]]:
        """Inputs and outputs with their shapes."""
        from onnx import TensorProto, helper

        layer = self.layer
        kind = helper.np_dtype_to_tensor_dtype(layer.dtype)
        axes = ("B", "T") if layer.batch_first else ("T", "B")
        rows = layer.num_layers * self.ways

        def states(end: str) -> list[Any]:
            shape = (rows, "B", layer.hidden_size)
            return [helper.make_tensor_value_info(s + end, kind, shape) for s in self.states]

        inputs = [helper.make_tensor_value_info("x", kind, (*axes, layer.input_size))]
        if self.lengths:
            inputs.append(helper.make_tensor_value_info("lengths", TensorProto.INT32, ("B",)))
        if self.state:
            inputs += states("_0")
        y = helper.make_tensor_value_info("y", kind, (*axes, layer.hidden_size * self.ways))
        return inputs, [y, *states("_n")]
