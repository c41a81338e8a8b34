# SPDX-License-Identifier: Apache-2.0
"""The translation: its gradients, its learning, its search, and that it looks where it should."""

import dataclasses
import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pyrnn.examples.config import SCORES, TranslateConfig
from pyrnn.examples.dates import EVERY, ISO_SPANS, TEST, Dates
from pyrnn.examples.pairs import Pair, Symbols
from pyrnn.examples.plots import plot_alignment
from pyrnn.examples.running import exhausted
from pyrnn.examples.translate import Checkpoint, Training, examine
from pyrnn.examples.translation import Batch, TranslationModel
from pyrnn.examples.translator import Translator, by_length, quality
from pyrnn.io import load_safetensors, save_safetensors

SMALL = TranslateConfig(hidden=8, embedding=5, batch=6, steps=12, every=4, seed=3)


@pytest.fixture
def pairs(tmp_path: Path) -> str:
    """A file of words and what they are backwards."""
    rng = np.random.default_rng(0)
    words = ["".join("abcde"[k] for k in rng.integers(0, 5, 1 + n % 7)) for n in range(300)]
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{word}\t{word[::-1]}\n" for word in words), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def dates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Translator, Dates]:
    """A model that has seen 400 batches of dates, some ten seconds' worth."""
    pytest.importorskip("babel", reason="babel is not installed")
    config = TranslateConfig(steps=400, every=400)
    training = Training(config, None, tmp_path_factory.mktemp("dates") / "x")
    first = training.advance()
    while training.progress.step < config.steps:
        last = training.advance()
    assert first > 3 and last < 0.1
    training.validation()
    training.save()
    corpus = training.corpus
    assert isinstance(corpus, Dates)
    return Checkpoint(training.checkpoint).translator(), corpus


def small_batch(rows: list[tuple[int, int]] | None = None) -> Batch:
    """Random numbers of 7 and 6 symbols; lengths of sources and targets."""
    rows = rows or [(5, 3), (1, 4), (7, 1), (3, 6)]
    rng = np.random.default_rng(1)
    source, target = (np.array(a) for a in zip(*rows, strict=True))
    sources, targets = (
        rng.integers(0, symbols, (len(rows), lengths.max()))
        for symbols, lengths in ((7, source), (6, target))
    )
    return Batch(sources, source, targets, target)


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_gradients(cell: str, score: str) -> None:
    """Against central differences of the loss, along random directions of every parameter."""
    config = TranslateConfig(cell=cell, hidden=6, embedding=4, layers=2, score=score)
    model, batch, rng = TranslationModel(7, 6, config, "float64"), small_batch(), np.random.default_rng(0)
    # At first the scores are so small that all weights are alike, and their gradients lost in rounding.
    for a in model.decoder.attention.params.values():
        a *= 3
    model.gradients(batch, start=0)
    found = {name: a.copy() for name, a in model.grads.views.items()}
    step = 1e-5
    for name, a in model.params.views.items():
        kept, direction = a.copy(), rng.normal(size=a.shape)
        losses = []
        for sign in (1, -1):
            a[...] = kept + sign * step * direction
            losses.append(model.gradients(batch, start=0))
        a[...] = kept
        expected = (losses[0] - losses[1]) / (2 * step)
        assert np.sum(found[name] * direction) == pytest.approx(expected, rel=1e-6, abs=1e-10), name
        if score != "none" or not name.startswith("attention."):
            assert np.any(found[name]), name


@pytest.mark.parametrize("score", ["additive", "none"])
def test_examples_do_not_see_each_other_or_the_padding(score: str) -> None:
    rows = [(5, 3), (1, 4), (7, 1), (3, 6)]
    model = TranslationModel(7, 6, dataclasses.replace(SMALL, score=score), "float64")
    batch = small_batch(rows)
    total, count = model.loss(batch, start=0)
    alone = [
        Batch(batch.source[k : k + 1, :n], np.array([n]), batch.target[k : k + 1, :m], np.array([m]))
        for k, (n, m) in enumerate(rows)
    ]
    assert total == pytest.approx(sum(model.loss(part, start=0)[0] for part in alone), rel=1e-12)
    assert count == sum(m for _, m in rows)
    assert model.gradients(batch, start=0) == pytest.approx(total / count, rel=1e-12)
    noisy = batch.source.copy()
    noisy[np.arange(7) >= batch.source_lengths[:, None]] = 6
    assert model.loss(batch._replace(source=noisy), start=0)[0] == total


