# SPDX-License-Identifier: Apache-2.0
"""Layers from ONNX models and models of layers: the numbers of ONNX Runtime and of ONNX's own reference."""

import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tolerances import FLOAT64, ONNX_RUNTIME, max_error

import pyrnn

onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
from onnx_problems import LENGTHS, D, H, called, evaluated, inputs_of, model_of, run  # noqa: E402


@pytest.fixture(scope="module")
def runtime() -> None:
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")


BOTH = {"direction": "bidirectional"}
REVERSE = {"direction": "reverse"}
LINEAR = {"activations": ["Sigmoid", "Affine", "Tanh"], "activation_alpha": [1.0], "activation_beta": [0.0]}
FREE = {"activations": ["Sigmoid", "tanh", "AFFINE"], "activation_alpha": [1.0], "activation_beta": [0.0]}
SCALED = {"activations": ["HardSigmoid", "LeakyRelu", "ThresholdedRelu"]}
SCALED |= {"activation_alpha": [0.3, 0.05, 0.2], "activation_beta": [0.4]}
HARD = {"activations": ["HardSigmoid", "Softsign"]}  # with the operators' own numbers
NODES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "lstm": ("LSTM", {}, {"bias": False}),
    "lstm both": ("LSTM", BOTH, {"lengths": True, "state": True}),
    "lstm reverse": ("LSTM", REVERSE, {"lengths": True, "peepholes": True}),
    "peepholes": ("LSTM", BOTH, {"peepholes": True, "state": True}),
    "coupled": ("LSTM", {"input_forget": 1, **BOTH}, {"lengths": True}),
    "linear input": ("LSTM", LINEAR, {}),
    "linear output": ("LSTM", FREE, {"state": True}),
    "clip": ("LSTM", {"clip": 0.5, **BOTH}, {"peepholes": True, "lengths": True}),
    "gru clip": ("GRU", {"clip": 0.4, "linear_before_reset": 1}, {}),
    "activations": ("LSTM", {**SCALED, "clip": 0.7}, {"lengths": True}),
    "gru activations": ("GRU", HARD, {}),
    "rnn activations": (
        "RNN",
        {"activations": ["ScaledTanh"], "activation_alpha": [0.7], "activation_beta": [0.9]},
        {},
    ),
    "elu": ("RNN", {"activations": ["Elu"] * 2, "activation_alpha": [0.5, 0.5], **BOTH}, {}),
    "gru": ("GRU", {"linear_before_reset": 1, **BOTH}, {"lengths": True, "state": True}),
    "gru reset before": ("GRU", REVERSE, {"lengths": True}),
    "rnn": ("RNN", {"activations": ["Relu", "Relu"], **BOTH}, {"lengths": True, "state": True}),
}


@pytest.mark.parametrize(("operator", "attributes", "more"), NODES.values(), ids=NODES)
def test_from_onnx(
    operator: str, attributes: dict[str, Any], more: dict[str, Any], runtime: None, tmp_path: Path
) -> None:
    model = model_of(operator, attributes, **more)
    given = inputs_of(model)
    expected = run(model, given)
    layer = pyrnn.io.from_onnx(model)
    layer.save(tmp_path / "x")
    for got in (layer, pyrnn.load(tmp_path / "x")):
        found = called(got, given)
        for name, a in expected.items():
            assert max_error(found[name], a) < ONNX_RUNTIME, name


REFERENCED = {
    "lstm": ("LSTM", {"layout": 1, **BOTH}, {"peepholes": True, "state": True}),
    "gru": ("GRU", {"layout": 1, "linear_before_reset": 1, **REVERSE}, {"state": True}),
    "gru reset before": ("GRU", BOTH, {}),
    "rnn": ("RNN", {"activations": ["Tanh"], "layout": 1}, {"bias": False}),
}


