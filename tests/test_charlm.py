# SPDX-License-Identifier: Apache-2.0
"""The character model: its gradients, its learning against PyTorch's, and what goes on around them."""

import dataclasses
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pyrnn
from pyrnn.blas import blas_threads
from pyrnn.examples.charlm import Training
from pyrnn.examples.charmodel import CharModel, scatter_rows
from pyrnn.examples.checkpoint import Checkpoint
from pyrnn.examples.config import Config
from pyrnn.examples.running import scheduled
from pyrnn.examples.sampling import draw, sample
from pyrnn.examples.text import Alphabet, Windows, default_text, read_text, split
from pyrnn.io import load_safetensors, save_safetensors
from pyrnn.losses import cross_entropy
from pyrnn.optim import ALIGNMENT, CHUNK, Adam, FlatBuffer

SMALL = Config(hidden=16, embedding=8, layers=2, dropout=0.0, batch=4, length=12, steps=12, every=4, seed=3)
TEXT = "It is a truth universally acknowledged; but only to four decimal places.\n" * 12


@pytest.fixture
def text(tmp_path: Path) -> str:
    path = tmp_path / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def float64_model(config: Config, vocabulary: int) -> CharModel:
    """A model whose numbers are all float64, to check its gradients by differences."""
    model = CharModel(vocabulary, config)
    model.layer = pyrnn.Recurrent(
        model.layer.cell, model.layer.input_size, config.hidden, config.layers, dtype="float64"
    )
    for buffer in (model.params, model.grads):
        buffer.flat = buffer.flat.astype(np.float64)
        buffer.views = buffer.views_of(buffer.flat)
    for name in model.layer.params:
        model.layer.params[name] = model.params.views[f"layer.{name}"]
    return model


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
@pytest.mark.parametrize("embedding", [0, 3])
def test_gradients(cell: str, embedding: int) -> None:
    """Against central differences of the loss, along random directions of every parameter."""
    model = float64_model(Config(cell=cell, hidden=5, layers=2, embedding=embedding, dropout=0.0), 7)
    rng = np.random.default_rng(0)
    ids, targets = rng.integers(0, 7, (2, 6, 3))
    shape = (2, 3, 5)
    state: Any = rng.normal(size=shape) if cell != "lstm" else tuple(rng.normal(size=(2, *shape)))
    model.gradients(ids, targets, state)
    found = {name: a.copy() for name, a in model.grads.views.items()}
    assert len(found) == len(model.layer.params) + 2 + (embedding > 0)
    step = 1e-5
    for name, a in model.params.views.items():
        kept, direction = a.copy(), rng.normal(size=a.shape)
        a[...] = kept + step * direction
        above = model.gradients(ids, targets, state)[0]
        a[...] = kept - step * direction
        below = model.gradients(ids, targets, state)[0]
        a[...] = kept
        expected = (above - below) / (2 * step)
        assert np.sum(found[name] * direction) == pytest.approx(expected, rel=1e-7, abs=1e-10)


