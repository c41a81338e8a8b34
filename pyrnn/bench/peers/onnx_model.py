# SPDX-License-Identifier: Apache-2.0
"""A problem as an ONNX model: the operator of the cell's name for each layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn.bench.formulas import states_of
from pyrnn.bench.problem import Problem
from pyrnn.io.gates import ONNX, theirs
from pyrnn.io.onnx_models import OPERATORS
from pyrnn.layout import Array

DIRECTIONS = {1: "forward", 2: "bidirectional"}


def state_names(problem: Problem) -> list[str]:
    """Inputs of the model beside x; outputs have `_out` behind. Of a stream alone, others start from zero."""
    case = problem.case
    if case.mode != "stream":
        return []
    return [f"{s}{layer}" for layer in range(case.layers) for s in "hc"[: states_of(case.cell)]]


def model_of(problem: Problem) -> bytes:
    """The serialized model, from x (T, B, I) to y (T, directions, B, H)."""
    from onnx import TensorProto, helper, numpy_helper

    case, params = problem.case, problem.params
    operator, options = OPERATORS[case.cell]
    attributes = {k: v * case.directions if isinstance(v, list) else v for k, v in options.items()}
    weights: dict[str, Array] = {"axes": np.array([1])} if case.layers > 1 else {}
    if problem.lengths is not None:
        weights["lengths"] = problem.lengths.astype(np.int32)

    def gates(kind: str, suffix: str) -> Array:
        return theirs(params[kind + suffix], ONNX[case.cell])

    nodes, streams, before, lengths = [], state_names(problem), "x", "lengths" if "lengths" in weights else ""
    for layer in range(case.layers):
        ways = [f"_l{layer}" + "_reverse" * d for d in range(case.directions)]
        weights[f"W{layer}"] = np.stack([gates("weight_ih", way) for way in ways])
        weights[f"R{layer}"] = np.stack([gates("weight_hh", way) for way in ways])
        weights[f"b{layer}"] = np.stack(
            [np.concatenate([gates("bias_ih", way), gates("bias_hh", way)]) for way in ways]
        )
        states = [name for name in streams if name[1:] == str(layer)]
        last = layer == case.layers - 1
        nodes.append(
            helper.make_node(
                operator,
                [before, f"W{layer}", f"R{layer}", f"b{layer}", lengths, *states],
                ["y" if last else f"y{layer}", *(name + "_out" for name in states)],
                hidden_size=case.H, direction=DIRECTIONS[case.directions], **attributes,
            )
        )  # fmt: skip
        if not last:  # the layers that are stacked here have one direction
            nodes.append(helper.make_node("Squeeze", [f"y{layer}", "axes"], [f"x{layer + 1}"]))
            before = f"x{layer + 1}"

    def value(name: str, *shape: int) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    state = (1, case.B, case.H)
    graph = helper.make_graph(
        nodes, "layer",
        [value("x", case.T, case.B, case.I), *(value(name, *state) for name in streams)],
        [value("y", case.T, case.directions, case.B, case.H), *(value(s + "_out", *state) for s in streams)],
        [numpy_helper.from_array(np.ascontiguousarray(w), name) for name, w in weights.items()],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)
    return bytes(model.SerializeToString())


def outputs_of(y: Array) -> dict[str, Array]:
    """y as a layer returns it, (T, B, H·directions)."""
    T, directions, B, H = y.shape
    return {"y": np.asarray(y.transpose(0, 2, 1, 3).reshape(T, B, directions * H))}