@pytest.mark.parametrize(("operator", "attributes", "more"), REFERENCED.values(), ids=REFERENCED)
def test_from_onnx_in_double_precision(
    operator: str, attributes: dict[str, Any], more: dict[str, Any]
) -> None:
    model = model_of(operator, attributes, dtype=np.float64, **more)
    given = inputs_of(model, np.float64)
    layer = pyrnn.io.from_onnx(model)
    assert layer.batch_first == ("layout" in attributes) and layer.dtype == np.float64
    found = called(layer, given)
    for name, a in evaluated(model, given).items():
        assert max_error(found[name], a) < FLOAT64, name


LAYERS: dict[str, Any] = {
    "lstm": lambda **o: pyrnn.LSTM(D, H, 2, bidirectional=True, **o),
    "batch first": lambda **o: pyrnn.LSTM(D, H, batch_first=True, reverse=True, **o),
    "gru": lambda **o: pyrnn.GRU(D, H, 2, batch_first=True, bidirectional=True, bias=False, **o),
    "gru reset before": lambda **o: pyrnn.GRU(D, H, reset_after=False, **o),
    "rnn": lambda **o: pyrnn.RNN(D, H, 3, nonlinearity="relu", **o),
    "peepholes": lambda **o: pyrnn.Recurrent("lstm_peephole", D, H, bidirectional=True, **o),
    "coupled": lambda **o: pyrnn.Recurrent("lstm_coupled", D, H, 2, **o),
    "activations": lambda **o: pyrnn.LSTM(
        D,
        H,
        bidirectional=True,
        gate_clip=0.75,
        activations=(("hardsigmoid", 0.25, 0.5), ("affine", 0.5, 0.125), "softsign"),
        **o,
    ),
    "gru activations": lambda **o: pyrnn.GRU(D, H, activations=("softplus", ("leakyrelu", 0.25)), **o),
    "linear input": lambda **o: pyrnn.Recurrent("lstm_no_input_activation", D, H, bidirectional=True, **o),
    "linear output": lambda **o: pyrnn.Recurrent("lstm_no_output_activation", D, H, **o),
}


@pytest.mark.parametrize("options", [False, True], ids=["plain", "lengths and state"])
@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_to_onnx(make: Any, options: bool, runtime: None, tmp_path: Path) -> None:
    layer = make(seed=0)
    model = pyrnn.io.to_onnx(layer, tmp_path / "layer.onnx", lengths=options, state=options)
    onnx.checker.check_model(model, full_check=True)
    given = inputs_of(model)
    states = tuple(given[name] for name in ("h_0", "c_0") if name in given)
    more = {"lengths": LENGTHS, "state": states if len(states) > 1 else states[0]} if options else {}
    y, final = layer(given["x"], **more)
    expected = {"y": y} | dict(
        zip(("h_n", "c_n"), final if isinstance(final, tuple) else (final,), strict=False)
    )
    found = run(model, given)
    assert list(found) == list(expected)
    for name, a in expected.items():
        assert max_error(found[name], a) < ONNX_RUNTIME, name

    again = pyrnn.io.from_onnx(tmp_path / "layer.onnx")
    assert repr(again) == repr(layer) and type(again) is type(layer)
    for name, a in layer.params.items():
        np.testing.assert_array_equal(again.params[name], a, strict=True)


def test_to_onnx_in_double_precision() -> None:
    layer = pyrnn.LSTM(D, H, 2, bidirectional=True, batch_first=True, dtype="float64", seed=0)
    model = pyrnn.io.to_onnx(layer, state=True)
    given = inputs_of(model, np.float64)
    y, (h, c) = layer(given["x"], (given["h_0"], given["c_0"]))
    found = evaluated(model, given)
    for name, a in {"y": y, "h_n": h, "c_n": c}.items():
        assert max_error(found[name], a) < FLOAT64
    assert repr(pyrnn.io.from_onnx(model.SerializeToString())) == repr(layer)


