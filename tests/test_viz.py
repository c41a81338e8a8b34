# SPDX-License-Identifier: Apache-2.0
"""`pyrnn.viz`: what is drawn is what was given, on the axes that were given."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

import pyrnn
from pyrnn import viz

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed")
matplotlib.use("agg")
from matplotlib import pyplot  # noqa: E402
from matplotlib.colors import to_rgba  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    pyplot.close("all")


def panels(count=1):
    """Axes of a figure that pyplot knows nothing of."""
    return list(Figure(layout="constrained").subplots(count, squeeze=False)[:, 0])


def texts(labels):
    return [label.get_text() for label in labels]


def drawn(ax):
    """The numbers of its only picture."""
    (image,) = ax.images
    return np.asarray(image.get_array())


def test_alignment():
    weights = np.random.default_rng(0).dirichlet(np.ones(4), 3)
    (ax,) = panels()
    assert viz.alignment(weights, "ab c", ["x", "y", "end"], ax=ax) is ax
    assert np.array_equal(drawn(ax), weights) and ax.images[0].get_clim() == (0, 1)
    assert texts(ax.get_xticklabels()) == ["a", "b", "␣", "c"]
    assert texts(ax.get_yticklabels()) == ["x", "y", "end"]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first query on top
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("read", "written")
    assert len(ax.figure.axes) == 2 and not pyplot.get_fignums()
    alone = viz.alignment(weights, colorbar=False)
    assert alone.figure.axes == [alone] and len(pyplot.get_fignums()) == 1


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_gates(cell):
    layer = pyrnn.Recurrent(cell, 3, 5, seed=0)
    x = np.random.default_rng(0).normal(size=(7, 2, 3)).astype(np.float32)
    found = {name: a[:, 1] for name, a in layer.gates(x).items()}
    axes = viz.gates(found, "abcdefg")
    assert texts(ax.yaxis.label for ax in axes) == list(found)
    for ax, (name, a) in zip(axes, found.items(), strict=True):
        assert np.array_equal(drawn(ax), a.T)
        assert ax.images[0].get_clim() == ((-1, 1) if name in ("g", "n") else (0, 1))
    assert texts(axes[-1].get_xticklabels()) == list("abcdefg")
    assert not any(len(ax.get_xticks()) for ax in axes[:-1])
    given = panels(len(found))
    assert viz.gates(found, axes=given) == given and drawn(given[0]).shape == (5, 7)


def test_gates_above_one_or_below_zero():
    """A linear candidate keeps its name; another signed gate is seen to be signed."""
    (ax,) = viz.gates({"odd": np.array([[0.5], [-0.5]])}, axes=panels())
    assert ax.images[0].get_clim() == (-1, 1)


def test_hidden_state():
    h = np.random.default_rng(0).normal(size=(100, 6))
    (ax,) = panels()
    assert viz.hidden_state(h, "ab\n d" * 20, ax=ax) is ax
    assert np.array_equal(drawn(ax), h.T) and ax.images[0].get_clim() == (-abs(h).max(), abs(h).max())
    assert ax.get_ylim()[0] < ax.get_ylim()[1]  # unit 0 at the bottom
    assert texts(ax.get_xticklabels()) == [*"a⏎db␣"] * 10  # every second one of more than there is room for
    assert viz.hidden_state(h, limit=2, ax=panels()[0]).images[0].get_clim() == (-2, 2)
    assert viz.hidden_state(np.zeros((3, 2))).images[0].get_clim() == (-1, 1)


def test_cell_state():
    rng = np.random.default_rng(0)
    f, added = rng.uniform(size=9), rng.normal(size=9)
    c = np.zeros(9)
    for t in range(9):
        c[t] = f[t] * c[t - 1] + added[t]
    (ax,) = panels()
    assert viz.cell_state(c, "abcdefghi", kept=f, written=added, ax=ax) is ax
    (belt,) = ax.collections
    expected = [[(t, c[t]), (t + 1, c[t + 1])] for t in range(8)]
    assert np.array_equal(belt.get_segments(), expected)
    # A piece of the belt leads to step t: it has the colour of what step t kept.
    assert np.array_equal(belt.get_array(), f[1:])
    assert np.array_equal([bar.get_height() for bar in ax.patches], added)
    assert ax.get_ylim()[0] <= min(c.min(), added.min()) and ax.get_ylim()[1] >= max(c.max(), added.max())
    assert ax.figure.axes[1].get_ylabel() == "kept, f"
    (plain,) = panels()
    viz.cell_state(c, ax=plain)
    assert np.array_equal(plain.lines[0].get_ydata(), c) and not plain.patches


def test_gradient_norms():
    (ax,) = panels()
    rnn, lstm = 1e-2 ** np.arange(9.0)[::-1], np.stack([np.full(9, 0.5), np.full(9, 7.0)])
    assert viz.gradient_norms({"rnn": rnn, "lstm": lstm}, colors={"lstm": "black"}, ax=ax) is ax
    of_rnn, of_h, of_c = ax.lines
    # 1e-16 and 1e-14 are below the floor; steps count from 1.
    assert np.array_equal(of_rnn.get_xdata(), range(3, 10)) and np.array_equal(of_rnn.get_ydata(), rnn[2:])
    assert np.array_equal(of_h.get_ydata(), lstm[0]) and np.array_equal(of_c.get_ydata(), lstm[1])
    assert [line.get_label() for line in ax.lines] == ["rnn", "lstm, ∂L/∂h", "lstm, ∂L/∂c"]
    assert (of_h.get_linestyle(), of_c.get_linestyle()) == ("-", "--")
    assert to_rgba(of_rnn.get_color()) == to_rgba("C0") and of_c.get_color() == "black"
    assert ax.get_yscale() == "log" and ax.get_ylim() == (1e-12, 21) and ax.get_xlim() == (1, 9)


def test_regions():
    image, weights = np.array([[0.0, 1], [0, 1]]), np.array([[0.0, 0], [1, 1]])
    (ax,) = panels()
    assert viz.regions(image, weights, ax=ax) is ax
    paper, ink, red, inked = drawn(ax).reshape(4, 3)
    assert np.array_equal(paper, [1, 1, 1]) and np.allclose(ink, 0.1)
    assert np.allclose(red, [1, 0.25, 0.25]) and np.allclose(inked, [0.1, 0.025, 0.025])


def test_seeds():
    (ax,) = panels()
    assert viz.seeds({"a": [3, 1, 2.6], "b": [], "c": [5]}, labels={"c": "see"}, ax=ax) is ax
    assert texts(ax.get_yticklabels()) == ["a", "b", "see"]
    points = {tuple(line.get_ydata()): line for line in ax.lines if line.get_marker() == "o"}
    assert np.array_equal(points[0, 0, 0].get_xdata(), [3, 1, 2.6])
    assert np.array_equal(points[(2,)].get_xdata(), [5]) and len(points) == 2
    means = [line.get_xdata()[0] for line in ax.lines if line.get_marker() == "|"]
    assert means == [pytest.approx(2.2), 5]
    assert ax.get_ylim()[0] > ax.get_ylim()[1]  # the first on top


def test_learning_curves():
    (ax,) = panels()
    curves = {"gru": [[0, 1.0], [10, 0.5]], "lstm": [[0, 2.0]]}
    assert viz.learning_curves(curves, styles={"lstm": {"color": "red"}}, ax=ax) is ax
    assert [line.get_label() for line in ax.lines] == ["gru", "lstm"]
    assert ax.lines[0].get_xydata().tolist() == curves["gru"] and ax.lines[1].get_color() == "red"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: viz.alignment(np.ones((2, 3, 4))), r"weights: expected shape \(Tq, Tk\), got \(2, 3, 4\)"),
        (lambda: viz.alignment(np.ones((2, 3)), "ab"), "source: expected 3 names, got 2"),
        (lambda: viz.alignment(np.ones((2, 3)), target="abc"), "target: expected 2 names, got 3"),
        (lambda: viz.gates({}), "activations: expected at least one"),
        (
            lambda: viz.gates({"i": np.ones((2, 3)), "f": np.ones((3, 3))}),
            r"\['f'\]: expected shape \(2, 3\)",
        ),
        (lambda: viz.gates({"i": np.ones(3)}), r"activations\['i'\]: expected shape \(T, H\)"),
        (lambda: viz.gates({"i": np.ones((3, 1))}, axes=[]), "axes: expected one for each of 1 gates, got 0"),
        (lambda: viz.hidden_state(np.ones(3)), r"h: expected shape \(T, H\)"),
        (lambda: viz.cell_state(np.ones((3, 1))), r"c: expected shape \(T\)"),
        (lambda: viz.cell_state(np.ones(3), kept=np.ones(2)), r"kept: expected shape \(3\), got \(2,\)"),
        (lambda: viz.cell_state(np.ones(3), written=np.ones(4)), "written: expected shape"),
        (lambda: viz.cell_state(np.ones(3), "ab"), "labels: expected 3 names, got 2"),
        (lambda: viz.gradient_norms({"a": np.ones((1, 1, 1))}), r"norms\['a'\]: expected shape"),
        (lambda: viz.regions(np.ones((2, 2)), np.ones((2, 3))), r"weights: expected shape \(2, 2\)"),
        (lambda: viz.learning_curves({"a": np.ones(2)}), r"curves\['a'\]: expected shape \(points, 2\)"),
    ],
)
def test_wrong_arguments(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_matplotlib_is_named_and_comes_late(monkeypatch):
    code = "import sys, pyrnn, pyrnn.viz; assert 'matplotlib' not in sys.modules"
    subprocess.run([sys.executable, "-P", "-c", code], check=True)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "pyrnn-kernels\[viz\]"'):
        viz.alignment(np.eye(2))
