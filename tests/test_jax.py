# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.jax`: values and gradients are the reference's and those of lax.scan, under every transformation."""

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from problems import DISTINCT, Problem
from tolerances import FLOAT64, float32_bound, l2_error, max_error

import pyrnn
from pyrnn import reference
from pyrnn.bench import formulas
from pyrnn.stacking import Gradients

pytest.importorskip("jax", reason="JAX is not installed")
pytest.importorskip("pyrnn._jax", reason="this build has no pyrnn._jax")

import jax
import jax.ffi
import jax.numpy as jnp

import pyrnn.jax


@pytest.fixture(autouse=True)
def _wide_numbers():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def on_jax(tree):
    return jax.tree.map(jnp.asarray, tree)


class Jitted:
    """Forward and backward as `Problem.run` calls them, the whole pull-back in one compiled function."""

    def __init__(self, **fixed):
        self.fixed = fixed

    def sequence_forward(self, cell, x, state, params, lengths=None, mask=None, resets=None, reset_to="zero"):
        def run(x, state, params, lengths, mask, resets):
            given = {"lengths": lengths, "mask": mask, "resets": resets, "reset_to": reset_to} | self.fixed
            return pyrnn.jax.sequence(cell, x, state, params, **given)

        @jax.jit
        def pull(x, state, params, given, cotangents):
            return jax.vjp(lambda *args: run(*args, *given), x, state, params)[1](cotangents)

        operands, given = on_jax((x, state, params)), on_jax((lengths, mask, resets))
        y, new = jax.jit(run)(*operands, *given)
        return y, new, (pull, operands, given)

    def sequence_backward(self, saved, dy, dstate):
        pull, operands, given = saved
        return Gradients(*pull(*operands, given, on_jax((dy, dstate))))


def assert_equal_to_reference(problem, **fixed):
    expected = problem.run(reference)
    for name, a in problem.run(Jitted(**fixed)).items():
        assert max_error(np.asarray(a), expected[name]) <= FLOAT64, name


@pytest.mark.parametrize("cell", DISTINCT)
def test_cells(cell):
    assert_equal_to_reference(Problem(cell, kind="lengths", num_layers=2, directions=2))


@pytest.mark.parametrize("cell", ["lstm_peephole", "gru_reset_before", "indrnn_relu"])
def test_options(cell):
    """Lengths, masks, resets and another initial state, traced; no biases, normalised products."""
    assert_equal_to_reference(Problem(cell, 6, 5, 9, 17, 1, 2, bias=False, kind="all", layer_norm=True))


@pytest.mark.parametrize("sizes", [(1, 1, 3, 4), (1, 4, 1, 1), (3, 0, 4, 5), (0, 2, 4, 5), (9, 17, 33, 31)])
def test_sizes(sizes):
    assert_equal_to_reference(Problem("lstm", *sizes, kind="lengths"))


def test_projection():
    assert_equal_to_reference(Problem("lstm", num_layers=2, directions=2, proj_size=2, kind="mask"))


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_relu"])
def test_float32(cell):
    problem = Problem(cell, 20, 9, 33, 65, 2, dtype=np.float32)
    expected = problem.exact().run(reference)
    for name, a in problem.run(Jitted()).items():
        assert a.dtype == np.float32
        assert l2_error(np.asarray(a, float), expected[name]) <= float32_bound(20), name