def torch_losses(training: Training, steps: int) -> list[float]:
    """Bits per character of every step of the same model, data, clipping and schedule in PyTorch."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    torch.set_num_threads(1)  # its threads and ours would wait for each other on small machines
    config, views = training.config, training.model.params.views
    classes = {"lstm": torch.nn.LSTM, "gru": torch.nn.GRU, "rnn": torch.nn.RNN}
    vocabulary = len(training.alphabet)
    layer = classes[config.cell](config.embedding or vocabulary, config.hidden, config.layers)
    head = torch.nn.Linear(config.hidden, vocabulary)
    parameters = {f"layer.{name}": p for name, p in layer.named_parameters()}
    parameters |= {"head.weight": head.weight, "head.bias": head.bias}
    if config.embedding:
        table = torch.nn.Embedding(vocabulary, config.embedding)
        parameters["embedding"] = table.weight
    assert parameters.keys() == views.keys()
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(torch.from_numpy(views[name].copy()))
    adam = torch.optim.Adam(list(parameters.values()))
    losses, state = [], None
    for step in range(steps):
        ids, targets = (torch.from_numpy(np.ascontiguousarray(a)) for a in training.windows[step])
        x = table(ids) if config.embedding else torch.nn.functional.one_hot(ids, vocabulary).float()
        y, state = layer(x, state)
        state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
        loss = torch.nn.functional.cross_entropy(head(y).flatten(0, 1), targets.flatten())
        adam.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(list(parameters.values()), config.clip)
        adam.param_groups[0]["lr"] = scheduled(training.config.rate, step, training.config.steps)
        adam.step()
        losses.append(loss.item() / math.log(2))
    return losses


@pytest.mark.parametrize(("cell", "embedding"), [("lstm", 16), ("lstm", 0), ("gru", 16), ("rnn", 16)])
def test_learns_as_pytorch_does(tmp_path: Path, cell: str, embedding: int) -> None:
    """Same weights and data: within 1e-3 bits in each of the first 50 steps, and 0.02 at the end of 120."""
    sizes = {"hidden": 48, "layers": 2, "embedding": embedding, "batch": 8, "length": 24}
    config = Config(cell=cell, **sizes, dropout=0.0, steps=120, rate=4e-3)
    training = Training(config, None, tmp_path / "x")
    theirs = torch_losses(training, config.steps)
    ours = [training.advance() for _ in range(config.steps)]
    assert ours[0] > 6 and ours[-1] < 4.8, "nothing was learnt"
    np.testing.assert_allclose(ours[:50], theirs[:50], rtol=0, atol=1e-3)
    assert abs(np.mean(ours[-10:]) - np.mean(theirs[-10:])) < 0.02


def test_adam_and_clipping_agree_with_pytorch() -> None:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    rng = np.random.default_rng(0)
    params = rng.normal(size=2 * CHUNK + 5).astype(np.float32)
    theirs = torch.from_numpy(params.copy()).requires_grad_()
    ours, adam, peer = params.copy(), Adam(params.size), torch.optim.Adam([theirs], lr=0.01)
    for scale in (1e-4, 10.0, 1.0, 0.0):
        gradient = (scale * rng.normal(size=params.size)).astype(np.float32)
        theirs.grad = torch.from_numpy(gradient.copy())
        expected = torch.nn.utils.clip_grad_norm_([theirs], 1.0)
        peer.step()
        assert adam.step(ours, gradient, 0.01, clip=1.0) == pytest.approx(float(expected), rel=1e-5)
        np.testing.assert_allclose(ours, theirs.detach().numpy(), rtol=1e-5, atol=1e-6)
    before = ours.copy()
    with pytest.raises(ArithmeticError, match="norm"):
        adam.step(ours, np.full(params.size, np.nan, np.float32), 0.01)
    np.testing.assert_array_equal(ours, before)


def test_flat_buffer() -> None:
    buffer = FlatBuffer({"a": (3, 5), "b": (), "c": (40,), "d": (0, 2)})
    for k, a in enumerate(buffer.views.values()):
        assert a.ctypes.data % (4 * ALIGNMENT) == 0 and np.may_share_memory(a, buffer.flat) == (a.size > 0)
        a[...] = k + 1
    assert {name: a.shape for name, a in buffer.views.items()} == {
        "a": (3, 5),
        "b": (),
        "c": (40,),
        "d": (0, 2),
    }
    assert buffer.flat.sum() == 15 * 1 + 2 + 40 * 3


def test_cross_entropy_and_scatter_rows() -> None:
    rng = np.random.default_rng(0)
    scores = np.array([[1000.0, 0, -1000], [0, 0, 0]], np.float32)
    p, losses = cross_entropy(scores, np.array([0, 2]))
    np.testing.assert_allclose(p, [[1, 0, 0], [1 / 3] * 3], rtol=1e-6)
    np.testing.assert_allclose(losses, [0, np.log(3)], rtol=1e-6)
    ids, rows = rng.integers(0, 4, 50), rng.normal(size=(50, 3))
    found, expected = np.full((9, 3), np.nan), np.zeros((9, 3))
    scatter_rows(found, ids, rows)
    np.add.at(expected, ids, rows)
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_default_text_is_about_465_kilobytes_of_english() -> None:
    content = default_text()
    assert 300_000 < len(content) < 900_000  # 465 048 in CPython 3.11; later versions have more
    assert content == read_text(None) and content.count(" the ") > 1000


def test_alphabet_split_and_windows(tmp_path: Path) -> None:
    alphabet = Alphabet("hello, wörld ✓ 𝄞")
    ids = alphabet.encode("✓ hello 𝄞 wörld")
    assert alphabet.decode(ids) == "✓ hello 𝄞 wörld" and ids.max() == len(alphabet) - 1
    for unknown in ("z", "!", "\U0010ffff"):
        with pytest.raises(ValueError, match="got"):
            alphabet.encode("hello" + unknown)
    assert [len(part) for part in split(np.arange(1005))] == [905, 100]

    windows = Windows(np.arange(100), 3, 7)
    for step in (0, 1, 50):
        x, target = windows[step]
        assert x.shape == target.shape == (7, 3)
        np.testing.assert_array_equal(target, (x + 1) % 100)
        np.testing.assert_array_equal(windows[step + 1][0][0], target[-1])  # the state goes on where it was
    with pytest.raises(ValueError, match="at least 8 characters, got 7"):
        Windows(np.arange(7), 3, 7)
    (tmp_path / "latin").write_bytes("é".encode("latin-1"))
    with pytest.raises(ValueError, match="latin: expected UTF-8"):
        read_text(tmp_path / "latin")


def test_bits_per_character() -> None:
    model = CharModel(5, SMALL)
    model.params.flat[...] = 0
    ids = np.arange(1003) % 5
    assert model.bits_per_character(ids) == pytest.approx(np.log2(5))
    model = CharModel(5, dataclasses.replace(SMALL, seed=8))
    whole = model.bits_per_character(ids[:1000], rows=1, length=999)
    assert model.bits_per_character(ids[:1000], rows=1, length=64) == pytest.approx(whole, rel=1e-6)
    with pytest.raises(ValueError, match="at least 2 characters"):
        model.bits_per_character(ids[:1])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_resumed_training_is_the_same(tmp_path: Path, text: str, cell: str) -> None:
    """Dropout, optimiser, state and schedule all go on where they were, bit for bit."""
    config = dataclasses.replace(SMALL, cell=cell, dropout=0.3)
    whole = Training(config, text, tmp_path / "whole")
    expected = [whole.advance() for _ in range(10)]
    part = Training(config, text, tmp_path / "part")
    found = [part.advance() for _ in range(4)]
    part.save()
    rest = Training.resume(tmp_path / "part")
    found += [rest.advance() for _ in range(6)]
    assert found == expected
    np.testing.assert_array_equal(rest.model.params.flat, whole.model.params.flat)
    assert rest.validate() == whole.validate()


def test_best_model_is_kept_and_training_stops(tmp_path: Path, text: str) -> None:
    training = Training(dataclasses.replace(SMALL, patience=2), text, tmp_path / "x")
    training.advance()
    best = training.validate()
    kept = training.model.params.flat.copy()
    training.model.params.flat[...] *= 50  # worse than anything
    training.progress.step += 7
    assert training.validate() > best and not training.exhausted()
    training.progress.step += 1
    assert training.exhausted()
    training.save()
    found = Checkpoint(tmp_path / "x").model()
    np.testing.assert_array_equal(found.params.flat, kept)
    assert found.bits_per_character(training.held_out) == best


def test_schedule(tmp_path: Path, text: str) -> None:
    training = Training(dataclasses.replace(SMALL, steps=200, rate=1.0), text, tmp_path / "x")
    rates = [scheduled(training.config.rate, step, training.config.steps) for step in range(200)]
    assert 0 < rates[0] < 0.1 and max(rates) > 0.98 and 0 < rates[-1] < 1e-3
    assert np.argmax(rates) < 20 and (np.diff(rates[20:]) < 0).all()


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"cell": "elman"}, "--cell"),
        ({"hidden": 0}, "--hidden"),
        ({"hidden": 2.0}, "--hidden"),
        ({"steps": True}, "--steps"),
        ({"embedding": -1}, "--embedding"),
        ({"dropout": 1.0}, "--dropout"),
        ({"rate": float("nan")}, "--rate"),
        ({"rate": float("inf")}, "--rate"),
        ({"clip": "1"}, "--clip"),
        ({"seed": -1}, "--seed"),
    ],
    ids=str,
)
def test_configuration_names_the_wrong_option(values: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option}: expected"):
        Config(**values)


def test_forged_checkpoints(tmp_path: Path, text: str) -> None:
    training = Training(SMALL, text, tmp_path / "x")
    training.advance()
    training.save()
    tensors, metadata = load_safetensors(tmp_path / "x")
    content = metadata["pyrnn-charlm"]
    changes = [
        ({}, content.replace('"hidden": 16', '"hidden": 100000')),
        ({}, content.replace('"layers": 2', '"layers": 100000')),
        ({}, content.replace('"layers": 2', '"layers": "2"')),
        ({}, content.replace('"cell": "lstm"', '"cell": "gru"')),
        ({}, content.replace('"cell"', '"sell"')),
        ({}, content.replace('"step": 1', '"step": "1"')),
        ({}, content.replace('"best_bits": null', '"best_bits": "1"')),
        ({}, content.replace('"Philox"', '"MT19937"')),
        ({}, content.replace('"buffer_pos": ', '"buffer_pos": "x", "y": ')),
        ({}, "{}"),
        ({}, "[]"),
        ({}, "not JSON"),
        ({"head.bias": np.zeros(3, np.float32)}, content),
        ({"training.params": tensors["training.params"].astype(np.float64)}, content),
        ({"training.state.0": np.zeros((2, 5, 16), np.float32)}, content),
    ]
    for other, forged in changes:
        assert other or forged != content
        save_safetensors(tmp_path / "y", tensors | other, {"pyrnn-charlm": forged})
        with pytest.raises(ValueError, match="y: "):
            Training.resume(tmp_path / "y")
    save_safetensors(tmp_path / "y", tensors)
    with pytest.raises(ValueError, match="checkpoint of pyrnn charlm"):
        Checkpoint(tmp_path / "y")
    Path(text).write_text(TEXT + "more", encoding="utf-8")
    with pytest.raises(ValueError, match="text that the checkpoint was trained on"):
        Training.resume(tmp_path / "x")


def test_sampling() -> None:
    alphabet = Alphabet("abc\n")
    model = CharModel(4, SMALL)
    first, again, other = (
        "".join(c for _, c in zip(range(60), sample(model, alphabet, "ab", 1.0, seed), strict=False))
        for seed in (1, 1, 2)
    )
    assert first == again != other and set(first) <= set("abc\n")

    # The stream's steps are the layer's: the likeliest continuation by whole sequences is the same.
    text = "ab"
    for character, _ in zip(sample(model, alphabet, "ab", 0.0), range(8), strict=False):
        y, _ = model.layer(model.inputs(alphabet.encode(text))[:, None])
        assert character == alphabet.characters[int(model.logits(y[-1, 0]).argmax())]
        text += character
    with pytest.raises(ValueError, match="--prime"):
        sample(model, alphabet, "x")
    with pytest.raises(ValueError, match="--temperature"):
        sample(model, alphabet, temperature=-1)


def test_draws_follow_the_distribution() -> None:
    rng = np.random.default_rng(0)
    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    counts = np.bincount([draw(logits, 1.0, rng) for _ in range(4000)], minlength=3)
    np.testing.assert_allclose(counts / 4000, [0.5, 0.3, 0.2], atol=0.03)  # four standard deviations
    assert {draw(logits, 0.01, rng) for _ in range(100)} == {0} and draw(logits, 0.0, rng) == 0


def test_blas_threads_are_given_back() -> None:
    threadpoolctl = pytest.importorskip("threadpoolctl", reason="threadpoolctl is not installed")

    def threads() -> list[int]:
        return [pool["num_threads"] for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]

    before = threads()
    with blas_threads(1):
        assert set(threads()) <= {1}
    assert threads() == before


def test_without_threadpoolctl(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "threadpoolctl", None)
    with blas_threads(1):
        pass