def test_without_attention_there_is_one_vector_to_look_at() -> None:
    """The encoder's last state, however long the source."""
    batch = small_batch()
    for score, size in (("none", 1), ("additive", 7)):
        model = TranslationModel(7, 6, dataclasses.replace(SMALL, score=score))
        memory, lengths, state = model.encode(batch.source, batch.source_lengths)
        assert memory.shape == (4, size, 8) and lengths.max() == size and state.shape == (4, 8)
    with_attention, without = (
        TranslationModel(7, 6, dataclasses.replace(SMALL, score=score)) for score in ("additive", "none")
    )
    assert with_attention.params.views.keys() == without.params.views.keys()
    y, last = with_attention.encoder(
        with_attention.params.views["source"][batch.source], lengths=[5, 1, 7, 3]
    )
    found = without.encode(batch.source, batch.source_lengths)[0][:, 0]
    np.testing.assert_array_equal(found, np.concatenate((last[0], last[1]), axis=1))
    assert y.shape == (4, 7, 8)


@pytest.mark.parametrize("score", ["additive", "none"])
def test_training_learns(tmp_path: Path, pairs: str, score: str) -> None:
    config = TranslateConfig(hidden=32, embedding=16, batch=16, steps=150, rate=0.01, score=score)
    training = Training(config, pairs, tmp_path / "x")
    losses = [training.advance() for _ in range(config.steps)]
    assert np.mean(losses[:5]) > 2 and np.mean(losses[-5:]) < 1.2
    assert training.translator.bits(training.corpus.validation) < 1.4


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn"])
def test_resumed_training_is_the_same(tmp_path: Path, pairs: str, cell: str) -> None:
    config = dataclasses.replace(SMALL, cell=cell)
    whole = Training(config, pairs, tmp_path / "whole")
    expected = [whole.advance() for _ in range(10)]
    part = Training(config, pairs, tmp_path / "part")
    found = [part.advance() for _ in range(2)]
    part.validation()  # so that the best parameters are not the last
    found += [part.advance() for _ in range(2)]
    part.save()
    rest = Training.resume(tmp_path / "part")
    found += [rest.advance() for _ in range(6)]
    assert found == expected
    np.testing.assert_array_equal(rest.translator.model.params.flat, whole.translator.model.params.flat)
    assert rest.validation() == whole.validation()


def test_best_model_is_kept_and_training_stops(tmp_path: Path, pairs: str) -> None:
    training = Training(dataclasses.replace(SMALL, patience=2), pairs, tmp_path / "x")
    training.advance()
    best, _ = training.validation()
    params = training.translator.model.params.flat
    kept = params.copy()
    params[...] *= 50  # worse than anything
    training.progress.step += 7
    assert training.validation()[0]["validation"] > best["validation"] and not exhausted(training)
    training.progress.step += 1
    assert exhausted(training)
    training.save()
    found = Checkpoint(tmp_path / "x").translator()
    np.testing.assert_array_equal(found.model.params.flat, kept)
    assert found.bits(training.corpus.validation) == best["validation"] == training.progress.best_bits


def test_dates_are_learnt(dates: tuple[Translator, Dates]) -> None:
    """After 400 of the 1000 steps of the default."""
    translator, corpus = dates
    texts, found = examine(translator, corpus)
    assert found.exact > 0.93 and found.bleu is not None and found.bleu > 93
    assert len(texts) == found.examples == len(corpus.test)
    rows = by_length(texts, corpus.test)
    assert sum(part.examples for _, part in rows) == found.examples
    assert sum(part.examples * part.exact for _, part in rows) == pytest.approx(found.examples * found.exact)


def test_each_field_looks_at_the_field_it_comes_from(dates: tuple[Translator, Dates]) -> None:
    """Year, month and day get most of their weight from where they stand, in 9 of 10 dates and on average.

    The bound of the day is lower, as that of a day below 10 writes a zero that stands nowhere.
    """
    translator, corpus = dates
    rng = np.random.default_rng(0)
    days = rng.integers(700_000, 780_000, 400) // EVERY * EVERY + TEST
    drawn = [datetime.date.fromordinal(k) for k in days.tolist()]
    written = [
        corpus.templates[k].write(d)
        for k, d in zip(rng.integers(0, len(corpus.templates), 400), drawn, strict=True)
    ]
    answers = translator.translate([w.text for w in written])
    shares: dict[str, list[float]] = {name: [] for name in ISO_SPANS}
    for date, w, answer in zip(drawn, written, answers, strict=True):
        assert answer.weights.shape == (len(answer.text) + 1, len(w.text) + 1)
        np.testing.assert_allclose(answer.weights.sum(1), 1, atol=1e-5)
        if answer.text == str(date):
            for name, (begin, end) in ISO_SPANS.items():
                low, high = w.spans[name]
                shares[name].append(float(answer.weights[begin:end, low:high].sum(1).mean()))
    assert len(shares["year"]) > 0.93 * 400
    for name, least in (("year", 0.95), ("month", 0.8), ("day", 0.65)):
        assert np.mean(shares[name]) > least, name
        assert np.mean(np.array(shares[name]) > 0.5) > 0.9, name