def test_layouts():
    """Batch first, and a single sequence, are the same numbers."""
    problem = Problem("lstm", kind="all")
    given = on_jax(problem.options | {"lengths": problem.options["lengths"]} | {"reset_to": None})
    given["reset_to"] = "initial"
    x, state, params = on_jax((problem.x, problem.state, problem.params))
    y, new = pyrnn.jax.lstm(x, state, params, **given)
    swapped = given | {name: given[name].T for name in ("mask", "resets")}

    def loss(x, batch_first, given):
        return jnp.sum(jnp.sin(pyrnn.jax.lstm(x, state, params, batch_first=batch_first, **given)[0]))

    found, new_found = pyrnn.jax.lstm(x.swapaxes(0, 1), state, params, batch_first=True, **swapped)
    np.testing.assert_array_equal(found.swapaxes(0, 1), y)
    np.testing.assert_array_equal(new_found[1], new[1])
    np.testing.assert_array_equal(
        jax.grad(loss)(x.swapaxes(0, 1), True, swapped).swapaxes(0, 1), jax.grad(loss)(x, False, given)
    )
    for b in range(problem.B):
        one = {name: given[name][:, b] for name in ("mask", "resets")}
        one |= {"lengths": given["lengths"][b], "reset_to": "initial"}
        found, (h, c) = pyrnn.jax.lstm(x[:, b], tuple(s[:, b] for s in state), params, **one)
        assert max_error(np.asarray(found), np.asarray(y[:, b])) <= FLOAT64
        assert h.shape == (1, problem.H) and max_error(np.asarray(c), np.asarray(new[1][:, b])) <= FLOAT64


@pytest.mark.parametrize(("shared", "batch_first"), [(True, False), (True, True), (False, True)])
def test_vmap(shared, batch_first):
    """Of values, nested and with a part of the arguments; of gradients; with parameters of each example."""
    rng, V = np.random.default_rng(0), 3
    layer = pyrnn.GRU(4, 5, bidirectional=True, dtype="float64", seed=0)
    params = on_jax(layer.params)
    if not shared:
        params = {name: a * jnp.arange(1, V + 1).reshape(V, *[1] * a.ndim) for name, a in params.items()}
    axis = None if shared else 0
    x = jnp.asarray(rng.normal(size=(V, 6, 4, 4)))
    B, T = (6, 4) if batch_first else (4, 6)
    lengths = jnp.asarray(rng.integers(0, T + 1, (V, B)))
    h = jnp.asarray(rng.normal(size=(2, B, 5)))

    def run(x, h, params, lengths):
        y, new = pyrnn.jax.gru(x, h, params, lengths=lengths, batch_first=batch_first)
        return y, new

    def loss(*args):
        return sum(jnp.sum(jnp.sin(a)) for a in run(*args))

    def one(args, k):
        x, h, params, lengths = args
        return x[k], h, params if shared else {name: a[k] for name, a in params.items()}, lengths[k]

    axes, args = (0, None, axis, 0), (x, h, params, lengths)
    for function in (run, jax.grad(loss, (0, 1, 2)))[: 1 if shared and batch_first else 2]:
        found = jax.jit(jax.vmap(function, axes))(*args)
        single = jax.jit(function)
        expected = [single(*one(args, k)) for k in range(V)]
        stacked = jax.tree.map(lambda *a: jnp.stack(a), *expected)
        for a, e in zip(jax.tree.leaves(found), jax.tree.leaves(stacked), strict=True):
            assert max_error(np.asarray(a), np.asarray(e)) <= FLOAT64
    if batch_first:
        return
    summed = jax.grad(lambda params: jnp.sum(jax.vmap(loss, axes)(x, h, params, lengths)))(params)
    each = jax.vmap(jax.grad(loss, 2), axes)(*args)
    for name, a in summed.items():
        assert max_error(np.asarray(a), np.asarray(each[name].sum(0) if shared else each[name])) <= FLOAT64
    nested = jax.vmap(jax.vmap(run, axes), (0, None, None, None))(jnp.stack([x, -x]), h, params, lengths)
    for k, sign in enumerate((1, -1)):
        twice = jax.vmap(run, axes)(sign * x, h, params, lengths)
        for a, e in zip(nested, twice, strict=True):
            assert max_error(np.asarray(a[k]), np.asarray(e)) <= FLOAT64


