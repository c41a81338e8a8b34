# SPDX-License-Identifier: Apache-2.0
"""The comparison of cells: tasks, models, gradients through time, and both commands."""

import json
from pathlib import Path

import numpy as np
import pytest
from commands import interrupted, run

import pyrnn
from pyrnn import cli
from pyrnn.examples.config import GradientsConfig, VariantsConfig
from pyrnn.examples.sequencemodel import SequenceModel, forget_slot, hidden_for, weights_of
from pyrnn.examples.tasks import GIVEN, SYMBOLS, Adding, Batch, Copy, Task, Text, task_of
from pyrnn.examples.vanishing import Vanishing, lengths, through_time
from pyrnn.examples.variants import Comparison, summarised, table

EVERY_CELL = pytest.mark.parametrize("cell", pyrnn.cells())
SHORT = VariantsConfig(length=12, hidden=6, batch=4, steps=4, seeds=2, points=2)
FLAGS = ["--length", "12", "--hidden", "4", "--batch", "2", "--quiet"]


def exact(task: Task, cell: str) -> SequenceModel:
    return SequenceModel(cell, task, 5, seed=3, dtype="float64")


def wide(batch: Batch) -> Batch:
    return Batch(batch.x.astype(np.float64), batch.targets)


def test_adding() -> None:
    batch = Adding(SHORT).draw(500, np.random.default_rng(0))
    assert batch.x.shape == (12, 500, 2) and batch.targets.shape == (1, 500)
    marked = batch.x[:, :, 1] == 1
    assert (marked[:6].sum(0) == 1).all() and (marked[6:].sum(0) == 1).all()
    assert np.allclose((batch.x[:, :, 0] * batch.x[:, :, 1]).sum(0), batch.targets[0])
    error = np.mean((Adding(SHORT).draw(20000, np.random.default_rng(1)).targets - 1) ** 2)
    assert abs(error - Adding.baseline) < 0.005


def test_copy() -> None:
    x, targets = Copy(SHORT).draw(300, np.random.default_rng(0))
    ids = x.argmax(-1)
    assert (x.sum(-1) == 1).all()
    assert np.array_equal(ids[:GIVEN], targets) and targets.max() == SYMBOLS - 1
    assert (ids[GIVEN:-GIVEN] == SYMBOLS).all() and (ids[-GIVEN:] == SYMBOLS + 1).all()