def test_beam_search_and_batches(dates: tuple[Translator, Dates]) -> None:
    """A beam is never worse than greedy, and better somewhere; neighbours in a batch change nothing."""
    translator, corpus = dates
    texts = [pair.source for pair in corpus.test[:200]]
    # A flat head: what is likeliest at each step is then often not the likeliest text.
    views = translator.model.params.views
    for name in ("head.weight", "head.bias"):
        views[name] /= 8
    try:
        greedy, beam = translator.translate(texts), translator.translate(texts, beam=8)
    finally:
        for name in ("head.weight", "head.bias"):
            views[name] *= 8
    differences = np.array([b.score - g.score for g, b in zip(greedy, beam, strict=True)])
    assert (differences > -1e-4).all() and (differences > 0.01).any()
    for text, answer in zip(texts[:20], translator.translate(texts), strict=False):
        alone = translator.translate([text])[0]
        assert alone.text == answer.text and alone.score == pytest.approx(answer.score, abs=1e-4)


def test_alignment_plot(
    dates: tuple[Translator, Dates], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    answer = dates[0].translate(["3 novembre 2021"])[0]
    assert answer.text == "2021-11-03"
    plot_alignment(tmp_path / "a.png", "3 novembre 2021", answer.text, answer.weights)
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG") and capsys.readouterr().err == ""
    plot_alignment(tmp_path / "b.png", "\U0010fffd", "b", answer.weights[:2, :2])
    assert "b.png: the font lacks 1 of the characters" in capsys.readouterr().err


def test_quality(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair("a" * n, f"the cat number {n} sat on the mat") for n in range(1, 5)]
    texts = [pair.target for pair in pairs]
    assert quality(texts, pairs)[1:] == (1.0, pytest.approx(100))
    texts[1] = texts[1].replace("mat", "dog")
    found = quality(texts, pairs)
    assert found.exact == 0.75 and found.bleu is not None and 80 < found.bleu < 100
    rows = by_length(texts, pairs, bins=2)
    assert [(span, part.examples, part.exact) for span, part in rows] == [((1, 2), 2, 0.5), ((3, 4), 2, 1.0)]
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert quality(texts, pairs).bleu is None and "needs sacrebleu" in str(quality(texts, pairs))


def test_unknown_characters_are_read_and_never_a_match(tmp_path: Path, pairs: str) -> None:
    training = Training(SMALL, pairs, tmp_path / "x")
    batch = training.translator.batch([Pair("aXb", "b\x03a")])
    decoded = Symbols.decode(training.translator.target, batch.target[0])
    assert decoded == "b\ufffda" and training.translator.translate(["日本", ""])[0].text != "日本"


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"cell": "elman"}, "--cell"),
        ({"score": "maximal"}, "--score"),
        ({"hidden": 7}, "--hidden"),
        ({"hidden": 0}, "--hidden"),
        ({"embedding": 0}, "--embedding"),
        ({"dates": 0}, "--dates"),
        ({"rate": float("nan")}, "--rate"),
    ],
    ids=str,
)
def test_configuration_names_the_wrong_option(values: dict[str, Any], option: str) -> None:
    with pytest.raises(ValueError, match=f"^{option}: expected"):
        TranslateConfig(**values)


def test_forged_checkpoints(tmp_path: Path, pairs: str) -> None:
    training = Training(SMALL, pairs, tmp_path / "x")
    training.advance()
    training.save()
    tensors, metadata = load_safetensors(tmp_path / "x")
    content = metadata["pyrnn-translate"]
    changes = [
        ({}, content.replace('"hidden": 8', '"hidden": 100000')),
        ({}, content.replace('"embedding": 5', '"embedding": 100000000')),
        ({}, content.replace('"layers": 1', '"layers": 100000000')),
        ({}, content.replace('"cell": "gru"', '"cell": "lstm"')),
        ({}, content.replace('"score": "additive"', '"score": "general"')),
        ({}, content.replace('"longest": 7', '"longest": -7')),
        ({}, content.replace('"longest": 7', '"longest": 1e9')),
        ({}, content.replace('"step": 1', '"step": "1"')),
        ({}, content.replace('"best_bits": null', '"best_bits": "1"')),
        ({}, content.replace('"source"', '"sauce"')),
        ({}, content.replace('"source": "', '"source": "zyx')),
        ({}, "[]"),
        ({}, "not JSON"),
        ({"head.bias": np.zeros(3, np.float32)}, content),
        ({"training.params": tensors["training.params"].astype(np.float64)}, content),
    ]
    for other, forged in changes:
        assert other or forged != content
        save_safetensors(tmp_path / "y", tensors | other, {"pyrnn-translate": forged})
        with pytest.raises(ValueError, match="y: "):
            Training.resume(tmp_path / "y")
    save_safetensors(tmp_path / "y", tensors, {"pyrnn-charlm": content})
    with pytest.raises(ValueError, match="checkpoint of pyrnn translate"):
        Checkpoint(tmp_path / "y")
    Path(pairs).write_text(Path(pairs).read_text() + "a\tb\n", encoding="utf-8")
    with pytest.raises(ValueError, match="pairs that the checkpoint was trained on"):
        Training.resume(tmp_path / "x")
