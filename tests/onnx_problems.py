# SPDX-License-Identifier: Apache-2.0
"""Models of one recurrent operator with random weights, and what runs them."""

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
T, B, D, H = 6, 4, 3, 5
LENGTHS = np.array([6, 2, 5, 1], np.int32)


def model_of(
    operator: str,
    attributes: dict[str, Any],
    *,
    bias: bool = True,
    peepholes: bool = False,
    lengths: bool = False,
    state: bool = False,
    dtype: Any = np.float32,
    constants: dict[str, np.ndarray] | None = None,
) -> Any:
    """The operator, with X and what is asked for as inputs; `constants` are inputs that the model holds."""
    rng = np.random.default_rng(0)
    ways = 1 + (attributes.get("direction") == "bidirectional")
    gates, batch_first = GATES[operator], attributes.get("layout", 0)
    shapes: dict[str, tuple[int, ...]] = {"W": (ways, gates * H, D), "R": (ways, gates * H, H)}
    if bias:
        shapes["B"] = (ways, 2 * gates * H)
    if peepholes:
        shapes["P"] = (ways, 3 * H)
    weights = {name: rng.normal(scale=0.6, size=shape).astype(dtype) for name, shape in shapes.items()}
    weights |= constants or {}
    given: dict[str, tuple[int, ...]] = {"X": (B, T, D) if batch_first else (T, B, D)}
    if lengths:
        given["sequence_lens"] = (B,)
    names = ["initial_h", "initial_c"] if operator == "LSTM" else ["initial_h"]
    if state:
        given |= dict.fromkeys(names, (B, ways, H) if batch_first else (ways, B, H))
    order = ["X", "W", "R", "B", "sequence_lens", *names, "P"]
    inputs = [name if name in given or name in weights else "" for name in order]
    while not inputs[-1]:
        inputs.pop()
    outputs = ["Y", "Y_h", "Y_c"][: 1 + len(names)]
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [helper.make_node(operator, inputs, outputs, name="it", hidden_size=H, **attributes)],
        "one",
        [
            helper.make_tensor_value_info(name, TensorProto.INT32 if name == "sequence_lens" else kind, shape)
            for name, shape in given.items()
        ],
        [helper.make_tensor_value_info(name, kind, None) for name in outputs],
        [numpy_helper.from_array(np.ascontiguousarray(a), name) for name, a in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def inputs_of(model: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Random values of a model's inputs, of the shapes that it says, by name."""
    rng = np.random.default_rng(1)
    sizes = {"T": T, "B": B}
    given = {}
    for value in model.graph.input:
        shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        lengths = value.type.tensor_type.elem_type == TensorProto.INT32
        given[value.name] = LENGTHS if lengths else rng.normal(scale=0.8, size=shape).astype(dtype)
    return given


def run(model: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of ONNX Runtime by name."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, given), strict=True))


def evaluated(model: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The outputs of ONNX's own reference by name."""
    from onnx.reference import ReferenceEvaluator

    names = [output.name for output in model.graph.output]
    return dict(zip(names, ReferenceEvaluator(model).run(None, given), strict=True))


def called(layer: Any, given: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What a layer makes of the operator's inputs, in the operator's shapes."""
    options: dict[str, Any] = {}
    if "sequence_lens" in given:
        options["lengths"] = given["sequence_lens"]

    def turned(a: np.ndarray) -> np.ndarray:  # states of layout 1 come batch first
        return a.swapaxes(0, 1) if layer.batch_first else a

    states = tuple(turned(given[name]) for name in ("initial_h", "initial_c") if name in given)
    if states:
        options["state"] = states if len(states) > 1 else states[0]
    y, final = layer(given["X"], **options)
    ways = 1 + layer.bidirectional
    y = y.reshape(*y.shape[:2], ways, layer.hidden_size)
    finals = final if isinstance(final, tuple) else (final,)
    outputs = {"Y": y if layer.batch_first else y.swapaxes(1, 2)}
    return outputs | {name: turned(s) for name, s in zip(("Y_h", "Y_c"), finals, strict=False)}