def test_vmap_makes_rows():
    """Examples that share the weights are one call of the handler, not a loop."""
    params = on_jax(pyrnn.GRU(3, 4, seed=0).params)
    run = jax.vmap(lambda x: pyrnn.jax.gru(x, None, params)[0])
    text = str(jax.make_jaxpr(run)(jnp.ones((5, 7, 2, 3), jnp.float32)))
    assert text.count("pyrnn_forward") == 1 and "scan" not in text and "7,10,4" in text


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_like_scan(cell):
    """The formulas of `pyrnn bench` under lax.scan, values and gradients."""
    problem = Problem(cell, 12, 5, 4, 6)
    ops = formulas.Ops(
        jax.nn.sigmoid,
        jnp.tanh,
        jax.nn.relu,
        jnp.where,
        jnp.zeros,
        jnp.stack,
        lambda a: jnp.concatenate(a, -1),
    )
    x, state, params = on_jax((problem.x, problem.state, problem.params))
    step = formulas.STEPS[cell]

    def scanned(x, state, params):
        p = formulas.of_layer(params, "_l0")

        def body(state, x):
            ax, ah = x @ p["weight_ih"].T + p["bias_ih"], state[0] @ p["weight_hh"].T + p["bias_hh"]
            new = step(ops, ax, ah, state, p)
            return new, new[0]

        return jax.lax.scan(body, tuple(s[0] for s in state), x)[1]

    state = state if isinstance(state, tuple) else (state,)

    def ours(x, state, params):
        return pyrnn.jax.sequence(cell, x, state if len(state) > 1 else state[0], params)[0]

    results = []
    for run in (scanned, ours):
        y, pull = jax.vjp(run, x, state, params)
        results.append(jax.tree.leaves((y, pull(jnp.asarray(problem.dy)))))
    for a, e in zip(*results, strict=True):
        assert max_error(np.asarray(a), np.asarray(e)) <= FLOAT64


def test_threads_do_not_matter(threads):
    problem = Problem("lstm", 12, 16, 33, 129, num_layers=2, directions=2, dtype=np.float32)
    runs = []
    for count in (1, 2, 3):
        threads(count)
        runs.append(problem.run(Jitted()))
    for run in runs[1:]:
        for name, a in run.items():
            np.testing.assert_array_equal(a, runs[0][name])


def test_several_callers():
    """Handlers run side by side, and while another thread holds the interpreter's lock."""
    problem = Problem("gru", 30, 8, 16, 32, dtype=np.float32)
    x, params = on_jax((problem.x, problem.params))
    run = jax.jit(lambda x: jax.value_and_grad(lambda x: jnp.sum(pyrnn.jax.gru(x, None, params)[0]))(x))
    expected = run(x)
    with ThreadPoolExecutor(4) as pool:
        for value, gradient in pool.map(lambda _: run(x), range(40)):
            np.testing.assert_array_equal(value, expected[0])
            np.testing.assert_array_equal(gradient, expected[1])


def test_functions_of_cells():
    x = jnp.ones((3, 2, 4), jnp.float32)
    for run, layer in (
        (pyrnn.jax.lstm, pyrnn.LSTM(4, 5, seed=0)),
        (pyrnn.jax.gru, pyrnn.GRU(4, 5, seed=0)),
        (pyrnn.jax.rnn, pyrnn.RNN(4, 5, seed=0)),
        (
            partial(pyrnn.jax.rnn, nonlinearity="relu"),
            pyrnn.RNN(4, 5, nonlinearity="relu", seed=0),
        ),
    ):
        np.testing.assert_array_equal(run(x, None, on_jax(layer.params))[0], layer(np.asarray(x))[0])


X, PARAMS = np.zeros((3, 2, 4)), pyrnn.GRU(4, 5, dtype="float64", seed=0).params


