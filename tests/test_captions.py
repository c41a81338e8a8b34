# SPDX-License-Identifier: Apache-2.0
"""The captions: their pictures, the model's gradients, its learning, and that it looks where it should."""

import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import interrupted, losses, run

from pyrnn import cli
from pyrnn.examples import canvases as pictures
from pyrnn.examples.canvases import AND, APART, COMMA, END, LONGEST, MOST, SIDE, Digits, caption, draw, spaced
from pyrnn.examples.captionmodel import CaptionModel, patches
from pyrnn.examples.captions import Checkpoint, Training, looked, quality, unseen
from pyrnn.examples.config import CaptionsConfig
from pyrnn.examples.plots import plot_regions
from pyrnn.io import load_safetensors, save_safetensors

SMALL = CaptionsConfig(hidden=6, features=5, units=4, embedding=3, batch=4, steps=8, every=4, seed=3)
FLAGS = ["--hidden", "8", "--features", "8", "--units", "8", "--batch", "4", "--every", "5"]


@pytest.fixture
def digits() -> Digits:
    """Ten pictures, a frame with a bar for each number."""
    images = np.zeros((10, SIDE, SIDE), np.float32)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 1
    images[np.arange(10), np.arange(10) % 6 + 1, 1 + np.arange(10) // 6] = 1
    return Digits(images, np.arange(10))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    """After a third of the default training, some twenty seconds' worth."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    training = Training(CaptionsConfig(), tmp_path_factory.mktemp("captions") / "x.safetensors")
    while training.progress.step < 1000:
        training.advance()
    return training


def test_pictures_and_captions(digits: Digits) -> None:
    made = draw(digits, 300, 24, 32, np.random.default_rng(0))
    assert made.images.shape == (300, 24, 32) and made.tokens.shape == (300, LONGEST)
    assert set(made.counts) == {2, 3, 4}
    for k in range(300):
        n = made.counts[k]
        rest = made.images[k].copy()
        assert (np.diff(made.lefts[k, :n]) > 0).all()  # from left to right
        for i in range(n):
            box = np.s_[made.tops[k, i] : made.tops[k, i] + SIDE, made.lefts[k, i] : made.lefts[k, i] + SIDE]
            np.testing.assert_array_equal(made.images[k][box], digits.images[made.tokens[k, 2 * i]])
            rest[box] = 0
        assert not rest.any()
        between = [COMMA] * (n - 2) + [AND]
        assert made.tokens[k, 1 : 2 * n - 1 : 2].tolist() == between
        assert made.lengths[k] == 2 * n and (made.tokens[k, 2 * n - 1 :] == END).all()
    again = draw(digits, 300, 24, 32, np.random.default_rng(0))
    np.testing.assert_array_equal(made.images, again.images)


@pytest.mark.parametrize("count", [2, 3, 4])
def test_left_edges(count: int) -> None:
    """Every choice whose gaps are wide enough is as likely as any other, and there are no others."""
    choices = [c for c in itertools.combinations(range(12), count) if (np.diff(c) >= APART).all()]
    draws = 400 * len(choices)
    found = spaced(np.full(draws, count), 12, np.random.default_rng(0))[:, :count]
    distinct, often = np.unique(found, axis=0, return_counts=True)
    assert distinct.tolist() == [list(c) for c in choices]
    assert abs(often / 400 - 1).max() < 0.25  # five standard deviations


def test_words() -> None:
    assert caption([3, COMMA, 7, AND, 1, END, END]) == "three, seven and one"
    assert caption([END]) == ""


def test_digits_are_split() -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    parts = pictures.load()
    assert [len(part.labels) for part in parts] == [1439, 179, 179]
    assert all(set(part.labels) == set(range(10)) for part in parts)
    assert all(part.images.min() == 0 and part.images.max() == 1 for part in parts)


def test_patches() -> None:
    """Wherever a digit stands, one patch holds all of it."""
    for top in range(24 - SIDE + 1):
        for left in range(32 - SIDE + 1):
            image = np.zeros((1, 24, 32), np.float32)
            image[0, top : top + SIDE, left : left + SIDE] = 1
            assert patches(image).sum(2).max() == SIDE * SIDE


def test_gradients(digits: Digits) -> None:
    """Against central differences, in float64, along random directions of each parameter."""
    model = CaptionModel(SMALL, "float64")
    made = draw(digits, 5, 24, 32, np.random.default_rng(1))
    loss = model.gradients(made)
    assert loss == pytest.approx(model.loss(made), rel=1e-12)
    rng = np.random.default_rng(2)
    for name, view in model.params.views.items():
        direction, before = rng.normal(size=view.shape), view.copy()
        values = []
        for sign in (1, -1):
            view[...] = before + sign * 1e-5 * direction
            values.append(model.loss(made))
        view[...] = before
        expected = (values[0] - values[1]) / 2e-5
        assert (model.grads.views[name] * direction).sum() == pytest.approx(expected, rel=1e-6, abs=1e-9), (
            name
        )


def test_learns_and_looks(trained: Training) -> None:
    """Digits that training has not met are named, and looked at while they are."""
    _, words = trained.validation()
    found = quality(trained.model, unseen(trained.config, 300))
    assert found.exact > 0.6, words
    assert found.looked > 0.85


def test_where_it_looks_is_measured(digits: Digits) -> None:
    model = CaptionModel(SMALL)
    made = draw(digits, 20, 24, 32, np.random.default_rng(0))
    y, x = model.centres()
    on = np.zeros((20, LONGEST, len(y)), np.float32)
    for k in range(20):
        for i in range(made.counts[k]):
            off = np.abs(y - made.tops[k, i] - SIDE / 2) + np.abs(x - made.lefts[k, i] - SIDE / 2)
            on[k, 2 * i, off.argmin()] = 1
    there = np.arange(MOST) < made.counts[:, None]
    np.testing.assert_array_equal(looked(model, made, on)[there], 1)
    np.testing.assert_array_equal(
        looked(model, made, np.roll(on, 2, axis=1))[there & (np.arange(MOST) > 0)], 0
    )
    assert np.isnan(looked(model, made, on)[~there]).all()


@pytest.mark.parametrize(("height", "width"), [(24, 32), (17, 35)])
def test_regions(height: int, width: int) -> None:
    """What can move a patch's feature is where its weight is drawn."""
    model = CaptionModel(dataclasses.replace(SMALL, height=height, width=width))
    P = len(model.position)
    found = model.regions(np.eye(P)[None])[0]
    assert found.shape == (P, height, width)
    pixels = np.eye(height * width, dtype=np.float32).reshape(-1, height, width)
    np.testing.assert_array_equal(found.reshape(P, -1), patches(pixels).sum(2).T)
    np.testing.assert_allclose(model.regions(np.full((3, P), 1 / P)).max(), 25 / P, rtol=1e-6)


def test_resumed_is_the_same(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")

    def advance(training: Training, steps: int) -> list[float]:
        values = []
        for _ in range(steps):
            values.append(training.advance())
            if training.progress.step % training.config.every == 0:
                training.validation()
        training.save()
        return values

    whole = Training(SMALL, tmp_path / "whole.safetensors")
    expected = advance(whole, 8)
    part = Training(SMALL, tmp_path / "part.safetensors")
    values = advance(part, 5) + advance(Training.resume(tmp_path / "part.safetensors"), 3)
    assert values == expected
    tensors = [load_safetensors(tmp_path / name)[0] for name in ("whole.safetensors", "part.safetensors")]
    assert all(np.array_equal(tensors[0][name], tensors[1][name]) for name in tensors[0])


def test_command_line(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    done = run(tmp_path, "captions", *FLAGS, "--steps", "7", "--log", "log")
    assert "step 5: training" in done.stderr and "canvases per s" in done.stderr
    assert "test: " in done.stdout and "pyrnn captions show" in done.stdout
    assert [row["step"] for row in losses(tmp_path / "log") if "bits" in row] == list(range(1, 8))
    shown = run(tmp_path, "captions", "show", "--count", "2", "--plot", "regions.png")
    assert len(shown.stdout.splitlines()) == 2
    assert (tmp_path / "regions.png").read_bytes().startswith(b"\x89PNG")
    assert Checkpoint(tmp_path / "captions.safetensors").progress.step == 7


def test_plot_of_nothing(tmp_path: Path) -> None:
    """A model that says nothing yet has a plot too."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    path, images = tmp_path / "regions.png", np.zeros((2, 24, 32), np.float32)
    plot_regions(path, images, np.full((2, 1), END), images[:, None])
    assert path.read_bytes().startswith(b"\x89PNG")


def test_missing_packages_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    monkeypatch.chdir(tmp_path)
    assert cli.main(["captions", "--quiet", "--steps", "1", *FLAGS]) == 0
    capsys.readouterr()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert cli.main(["captions", "show", "--plot", "x.png"]) == 2
    assert "pip install matplotlib" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    for arguments in (["--steps", "1"], ["--resume"], ["show"]):
        assert cli.main(["captions", *arguments]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and 'pip install "pyrnn-kernels[demo]"' in error


def test_forged_checkpoints(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    training = Training(SMALL, tmp_path / "x")
    training.advance()
    training.validation()
    training.save()
    tensors, metadata = load_safetensors(tmp_path / "x")
    content = json.loads(metadata["pyrnn-captions"])
    sizes = ("hidden", "features", "units", "embedding", "height", "width")
    changes = [
        *({"config": {name: 2**31 - 1}} for name in sizes),
        {"config": {"cell": "gru"}},
        {"config": {"mlp": 1}},
        {"progress": {"step": "1"}},
        {"progress": {"step": -1}},
        {"progress": {"best_step": None}},
        {"progress": {"best_bits": "low"}},
        {"progress": {"best_bits": float("nan")}},
    ]
    for change in changes:
        forged = {part: values | change.get(part, {}) for part, values in content.items()}
        save_safetensors(tmp_path / "y", tensors, {"pyrnn-captions": json.dumps(forged)})
        with pytest.raises(ValueError, match="y: "):
            Training.resume(tmp_path / "y")
    for other in ({"head.bias": np.zeros(3, np.float32)}, {"training.params": np.zeros(3, np.float32)}):
        save_safetensors(tmp_path / "y", tensors | other, metadata)
        with pytest.raises(ValueError, match="y: "):
            Training.resume(tmp_path / "y")
    save_safetensors(tmp_path / "y", tensors, {"pyrnn-charlm": metadata["pyrnn-captions"]})
    with pytest.raises(ValueError, match="checkpoint of pyrnn captions"):
        Checkpoint(tmp_path / "y")


def test_interrupted(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    out = interrupted(tmp_path, tmp_path / "log", "captions", *FLAGS, "--steps", "4000", "--log", "log")
    assert "pyrnn captions --resume" in out
    step = Checkpoint(tmp_path / "captions.safetensors").progress.step
    assert losses(tmp_path / "log")[-1]["step"] == step


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--width", "31"], "--width: expected a number from 32, got 31"),
        (["--height", "15"], "--height: expected a number from 16, got 15"),
        (["--height", "4000"], "--height, --width: expected at most 4096 pixels, got 4000 x 32"),
        (["--cell", "mlp"], "--cell: expected one of lstm, gru, rnn, got 'mlp'"),
        (["--checkpoint", "no/x.safetensors"], "expected a folder that can be written to"),
        (["--resume", "--steps", "5"], "--resume takes its options from the checkpoint; leave --steps away"),
        (["--resume"], "captions.safetensors: No such file"),
        (["show", "--count", "0"], "--count: expected a number from 1 to 1000, got 0"),
        (["show", "--count", "41", "--plot", "x.png"], "expected a number from 1 to 40 with --plot, got 41"),
    ],
    ids=str,
)
def test_errors(tmp_path: Path, arguments: list[str], message: str) -> None:
    done = run(tmp_path, "captions", *arguments, code=2)
    assert message in done.stderr and len(done.stderr.splitlines()) == 1


def test_no_checkpoint_of_captions(tmp_path: Path) -> None:
    (tmp_path / "captions.safetensors").write_bytes(b"\0" * 64)
    done = run(tmp_path, "captions", "show", code=2)
    assert len(done.stderr.splitlines()) == 1
