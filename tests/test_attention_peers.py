# SPDX-License-Identifier: Apache-2.0
"""Link 6 of the chain of trust for attention: PyTorch, Keras, ONNX; an extra, not the oracle."""

import os

import numpy as np
import pytest
from attention_problems import ENGINES, AttentionProblem, named_gradients
from tolerances import KERAS, TORCH, max_error

import pyrnn
from pyrnn import functional


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed")


@pytest.fixture(scope="module")
def keras():
    """Keras on PyTorch, so that one automatic differentiation serves both."""
    pytest.importorskip("torch", reason="PyTorch, which Keras computes with here, is not installed")
    os.environ.setdefault("KERAS_BACKEND", "torch")
    keras = pytest.importorskip("keras", reason="Keras is not installed", minversion="3")
    if keras.backend.backend() != "torch":
        pytest.skip(f"Keras computes with {keras.backend.backend()} here, not with PyTorch")
    return keras


def assert_agree(results, expected, tolerance=TORCH):
    for name, value in expected.items():
        value = value.detach().numpy() if hasattr(value, "detach") else value
        assert max_error(np.asarray(results[name]), np.asarray(value)) <= tolerance, name


def attention(problem, engine=functional, **options):
    """Context, weights and gradients as `AttentionProblem.run` gives them, without gradients of weights."""
    context, weights, saved = engine.attention_forward(
        problem.query, problem.key, problem.value, params=problem.params, **options
    )
    grads = named_gradients(engine.attention_backward(saved, problem.dcontext))
    return {"context": context, "weights": weights, **grads}


def mask_of(kind, shape, rng):
    """Something to attend to in every row: the peers give no number for a row without."""
    if kind is None:
        return None
    keep = rng.random(shape) < 0.7
    keep[..., 0] = True
    return keep if kind == "bool" else np.where(keep, rng.normal(size=shape), -np.inf)


@ENGINES
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.3])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(1, 7, 9), (17, 17, 16), (33, 8, 129)], ids=str)
def test_pytorch(engine, sizes, causal, scale, mask, torch):
    """With heads; gradients of queries, keys and values."""
    Tq, Tk, D = sizes
    problem = AttentionProblem(kind="heads", B=2, Tq=Tq, Tk=Tk, Dq=D, Dv=5)
    given = mask_of(mask, (2, 2, Tq, Tk), np.random.Generator(np.random.Philox(1)))
    if causal and given is not None:  # which PyTorch wants as one mask
        corner = np.tri(Tq, Tk, dtype=bool)
        peer_mask, peer_causal = given & corner if mask == "bool" else np.where(corner, given, -np.inf), False
    else:
        peer_mask, peer_causal = given, causal
    q, k, v = (torch.tensor(a, requires_grad=True) for a in (problem.query, problem.key, problem.value))
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(q, k, v),
        attn_mask=None if peer_mask is None else torch.tensor(peer_mask),
        is_causal=peer_causal,
        scale=scale,
    )
    expected.backward(torch.tensor(problem.dcontext))
    result = attention(problem, engine, score="scaled_dot", mask=given, causal=causal, scale=scale)
    assert_agree(result, {"context": expected, "dquery": q.grad, "dkey": k.grad, "dvalue": v.grad})


def keras_layer(layer, problem, torch, lengths, causal):
    """A layer's context, weights and gradients of queries, keys, values and its own parameters."""
    tensors = [torch.tensor(a, requires_grad=True) for a in (problem.query, problem.value, problem.key)]
    masks = None
    if lengths is not None:
        masks = [None, torch.tensor(np.arange(problem.Tk) < lengths[:, None])]
    context, weights = layer(tensors, mask=masks, return_attention_scores=True, use_causal_mask=causal)
    context.backward(torch.tensor(problem.dcontext))
    dquery, dvalue, dkey = (a.grad for a in tensors)
    own = {variable.name: variable.value.grad for variable in layer.trainable_weights}
    return {"context": context, "weights": weights, "dquery": dquery, "dkey": dkey, "dvalue": dvalue}, own


EVERY_MASK = pytest.mark.parametrize(
    ("lengths", "causal"),
    [(None, False), (np.array([5, 1, 9]), False), (None, True), (np.array([9, 3, 4]), True)],
)


def keras_problem():
    return AttentionProblem("additive", kind="bare", Tq=6, Tk=9, A=7, Dv=4)


def own_parameter(layer, name, value):
    """Build the layer and set one of its parameters."""
    next(variable for variable in layer.weights if variable.name == name).assign(value)


@EVERY_MASK
@pytest.mark.parametrize("scaled", [False, True])
def test_keras_attention(scaled, lengths, causal, keras, torch):
    problem = keras_problem()
    problem.params = {}
    layer = keras.layers.Attention(use_scale=scaled, dtype="float32")
    layer.build([problem.query.shape, problem.value.shape, problem.key.shape])
    if scaled:
        own_parameter(layer, "scale", 0.4)
    expected, own = keras_layer(layer, problem, torch, lengths, causal)
    scale = 0.4 if scaled else 1.0
    result = attention(problem, score="dot", key_lengths=lengths, causal=causal, scale=scale)
    assert_agree(result, expected, KERAS)
    if scaled:  # s·∂/∂s is what the scale of all queries gives
        assert max_error((result["dquery"] * problem.query).sum() / scale, own["scale"].numpy()) <= KERAS


