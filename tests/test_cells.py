# SPDX-License-Identifier: Apache-2.0
"""Cells: one step, with its backward."""

import json

import numpy as np
import pytest
from problems import CELLS, Problem, named_gradients
from tolerances import FLOAT64, max_error

import pyrnn
import pyrnn.reference
from pyrnn import functional
from pyrnn.diagnostics import checks_of
from pyrnn.io import save_safetensors

EVERY_CELL = pytest.mark.parametrize("cell", CELLS)


def arrays(state):
    return state if isinstance(state, tuple) else (state,)


@EVERY_CELL
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_a_step_is_a_sequence_of_one(cell, bias, batched):
    p = Problem(cell, T=1, B=3 if batched else 1, bias=bias)
    module = pyrnn.Cell(cell, p.I, p.H, bias, dtype="float64", seed=0)
    module.params = {name.removesuffix("_l0"): a for name, a in p.params.items()}
    row = (lambda a: a[0]) if batched else (lambda a: a[0, 0])
    structure = (lambda s: tuple(map(row, s))) if isinstance(p.state, tuple) else row
    _, state, saved = functional.sequence_forward(cell, p.x, p.state, p.params)
    expected = named_gradients(functional.sequence_backward(saved, None, p.dstate))

    final, kept = module.forward(row(p.x), structure(p.state))
    for a, e in zip(arrays(final), arrays(structure(state)), strict=True):
        assert np.array_equal(a, e)
    for a, e in zip(arrays(module(row(p.x), structure(p.state))), arrays(final), strict=True):
        assert max_error(a, e) <= FLOAT64
    grads = named_gradients(module.backward(kept, structure(p.dstate)))
    assert max_error(grads.pop("dx"), row(expected.pop("dx"))) <= FLOAT64
    for name, value in grads.items():
        wanted = row(expected[name]) if name.startswith("dstate") else expected[name + "_l0"]
        assert np.array_equal(value, wanted), name
    zero = module(row(p.x))
    y_zero, _ = functional.sequence(cell, p.x, None, p.params)
    assert np.array_equal(arrays(zero)[0], row(y_zero))


def test_names():
    assert pyrnn.LSTMCell(3, 4).name == "lstm"
    assert pyrnn.GRUCell(3, 4).name == "gru"
    assert pyrnn.RNNCell(3, 4).name == "rnn_tanh"
    assert pyrnn.RNNCell(3, 4, nonlinearity="relu").name == "rnn_relu"
    assert set(pyrnn.cells()) == set(CELLS)
    assert list(pyrnn.GRUCell(3, 4).params) == ["weight_ih", "weight_hh", "bias_ih", "bias_hh"]


@pytest.mark.parametrize(
    "text",
    [
        "Cell('janet', 3, 4)",
        "LSTMCell(3, 4, bias=False)",
        "GRUCell(3, 4, dtype='float64')",
        "RNNCell(3, 4, nonlinearity='relu')",
    ],
)
def test_the_file_gives_the_cell_back(text, tmp_path):
    cell = eval(f"pyrnn.{text}")
    cell.save(tmp_path / "cell")
    again = pyrnn.load(tmp_path / "cell")
    assert repr(again) == repr(cell) and again.dtype == cell.dtype
    for name, a in cell.state_dict().items():
        assert np.array_equal(again.params[name], a) and a is not cell.params[name]
    cell.load_state_dict({name: np.zeros_like(a) for name, a in cell.params.items()})
    assert not any(a.any() for a in cell.params.values())


@pytest.mark.parametrize(
    "value", [{"hidden_size": 1 << 40}, {"input_size": 4}, {"name": "gru"}, {"bias": "no"}]
)
def test_a_forged_cell_is_refused(value, tmp_path):
    cell = pyrnn.Cell("lstm", 3, 4)
    save_safetensors(tmp_path / "cell", cell.state_dict(), {"pyrnn": json.dumps(cell.config() | value)})
    with pytest.raises(ValueError, match="cell: "):
        pyrnn.load(tmp_path / "cell")


@pytest.mark.parametrize("name", ["LSTMCell", "GRUCell", "RNNCell"])
def test_the_reference_has_it_too(name):
    kernel, numpy = (getattr(m, name)(3, 4, dtype="float64", seed=0) for m in (pyrnn, pyrnn.reference))
    x = np.random.default_rng(0).normal(size=(2, 3))
    for a, b in zip(arrays(kernel(x)), arrays(numpy(x)), strict=True):
        assert max_error(a, b) <= FLOAT64


def test_errors():
    cell = pyrnn.LSTMCell(3, 4, seed=0)
    x = np.zeros((2, 3), np.float32)
    h = np.zeros((2, 4), np.float32)
    with pytest.raises(ValueError, match=r"^x: expected shape \(B, I\) or \(I,\) with I = 3, got \(2, 4\)"):
        cell(h)
    with pytest.raises(
        ValueError, match=r"^x: expected shape \(B, I\) or \(I,\) with I = 3, got \(1, 2, 3\)"
    ):
        cell(x[None])
    with pytest.raises(TypeError, match=r"^x: expected dtype float32, got float64"):
        cell(x.astype(float))
    with pytest.raises(TypeError, match=r"^state: expected a tuple of 2 arrays, got ndarray"):
        cell(x, h)
    with pytest.raises(ValueError, match=r"^state\[1\]: expected shape \(B, H\) = \(2, 4\), got \(3, 4\)"):
        cell(x, (h, np.zeros((3, 4), np.float32)))
    with pytest.raises(ValueError, match=r"^state\[0\]: expected shape \(H,\) = \(4,\), got \(2, 4\)"):
        cell(x[0], (h, h))
    _, saved = cell.forward(x, (h, h))
    with pytest.raises(TypeError, match=r"^saved: expected what forward returned, got int"):
        cell.backward(3, (h, h))
    with pytest.raises(
        ValueError, match=r"^saved: expected what this cell's forward returned, got another's"
    ):
        pyrnn.LSTMCell(3, 4).backward(saved, (h, h))
    with pytest.raises(TypeError, match=r"^dstate: expected a tuple of 2 arrays, got ndarray"):
        cell.backward(saved, h)
    cell.params["weight_hh"] = np.zeros((16, 5), np.float32)
    with pytest.raises(
        ValueError, match=r"^weight_hh: expected shape \(4\*H, H\) = \(16, 4\), got \(16, 5\)"
    ):
        cell(x)
    with pytest.raises(ValueError, match=r"^cell: expected one of .*, got 'nonesuch'"):
        pyrnn.Cell("nonesuch", 3, 4)
    with pytest.raises(RuntimeError, match=r"^device: expected 'cpu', got 'cuda'"):
        pyrnn.LSTMCell(3, 4, device="cuda")


def test_the_checks_of_a_machine_pass_for_the_cell_that_divides():
    assert all(check.passed for check in checks_of("slstm"))
