# SPDX-License-Identifier: Apache-2.0
"""ONNX models: nothing that is damaged or forged is believed, and none takes memory that it does not have."""

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrnn

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
from onnx import helper, numpy_helper  # noqa: E402
from onnx_problems import model_of  # noqa: E402


def node_of(model: Any) -> Any:
    return model.graph.node[0]


def weight(model: Any, name: str = "W") -> Any:
    return next(t for t in model.graph.initializer if t.name == name)


def attribute(**values: Any) -> Callable[[Any], None]:
    """Gives the node other attributes."""

    def change(model: Any) -> None:
        kept = [a for a in node_of(model).attribute if a.name not in values]
        del node_of(model).attribute[:]
        node_of(model).attribute.extend(kept)
        node_of(model).attribute.extend(helper.make_attribute(name, v) for name, v in values.items())

    return change


def array(name: str, a: Any) -> Callable[[Any], None]:
    """Gives the model another tensor of this name."""
    return lambda model: weight(model, name).CopyFrom(numpy_helper.from_array(np.asarray(a), name))


def external(model: Any) -> None:
    tensor = weight(model)
    tensor.ClearField("raw_data")
    tensor.data_location = 1
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def dims(*sizes: int) -> Callable[[Any], None]:
    def change(model: Any) -> None:
        del weight(model).dims[:]
        weight(model).dims.extend(sizes)

    return change


def computed(model: Any) -> None:
    weight(model).name = "elsewhere"
    model.graph.node.append(helper.make_node("Neg", ["elsewhere"], ["W"]))


def loop(model: Any) -> None:
    model.graph.initializer.remove(weight(model))
    model.graph.node.append(helper.make_node("Identity", ["other"], ["W"]))
    model.graph.node.append(helper.make_node("Identity", ["W"], ["other"]))


def itself(model: Any) -> None:
    node_of(model).input[0] = "Y2"
    model.graph.node.append(helper.make_node("Squeeze", ["Y"], ["Y2"], axes=[1]))


HOSTILE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "no node": (lambda m: m.graph.node.remove(node_of(m)), "got one without a node"),
    "no recurrent node": (lambda m: setattr(node_of(m), "op_type", "Relu"), "expected an LSTM, GRU or RNN"),
    "another domain": (lambda m: setattr(node_of(m), "domain", "evil"), "expected an LSTM, GRU or RNN"),
    "external data": (external, "the path of an external file, which is not followed"),
    "all the memory": (dims(1, 2**40, 2**20), "does not fit 60 numbers"),
    "a product that overflows": (dims(2**32, 2**32, 60), "does not fit 60 numbers"),
    "negative": (dims(-1, -20, 3), "does not fit 60 numbers"),
    "no axes": (dims(), "does not fit 60 numbers"),
    "two axes": (dims(20, 3), r"expected W of floats and shape \(1, 20, 3\), got float32 \(20, 3\)"),
    "an empty axis": (array("W", np.zeros((1, 20, 0), np.float32)), "expected W of floats"),
    "a scalar": (array("R", np.float32(1)), "expected hidden_size 0, which R has, got 5"),
    "both kinds of numbers": (lambda m: weight(m).float_data.append(1), "does not fit 1 numbers"),
    "half of a number": (lambda m: setattr(weight(m), "raw_data", bytes(239)), "does not fit 59.75 numbers"),
    "strings": (lambda m: setattr(weight(m), "data_type", 8), "got data type 8"),
    "integers": (array("W", np.zeros((1, 20, 3), np.int32)), "expected W of floats"),
    "two precisions": (array("R", np.zeros((1, 20, 5))), "expected R of floats"),
    "computed weights": (computed, "expected W as a constant of the model, got a computed one"),
    "a loop of names": (loop, "expected W as a constant of the model"),
    "a node that reads itself": (itself, "expected one recurrent node or a stack"),
    "a name twice": (lambda m: m.graph.initializer.append(weight(m)), "'W': expected one value"),
    "a name of a node's": (lambda m: setattr(weight(m), "name", "Y"), "'Y': expected one value"),
    "no weights": (lambda m: m.graph.node[0].input.__delitem__(slice(1, 9)), "expected inputs X, W and R"),
    "too many inputs": (lambda m: node_of(m).input.extend("abcdef"), "expected at most 8 inputs"),
    "hidden size": (
        attribute(hidden_size=2**62),
        "expected hidden_size 5, which R has, got 46116860",
    ),
    "direction": (
        attribute(direction="sideways"),
        "expected direction forward, .*'sideways'",
    ),
    "directions": (attribute(direction="bidirectional"), r"expected W of floats and shape \(2, 20, 3\)"),
    "not text": (attribute(direction=b"\xff"), "expected text in an attribute"),
    "a number for a word": (attribute(direction=3), "attribute direction has the wrong type"),
    "layout": (attribute(layout=2), "expected layout 0 or 1, got 2"),
    "unknown": (attribute(fused=1), "unexpected attribute 'fused' of LSTM"),
    "attribute twice": (
        lambda m: node_of(m).attribute.extend(list(node_of(m).attribute)),
        "unexpected attribute",
    ),
    "activation": (attribute(activations=["Sigmoid", "Tanh", "Sin"]), "expected activations of the operator"),
    "activations": (attribute(activations=["Tanh"]), "expected 3 activations, got 1"),
    "numbers left open": (attribute(activations=["Sigmoid", "Affine", "Tanh"]), "alpha for affine, got None"),
    "clip": (attribute(clip=-1.0), "expected a positive clip, got -1"),
    "not a number": (
        attribute(activations=["Sigmoid", "Affine", "Tanh"], activation_alpha=[float("nan")]),
        "expected a finite alpha for affine, got nan",
    ),
}


