# SPDX-License-Identifier: Apache-2.0
"""ONNX models read as if an enemy had written them: the recurrent nodes, their attributes and constants."""

from __future__ import annotations

import math
import os
import stat
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from pyrnn.layout import Array

#: Gates of each operator, and the attributes it may have, with the field of the protocol that holds them.
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
SHARED = {
    "activation_alpha": "floats",
    "activation_beta": "floats",
    "activations": "strings",
    "clip": "f",
    "direction": "s",
    "hidden_size": "i",
    "layout": "i",
    "output_sequence": "i",  # of the first version, which did not return Y without it
}
ATTRIBUTES = {
    "LSTM": SHARED | {"input_forget": "i"},
    "GRU": SHARED | {"linear_before_reset": "i"},
    "RNN": SHARED,
}
INPUTS = ("X", "W", "R", "B", "sequence_lens", "initial_h", "initial_c", "P")


class Node(NamedTuple):
    """A recurrent node: attributes that it has, and the names of its inputs and of its output Y."""

    label: str
    operator: str
    attributes: dict[str, Any]
    inputs: dict[str, str]
    output: str


class Graph:
    """The main graph of a model.

    Parameters
    ----------
    source : onnx.ModelProto, bytes or path

    Raises
    ------
    TypeError
        `source` is none of these.
    ValueError
        It is truncated, damaged or no model.
    OSError
        The file cannot be read.
    """

    def __init__(self, source: Any) -> None:
        graph = model_of(source).graph
        self.tensors: dict[str, Any] = {}
        self.makers: dict[str, Any] = {}
        for tensor in graph.initializer:
            self._unique(tensor.name)
            self.tensors[tensor.name] = tensor
        for node in graph.node:
            for name in filter(None, node.output):
                self._unique(name)
                self.makers[name] = node
        self.nodes = [
            self.read(node) for node in graph.node if node.op_type in GATES and node.domain in ("", "ai.onnx")
        ]

    def _unique(self, name: str) -> None:
        if name in self.tensors or name in self.makers:
            raise ValueError(f"{name!r}: expected one value of this name, got two")

    def read(self, node: Any) -> Node:
        """A recurrent node, its attributes and inputs checked for their kinds."""
        label = (node.name or next(iter(node.output), ""))[:100]
        known, values = ATTRIBUTES[node.op_type], {}
        for attribute in node.attribute:
            field = known.get(attribute.name)
            if field is None or attribute.name in values or attribute.ref_attr_name:
                raise ValueError(f"{label}: unexpected attribute {attribute.name[:80]!r} of {node.op_type}")
            if attribute.type != {"f": 1, "i": 2, "s": 3, "floats": 6, "strings": 8}[field]:
                raise ValueError(f"{label}: attribute {attribute.name} has the wrong type")
            value = getattr(attribute, field)
            if field == "s":
                value = text(value)
            elif field == "strings":
                value = [text(v) for v in value]
            values[attribute.name] = list(value) if field == "floats" else value
        names = INPUTS if node.op_type == "LSTM" else INPUTS[:6]
        if len(node.input) > len(names) or not node.output:
            raise ValueError(f"{label}: expected at most {len(names)} inputs and an output")
        inputs = {name: given for name, given in zip(names, node.input, strict=False) if given}
        return Node(label, node.op_type, values, inputs, node.output[0])

    def tensor(self, name: str) -> Any:
        """The protocol's tensor for a constant, or None."""
        for _ in range(8):  # names of names: a longer chain is no constant here, and a loop ends
            if name in self.tensors:
                return self.tensors[name]
            maker = self.makers.get(name)
            if maker is None or maker.domain not in ("", "ai.onnx"):
                return None
            if maker.op_type == "Constant" and len(maker.attribute) == 1:
                attribute = maker.attribute[0]
                return attribute.t if attribute.name == "value" and attribute.type == 4 else None
            if maker.op_type != "Identity" or len(maker.input) != 1:
                return None
            name = maker.input[0]
        return None

    def constant(self, node: Node, name: str) -> Array | None:
        """An input of a node that the model holds; None where it is left away."""
        if name not in node.inputs:
            return None
        tensor = self.tensor(node.inputs[name])
        if tensor is None:
            raise ValueError(f"{node.label}: expected {name} as a constant of the model, got a computed one")
        return numbers(f"{node.label}: {name}", tensor)

    def integers(self, name: str) -> list[int] | None:
        """A constant list of integers, as axes and shapes are; None for anything else."""
        tensor = self.tensor(name)
        if tensor is None or tensor.data_type != 7 or len(tensor.dims) > 1:
            return None
        return [int(n) for n in np.atleast_1d(numbers(name, tensor))]

    def before(self, name: str) -> Iterator[Any]:
        """The nearest nodes that a value comes from, along first inputs."""
        for _ in range(8):  # more than lie between layers; and a loop ends
            maker = self.makers.get(name)
            if maker is None or not maker.input:
                return
            yield maker
            name = maker.input[0]


def model_of(source: Any) -> Any:
    """The protocol's model; onnx follows no path that it names."""
    import onnx
    from google.protobuf.message import DecodeError

    if isinstance(source, onnx.ModelProto):
        return source
    if not isinstance(source, bytes | str | os.PathLike):
        raise TypeError(f"model: expected an onnx.ModelProto, bytes or a path, got {type(source).__name__}")
    where = "model"
    if not isinstance(source, bytes):
        where = os.fspath(source)
        with open(source, "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise ValueError(f"{where}: expected a regular file")
            source = file.read()
    try:
        model = onnx.ModelProto.FromString(source)
    except (DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: truncated, damaged or no ONNX model: {error}") from None
    if not model.graph.node:
        raise ValueError(f"{where}: expected an ONNX model, got one without a node")
    return model


def numbers(label: str, tensor: Any) -> Array:
    """A tensor of the protocol as an array of its own; memory is taken only for numbers that are there."""
    fields = {1: ("<f4", "float_data"), 11: ("<f8", "double_data"), 6: ("<i4", "int32_data")}
    fields[7] = ("<i8", "int64_data")
    if tensor.data_location == 1 or tensor.external_data:
        raise ValueError(
            f"{label}: expected numbers in the model, got the path of an external file, which is not followed"
        )
    if tensor.data_type not in fields or tensor.HasField("segment"):
        raise ValueError(
            f"{label}: expected float32, float64, int32 or int64, got data type {tensor.data_type}"
        )
    kind, field = fields[tensor.data_type]
    dtype, shape = np.dtype(kind), tuple(tensor.dims)
    listed = getattr(tensor, field)
    count = len(listed) if listed else len(tensor.raw_data) / dtype.itemsize
    if min(shape, default=0) < 0 or math.prod(shape) != count or (listed and tensor.raw_data):
        raise ValueError(f"{label}: shape {str(shape)[:80]} does not fit {count:g} numbers")
    flat = np.array(listed, dtype) if listed else np.frombuffer(tensor.raw_data, dtype)
    return flat.reshape(shape).astype(dtype.newbyteorder("="))


def text(value: bytes) -> str:
    """A string attribute."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise ValueError(f"expected text in an attribute, got {value[:40]!r}") from None