@pytest.mark.parametrize(
    ("x", "state", "params", "given", "error", "message"),
    [
        (
            X[..., :3],
            None,
            PARAMS,
            {},
            ValueError,
            r"x: expected shape \(T, B, I\) or \(T, I\) with I = 4, got",
        ),
        (
            X.astype(np.float32),
            None,
            PARAMS,
            {},
            TypeError,
            "x: expected the dtype of the parameters, float64",
        ),
        (X, np.zeros((1, 3, 5)), PARAMS, {}, ValueError, "state: expected shape"),
        (X, None, PARAMS | {"bias_hh_l0": np.zeros(3)}, {}, ValueError, "bias_hh_l0: expected shape"),
        (X, None, PARAMS | {"bias": np.zeros(3)}, {}, ValueError, "got 'bias' in addition"),
        (None, None, PARAMS, {}, TypeError, "x: expected an array, got NoneType"),
        (X, None, [1], {}, TypeError, "params: expected a dict of arrays, got list"),
        (X, None, PARAMS, {"lengths": [4, 0]}, ValueError, "lengths: expected 0 to T = 3, got 4 in row 0"),
        (X, None, PARAMS, {"lengths": [1.0, 2.0]}, TypeError, "lengths: expected integers"),
        (X, None, PARAMS, {"mask": np.ones((2, 3), bool)}, ValueError, r"mask: expected shape \(T, B\)"),
        (X, None, PARAMS, {"resets": np.ones((3, 2))}, TypeError, "resets: expected dtype bool"),
        (
            X,
            None,
            pyrnn.GRU(4, (5, 6), 2, dtype="float64").params,
            {},
            NotImplementedError,
            "layers of one size",
        ),
        (X, None, PARAMS, {"reset_to": "one"}, ValueError, "reset_to: expected 'zero' or 'initial'"),
    ],
)
def test_errors(x, state, params, given, error, message):
    with pytest.raises(error, match=message):
        pyrnn.jax.gru(x, state, params, **given)


def test_lengths_that_are_traced():
    """They are compared with T when they are known, by the handler."""
    run = jax.jit(lambda lengths: pyrnn.jax.gru(X, None, PARAMS, lengths=lengths)[0])
    assert not np.asarray(run(jnp.array([3, 0])))[:, 1].any()
    with pytest.raises(Exception, match="lengths: expected numbers from 0 to T = 3, got 4"):
        run(jnp.array([4, 0])).block_until_ready()


def test_handlers_refuse_what_does_not_fit():
    """Called past the library's own functions: an error, never a signal."""
    f32 = {"x": (3, 2, 4), "ih": (15, 4), "hh": (15, 5)}
    good = [np.zeros(shape, np.float32) for shape in f32.values()]
    none = np.zeros(0, np.float32)
    arrays = [good[0], none, none, none, good[1], good[2], *[none] * 6, none]
    results = [jax.ShapeDtypeStruct(shape, np.float32) for shape in ((3, 2, 5), (2, 5))]
    gru, flags = list(pyrnn.cells()).index("gru"), np.int32(0)

    def call(arrays=arrays, results=results, cell=gru, **attributes):
        attributes = {"cell": np.int32(cell), "flags": flags} | attributes
        found = jax.ffi.ffi_call("pyrnn_forward", results)(*arrays, **attributes)
        return jax.block_until_ready(found)

    assert not np.asarray(call()[0]).any()
    wrong = [
        ({"arrays": arrays[:-1]}, "state: expected one more array"),
        ({"arrays": [np.zeros((3, 2), np.float32), *arrays[1:]]}, "x: expected 3 dimensions"),
        ({"arrays": [np.zeros((3, 2, 4), np.int32), *arrays[1:]]}, "x: expected f32 or f64"),
        ({"arrays": [*arrays[:4], np.zeros((15, 5), np.float32), *arrays[5:]]}, "weight_ih: expected shape"),
        ({"arrays": [*arrays[:5], np.zeros((15, 5)), *arrays[6:]]}, "weight_hh: expected type 11, got 12"),
        ({"arrays": [*arrays[:1], np.zeros(3, np.int32), *arrays[2:]]}, "lengths: expected shape"),
        ({"results": [jax.ShapeDtypeStruct((3, 2, 6), np.float32), results[1]]}, "y: expected shape"),
        ({"results": results[:1]}, "state: expected one more array"),
        ({"cell": 99}, "cell: unknown number"),
        ({"flags": np.int32(8)}, "states: expected one more array"),
        ({"flags": np.float32(1)}, "flags: expected an attribute"),
    ]
    for changed, message in wrong:
        with pytest.raises(Exception, match=message):
            call(**changed)