def test_text(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("abcd" * 300, encoding="utf-8")
    task = task_of(VariantsConfig(task="text", length=12, batch=2), str(tmp_path / "text"))
    assert isinstance(task, Text) and task.inputs == 4 and abs(task.baseline - 2) < 0.01
    x, targets = task.batch(0, 3)
    assert x.shape == (12, 2, 4) and np.array_equal(x[1:].argmax(-1), targets[:-1])
    held = task.held_out()
    assert np.array_equal((held.x.argmax(-1) + 1) % 4, held.targets)


@pytest.mark.parametrize("task", [Adding(SHORT), Copy(SHORT)], ids=lambda task: task.name)
def test_every_cell_reads_the_same(task: Task) -> None:
    a, b, other = task.batch(1, 5), task.batch(1, 5), task.batch(2, 5)
    assert np.array_equal(a.x, b.x) and not np.array_equal(a.x, other.x)
    assert np.array_equal(task.held_out().x, task.held_out().x)


@EVERY_CELL
@pytest.mark.parametrize("task", [Adding(SHORT), Copy(SHORT)], ids=lambda task: task.name)
def test_gradients_of_a_model(cell: str, task: Task) -> None:
    """Along a random direction, against central differences."""
    model, batch = exact(task, cell), wide(task.batch(0, 0))
    model.gradients(batch)
    v = np.random.Generator(np.random.Philox(1)).normal(size=model.params.flat.size)
    for name, direction in model.params.views_of(v).items():
        if "period" in name:  # whole numbers, which have no gradient
            direction[...] = 0
    expected, at, step = float(model.grads.flat @ v), model.params.flat.copy(), 1e-6
    values = []
    for sign in (1, -1):
        model.params.flat[...] = at + sign * step * v
        values.append(model.gradients(batch)[0])
    assert abs((values[0] - values[1]) / (2 * step) - expected) <= 1e-6 * max(1, abs(expected))


@EVERY_CELL
def test_gradients_through_time(cell: str) -> None:
    """A change of h_t, and of c_t, changes the loss as the gradient says."""
    task = Adding(SHORT)
    model, batch = exact(task, cell), wide(task.batch(0, 0))
    found = through_time(model, batch)
    rng, t, step = np.random.Generator(np.random.Philox(1)), 7, 1e-6
    _, state = model.layer(batch.x[:t])
    states = state if isinstance(state, tuple) else (state,)
    v = [rng.normal(size=s.shape) for s in states]
    if cell == "clockwork":
        v[1][...] = 0  # a count of steps, which has no gradient

    def loss(sign: int) -> float:
        moved = tuple(s + sign * step * d for s, d in zip(states, v, strict=True))
        y, _ = model.layer(batch.x[t:], moved if len(moved) > 1 else moved[0])
        return task.loss(model.scores(y[-1:]), batch.targets[0])[0]

    expected = sum(float((g[t - 1] * d[0]).sum()) for g, d in zip(found, v, strict=True))
    assert abs((loss(1) - loss(-1)) / (2 * step) - expected) <= 1e-6 * max(1e-3, abs(expected))
    assert lengths(model, batch).states.shape == (len(states), 12)


@EVERY_CELL
def test_weights_of_a_cell(cell: str) -> None:
    task = Adding(SHORT)
    model = SequenceModel(cell, task, 7)
    assert sum(a.size for a in model.params.views.values()) == weights_of(cell, task, 7)
    hidden = hidden_for(cell, task, 5000)
    near = [abs(weights_of(cell, task, h) - 5000) for h in (hidden - 1, hidden, hidden + 1)]
    assert near[1] == min(near)
    with pytest.raises(ValueError, match=r"--weights: expected at least"):
        hidden_for(cell, task, 1)


@EVERY_CELL
def test_forget_gate(cell: str) -> None:
    slot, task = forget_slot(cell), Adding(SHORT)
    plain, biased = (SequenceModel(cell, task, 7, forget, seed=2) for forget in (0.0, 1.0))
    difference = (biased.params.flat - plain.params.flat).reshape(-1)
    assert np.isclose(difference.sum(), 0 if slot is None else 7)
    if slot is not None:
        changed = biased.params.views["layer.bias_ih_l0"] - plain.params.views["layer.bias_ih_l0"]
        assert np.allclose(changed[slot * 7 : slot * 7 + 7], 1)


def test_comparison(tmp_path: Path) -> None:
    comparison = Comparison(pyrnn.cells(), Adding(SHORT), SHORT, tmp_path / "x.json")
    while comparison.progress.step < comparison.config.steps:
        comparison.advance()
        if comparison.progress.step % comparison.config.every == 0:
            comparison.validation()
    comparison.save()
    report = json.loads((tmp_path / "x.json").read_text())
    assert [row["cell"] for row in report["cells"]] == list(pyrnn.cells())
    for row in report["cells"]:
        assert len(row["errors"]) == 2 and all(np.isfinite(row["errors"]))
        assert [step for step, _ in row["curves"][0]] == [2, 4]
    lines = table(comparison)
    assert len(lines) == 1 + len(pyrnn.cells()) and "solved" in lines[0]


def test_a_training_that_diverges_is_said() -> None:
    config = VariantsConfig(length=12, hidden=6, batch=4, steps=4, seeds=1, points=2)
    comparison = Comparison(["lstm"], Adding(config), config)
    comparison._run.model.params.flat[...] = np.nan
    for _ in range(4):
        comparison.advance()
    comparison.validation()
    found = summarised(comparison.results, comparison.task)
    assert found.errors == [None] and found.mean is None
    assert "diverged" in table(comparison)[1]


def test_gated_cells_learn_to_add() -> None:
    """Where the simple network does no better than by saying 1."""
    config = VariantsConfig(length=30, hidden=24, steps=700, seeds=1, points=1)
    comparison = Comparison(["gru", "rnn_tanh"], Adding(config), config)
    for _ in range(2):
        for _ in range(config.steps):
            comparison.advance()
        comparison.validation()
    gru, simple = (r.error for r in comparison.results)
    assert gru < 0.05 < 0.1 < simple


def test_vanishing() -> None:
    config = GradientsConfig(length=40, hidden=8, steps=1, batch=4)
    vanishing = Vanishing(["rnn_tanh", "lstm"], config)
    before = vanishing.moments["at initialisation"]
    assert before["rnn_tanh"].per_step < before["lstm"].per_step < 1
    assert before["rnn_tanh"].states[0, -1] == 1


def test_commands(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    flags = ["--steps", "3", "--seeds", "1", "--points", "1", "--plot", "v.png", "--out", "v.json"]
    out = run(tmp_path, "variants", *FLAGS, *flags, "--cell", "gru", "--cell", "janet").stdout
    assert "janet" in out and "error: mean squared error, 1 seeds" in out
    assert (tmp_path / "v.png").stat().st_size > 10_000
    assert [row["cell"] for row in json.loads((tmp_path / "v.json").read_text())["cells"]] == ["gru", "janet"]
    out = run(tmp_path, "gradients", *FLAGS, "--steps", "3", "--plot", "g.png", "--out", "g.json").stdout
    assert "lstm c" in out and "a step back leaves" in out
    assert (tmp_path / "g.png").stat().st_size > 10_000
    gradients = json.loads((tmp_path / "g.json").read_text())["gradients"]
    assert len(gradients["after training"]["lstm"]["dc"]) == 12


def test_interrupted(tmp_path: Path) -> None:
    log = tmp_path / "log"
    flags = ["--steps", "1000000", "--log", str(log), "--cell", "gru"]
    out = interrupted(tmp_path, log, "variants", *FLAGS, *flags)
    assert "interrupted: 0 of 3 trainings are finished" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["variants", "--task", "sorting"], "--task: expected"),
        (["variants", "--cell", "elman"], "--cell: expected"),
        (["variants", "--length", "3"], "--length: expected a number from 12, got 3"),
        (["variants", "--weights", "3"], "--weights: expected at least"),
        (["variants", "--file", "x"], "--file: expected --task text beside it"),
        (["variants", "--plot", "x.doc"], "--plot: expected a name that ends in"),
        (["gradients", "--out", "nowhere/x.json"], "nowhere"),
    ],
)
def test_wrong_arguments(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    if "--plot" in words:
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    try:
        code = cli.main(words)
    except SystemExit as error:
        code = error.code  # type: ignore[assignment]
    assert code == 2
    err = capsys.readouterr().err
    assert message in err and len(err.strip().splitlines()) == 1