def test_what_the_model_fixes() -> None:
    rng = np.random.default_rng(2)
    h, lengths = rng.normal(size=(1, 4, H)).astype(np.float32), np.array([6, 1, 2, 3], np.int32)
    model = model_of("LSTM", {}, constants={"initial_h": h, "sequence_lens": lengths})
    with pytest.raises(ValueError, match="model: expected no constant lengths or state, got some"):
        pyrnn.io.from_onnx(model)
    layer, given = pyrnn.io.from_onnx(model, constants=True)
    np.testing.assert_array_equal(given["lengths"], lengths)
    np.testing.assert_array_equal(given["state"][0], h)
    assert not given["state"][1].any()
    layer(np.zeros((6, 4, D), np.float32), **given)
    zeros = model_of("GRU", {}, constants={"initial_h": np.zeros_like(h)})
    assert pyrnn.io.from_onnx(zeros, constants=True)[1] == {}


def exported(torch: Any, module: Any, x: Any) -> bytes:
    """A model of the exporter that traces."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a batch size that the exporter fixes, and of its age
        torch.onnx.export(module, (x,), file, dynamo=False, opset_version=14)
    return file.getvalue()


def test_a_model_that_pytorch_exports(runtime: None) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    module = torch.nn.LSTM(D, H, 2, batch_first=True, bidirectional=True).eval()
    x = torch.randn(4, 6, D)
    layer = pyrnn.io.from_onnx(exported(torch, module, x))
    assert repr(layer) == f"LSTM({D}, {H}, num_layers=2, batch_first=True, bidirectional=True)"
    assert max_error(layer(x.numpy())[0], module(x)[0].detach().numpy()) < ONNX_RUNTIME


def test_layers_of_two_sizes_that_pytorch_exports(runtime: None) -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")

    class Two(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.GRU(D, 7), torch.nn.GRU(7, H)

        def forward(self, x: Any) -> Any:
            return self.b(self.a(x)[0])[0]

    module, x = Two().eval(), torch.randn(6, 4, D)
    layer = pyrnn.io.from_onnx(exported(torch, module, x))
    assert repr(layer) == f"GRU({D}, (7, {H}), num_layers=2)"
    assert max_error(layer(x.numpy())[0], module(x).detach().numpy()) < ONNX_RUNTIME
    with pytest.raises(ValueError, match="hidden_size: expected one for all layers, which ONNX has"):
        pyrnn.io.to_onnx(layer)


def test_one_of_several_nodes() -> None:
    model = model_of("GRU", {})
    other = model_of("LSTM", {})
    for name in "WRB":
        tensor = next(t for t in other.graph.initializer if t.name == name)
        tensor.name = name + "2"
        model.graph.initializer.append(tensor)
    node = other.graph.node[0]
    del node.input[:], node.output[:]
    node.input.extend(["X", "W2", "R2", "B2"])
    node.output.extend(["Y2"])
    node.name = ""
    model.graph.node.append(node)
    with pytest.raises(ValueError, match="one recurrent node or a stack, got 'it', 'Y2'; give node="):
        pyrnn.io.from_onnx(model)
    assert pyrnn.io.from_onnx(model, "it").cell == "gru_reset_before"
    assert pyrnn.io.from_onnx(model, "Y2").cell == "lstm"
    with pytest.raises(ValueError, match="node: expected one of 'it', 'Y2', got 'third'"):
        pyrnn.io.from_onnx(model, "third")


def test_errors_of_to_onnx() -> None:
    with pytest.raises(TypeError, match="layer: expected a recurrent layer, got dict"):
        pyrnn.io.to_onnx({})
    with pytest.raises(ValueError, match=r"layer: expected one of the cells .*, got 'janet'"):
        pyrnn.io.to_onnx(pyrnn.Recurrent("janet", 3, 5))
    for option, value in (("zoneout", 0.5), ("layer_norm", True), ("proj_size", 2)):
        with pytest.raises(ValueError, match=f"{option}: expected .*, got {value}"):
            pyrnn.io.to_onnx(pyrnn.LSTM(3, 5, **{option: value}))