@pytest.mark.parametrize(("change", "message"), HOSTILE.values(), ids=HOSTILE)
def test_forged(change: Callable[[Any], Any], message: str) -> None:
    model = model_of("LSTM", {})
    change(model)
    with pytest.raises(ValueError, match=message):
        pyrnn.io.from_onnx(model.SerializeToString())


def test_other_directions_and_operators() -> None:
    both = attribute(activations=["Tanh", "Relu"])
    model = model_of("RNN", {"direction": "bidirectional"})
    both(model)
    with pytest.raises(ValueError, match="expected the same activations in both directions"):
        pyrnn.io.from_onnx(model)
    with pytest.raises(ValueError, match="expected input_forget 0 with peepholes, got 1"):
        pyrnn.io.from_onnx(model_of("LSTM", {"input_forget": 1}, peepholes=True))
    with pytest.raises(TypeError, match=r"model: expected an onnx.ModelProto, bytes or a path, got int"):
        pyrnn.io.from_onnx(3)


def test_truncated_and_flipped(tmp_path: Path) -> None:
    """A layer or ValueError, never anything else, and never more memory than a small model needs."""
    sound = model_of("LSTM", {"direction": "bidirectional"}, peepholes=True, lengths=True).SerializeToString()
    path = tmp_path / "x.onnx"
    rng = np.random.default_rng(0)
    damaged = [sound[:n] for n in (0, 1, 2, *rng.integers(3, len(sound), 60))]
    for at in rng.integers(0, len(sound), 400):
        flipped = bytearray(sound)
        flipped[at] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(flipped))
    pyrnn.io.from_onnx(sound)
    refused = 0
    tracemalloc.start()
    for data in damaged:
        path.write_bytes(data)
        try:
            layer = pyrnn.io.from_onnx(path)
        except ValueError:
            refused += 1
        else:
            assert (layer.input_size, layer.hidden_size) == (3, 5)
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()
    assert 63 <= refused < len(damaged)  # all that were cut; of the others only numbers may differ


def test_files(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        pyrnn.io.from_onnx(tmp_path / "none.onnx")
    with pytest.raises(ValueError, match="truncated, damaged or no ONNX model"):
        (tmp_path / "x").write_bytes(b"\x08" * 11)
        pyrnn.io.from_onnx(tmp_path / "x")
    with pytest.raises(ValueError, match="expected a regular file"):
        pyrnn.io.from_onnx(os.devnull)