def test_layout_of_the_interface(tmp_path):
    """The structs that csrc/jax/xla.h declares lie as in the headers that come with JAX."""
    header = Path(__file__).parent.parent / "csrc" / "jax" / "xla.h"
    compiler = os.environ.get("CXX", "c++")
    if not header.exists() or subprocess.run(["which", compiler], capture_output=True).returncode:
        pytest.skip("no sources or no C++ compiler here")
    pairs = {
        ("Extension", "XLA_FFI_Extension_Base"): "size struct_size, type type, next next",
        ("Version", "XLA_FFI_Api_Version"): "major major_version, minor minor_version",
        ("ErrorArguments", "XLA_FFI_Error_Create_Args"): "message message, code errc",
        ("Api", "XLA_FFI_Api"): "version api_version, create_error XLA_FFI_Error_Create",
        ("Array", "XLA_FFI_Buffer"): "dtype dtype, data data, rank rank, dims dims",
        ("Arrays", "XLA_FFI_Args"): "count size, kinds types, items args",
        ("Arrays", "XLA_FFI_Rets"): "count size, kinds types, items rets",
        ("Text", "XLA_FFI_ByteSpan"): "begin ptr, length len",
        ("Scalar", "XLA_FFI_Scalar"): "dtype dtype, value value",
        ("Attributes", "XLA_FFI_Attrs"): "count size, kinds types, names names, items attrs",
        ("Frame", "XLA_FFI_CallFrame"): "extensions extension_start, api api, stage stage, arguments args, "
        "results rets, attributes attrs",
        ("Metadata", "XLA_FFI_Metadata"): "version api_version, traits traits",
        ("MetadataExtension", "XLA_FFI_Metadata_Extension"): "metadata metadata",
    }
    numbers = {
        "pred": "DataType_PRED",
        "s32": "DataType_S32",
        "s64": "DataType_S64",
        "u8": "DataType_U8",
        "f32": "DataType_F32",
        "f64": "DataType_F64",
        "execute": "ExecutionStage_EXECUTE",
        "invalid_argument": "Error_Code_INVALID_ARGUMENT",
        "resource_exhausted": "Error_Code_RESOURCE_EXHAUSTED",
        "buffer_kind": "ArgType_BUFFER",
        "scalar_kind": "AttrType_SCALAR",
        "metadata_type": "Extension_Metadata",
    }
    asserts = [
        f"static_assert(int(pyrnn::xla::{ours}) == int(XLA_FFI_{theirs}));"
        for ours, theirs in numbers.items()
    ]
    for (ours, theirs), fields in pairs.items():
        for a, b in (field.split() for field in fields.split(", ")):
            mine, other = f"pyrnn::xla::{ours}, {a}", f"{theirs}, {b}"
            asserts.append(f'static_assert(offsetof({mine}) == offsetof({other}), "{ours}.{a}");')
    source = tmp_path / "layout.cpp"
    source.write_text(f'#include "xla/ffi/api/c_api.h"\n#include "{header}"\n' + "\n".join(asserts))
    command = [compiler, "-std=c++17", "-fsyntax-only", f"-I{jax.ffi.include_dir()}", str(source)]
    subprocess.run(command, check=True)


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("jax", r"pyrnn\.jax needs JAX: pip install"),
        ("pyrnn._jax", r"pyrnn\.jax needs pyrnn\._jax, which this build"),
    ],
)
def test_what_is_missing_is_named(module, message):
    code = f"import sys; sys.modules[{module!r}] = None; import pyrnn.jax"
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 1 and re.search(f"ImportError: {message}", ran.stderr)


def test_parameters_of_a_layer_are_a_tree():
    params = pyrnn.LSTM(3, 5, seed=0).params
    doubled = jax.tree.map(lambda a: 2 * jnp.asarray(a), params)
    assert type(doubled) is dict and doubled.keys() == params.keys()
    assert all((doubled[name] == 2 * a).all() for name, a in params.items())
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert paths == [f"['{name}']" for name in sorted(params)]