@EVERY_MASK
def test_keras_concat(lengths, causal, keras, torch):
    """v Σ_d tanh(s (q_d + k_d)) with numbers v and s: additive, of rows times s, with v in every place."""
    problem = keras_problem()
    layer = keras.layers.Attention(use_scale=True, score_mode="concat", dtype="float32")
    layer.build([problem.query.shape, problem.value.shape, problem.key.shape])
    own_parameter(layer, "scale", 0.7)
    own_parameter(layer, "concat_score_weight", 1.6)
    expected, own = keras_layer(layer, problem, torch, lengths, causal)
    problem.params = {"weight_score": np.full(7, 1.6)}
    problem.query, problem.key = 0.7 * problem.query, 0.7 * problem.key
    result = attention(problem, score="additive", key_lengths=lengths, causal=causal)
    of_scale = [result["dquery"] * problem.query / 0.7, result["dkey"] * problem.key / 0.7]
    for name, terms in (("concat_score_weight", [result["dweight_score"]]), ("scale", of_scale)):
        total, size = (sum(f(a).sum() for a in terms) for f in (np.asarray, np.abs))
        assert abs(total - own[name].numpy()) <= KERAS * size, name  # they cancel
    result["dquery"], result["dkey"] = 0.7 * result["dquery"], 0.7 * result["dkey"]
    assert_agree(result, expected, KERAS)


@EVERY_MASK
def test_keras_additive_attention(lengths, causal, keras, torch):
    problem = keras_problem()
    layer = keras.layers.AdditiveAttention(dtype="float32")
    layer.build([problem.query.shape, problem.value.shape, problem.key.shape])
    own_parameter(layer, "scale", problem.params["weight_score"])
    expected, own = keras_layer(layer, problem, torch, lengths, causal)
    result = attention(problem, score="additive", key_lengths=lengths, causal=causal)
    assert_agree(result, {**expected, "dweight_score": own["scale"]}, KERAS)


@pytest.fixture(scope="module")
def onnx():
    onnx = pytest.importorskip("onnx", reason="ONNX is not installed")
    if onnx.defs.onnx_opset_version() < 23:
        pytest.skip(f"ONNX {onnx.__version__} has no operator Attention")
    return onnx


def onnx_attention(onnx, arrays, **attributes):
    """Context and weights by ONNX's reference evaluator."""
    import onnx.reference

    names = ["query", "key", "value", *(["mask"] if len(arrays) == 4 else [])]
    value_info = onnx.helper.make_tensor_value_info
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(a.dtype) for a in arrays]
    node = onnx.helper.make_node(
        "Attention", names, ["context", "", "", "weights"], qk_matmul_output_mode=3, **attributes
    )  # mode 3: after the softmax
    graph = onnx.helper.make_graph(
        [node],
        "attention",
        [value_info(name, kind, a.shape) for name, kind, a in zip(names, kinds, arrays, strict=True)],
        [value_info(name, kinds[0], None) for name in ("context", "weights")],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 23)])
    return onnx.reference.ReferenceEvaluator(model).run(None, dict(zip(names, arrays, strict=True)))


@ENGINES
@pytest.mark.parametrize("mask", [None, "bool", "float"])
@pytest.mark.parametrize("scale", [None, 0.25])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sizes", [(1, 7, 9), (17, 17, 16), (5, 33, 8)], ids=str)
def test_onnx(engine, sizes, causal, scale, mask, onnx):
    """With heads, as axes of the arrays and within the features."""
    Tq, Tk, D = sizes
    p = AttentionProblem(kind="heads", heads=3, B=2, Tq=Tq, Tk=Tk, Dq=D, Dv=5)
    given = mask_of(mask, (2, 3, Tq, Tk), np.random.Generator(np.random.Philox(2)))
    attributes = {"is_causal": int(causal)} | ({} if scale is None else {"scale": scale})
    arrays = [a for a in (p.query, p.key, p.value, given) if a is not None]
    expected = dict(zip(("context", "weights"), onnx_attention(onnx, arrays, **attributes), strict=True))
    context, weights = engine.attention(
        *(p.query, p.key, p.value),
        **{"score": "scaled_dot", "mask": given, "causal": causal, "scale": scale, "return_weights": True},
    )
    assert_agree({"context": context, "weights": weights}, expected)

    folded = [a.swapaxes(1, 2).reshape(2, a.shape[2], -1) for a in arrays[:3]]
    flat = onnx_attention(onnx, [*folded, *arrays[3:]], q_num_heads=3, kv_num_heads=3, **attributes)
    assert max_error(context.swapaxes(1, 2).reshape(2, Tq, -1), flat[0]) <= TORCH


def test_onnx_and_a_row_without_keys(onnx):
    """Zeros in both, weights and context."""
    p = AttentionProblem(kind="heads", Tq=2)
    mask = np.ones((p.B, p.heads, 2, p.Tk), bool)
    mask[:, :, 1] = False
    expected = onnx_attention(onnx, [p.query, p.key, p.value, mask])
    context, weights = pyrnn.attention(
        p.query, p.key, p.value, score="scaled_dot", mask=mask, return_weights=True
    )
    assert not weights[:, :, 1].any() and not context[:, :, 1].any()
    if not np.isnan(expected[0]).any():  # as evaluators before ONNX 1.20 gave it
        assert_agree({"context": context, "weights": weights}, dict(context=expected[0], weights=expected[1]))
