# SPDX-License-Identifier: Apache-2.0
"""The estimators for scikit-learn: on tables its own checks, on sequences what those do not reach."""

import pickle
import sys

import numpy as np
import pytest

import pyrnn
from pyrnn.losses import mean_cross_entropy, mean_squared_error

pytest.importorskip("sklearn", reason="scikit-learn is not installed")

from sklearn.base import clone
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from pyrnn.sklearn import SequenceClassifier, SequenceRegressor
from pyrnn.sklearn.network import Network
from pyrnn.sklearn.sequences import Sequences

SMALL = {"hidden_size": 8, "learning_rate": 0.03, "random_state": 0}


@pytest.fixture(autouse=True)
def _one_thread(threads):
    """Sequences as short as these gain nothing by more."""
    threads(1)


@pytest.fixture(scope="module")
def walks():
    """Random walks of two features and 3 to 20 steps, and whether the first one rose."""
    rng = np.random.default_rng(0)
    X = [rng.normal(size=(length, 2)).cumsum(0) for length in rng.integers(3, 21, 120)]
    return X, np.array(["up" if x[-1, 0] > 0 else "down" for x in X])


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")  # array API: it asks for a variable
@pytest.mark.parametrize("estimator", [SequenceClassifier, SequenceRegressor])
def test_checks_of_scikit_learn(estimator):
    check_estimator(estimator(hidden_size=16, batch_size=16, learning_rate=0.03))


def test_classes_of_sequences(walks, threads):
    """Learnt, the same for every number of threads, and no sequence depends on its company."""
    X, y = walks
    model = SequenceClassifier(**SMALL).fit(X[:80], y[:80])
    assert model.score(X[80:], y[80:]) > 0.85 and model.n_features_in_ == 2
    p = model.predict_proba(X)
    np.testing.assert_allclose(p.sum(1), 1)
    np.testing.assert_array_equal(model.classes_[p.argmax(1)], model.predict(X))
    for k in (0, 7):
        np.testing.assert_allclose(model.predict_proba([X[k]])[0], p[k], rtol=1e-12)
    threads(2)
    np.testing.assert_array_equal(SequenceClassifier(**SMALL).fit(X[:80], y[:80]).predict_proba(X), p)
    other = SequenceClassifier(**SMALL | {"random_state": 1}).fit(X[:80], y[:80])
    assert not np.array_equal(other.predict_proba(X), p)


def test_numbers_of_sequences():
    """Two targets, read off the first step and the last."""
    rng = np.random.default_rng(1)
    X = [rng.normal(size=(length, 2)) for length in rng.integers(1, 9, 150)]
    y = np.array([[100 + x[0, 0], 3 * x[-1, 1]] for x in X])
    model = SequenceRegressor("gru", **SMALL).fit(X[:120], y[:120])
    assert model.predict(X[120:]).shape == (30, 2)
    assert model.score(X[120:], y[120:]) > 0.9
    alone = SequenceRegressor("gru", **SMALL | {"max_iter": 2}).fit(X, y[:, 0])
    assert alone.predict(X).shape == (150,)


@pytest.mark.parametrize(
    ("cell", "bidirectional", "pooling", "loss"),
    [
        ("lstm", False, "last", mean_cross_entropy),
        ("gru", True, "last", mean_squared_error),
        ("lstm", True, "mean", mean_cross_entropy),
    ],
)
def test_gradients(cell, bidirectional, pooling, loss):
    """Against central differences, in float64."""
    rng = np.random.default_rng(2)
    layer = pyrnn.Recurrent(cell, 3, 4, 2, bidirectional=bidirectional, dtype="float64", seed=3)
    network = Network(layer, 2, pooling, 0.0, 4)
    sequences = Sequences(rng.normal(size=(12, 3)), [5, 1, 4, 2])
    x, lengths = sequences.batch(np.array([3, 0, 2]))
    targets = np.array([1, 0, 1]) if loss is mean_cross_entropy else rng.normal(size=(3, 2))
    network.gradients(x, lengths, targets, loss)
    found = network.grads.flat.copy()
    for k in rng.permutation(np.flatnonzero(found))[:60]:
        before, losses = network.params.flat[k], []
        for step in (1e-6, -1e-6):
            network.params.flat[k] = before + step
            losses.append(network.gradients(x, lengths, targets, loss))
        network.params.flat[k] = before
        assert (losses[0] - losses[1]) / 2e-6 == pytest.approx(found[k], rel=1e-6, abs=1e-8)


def test_early_stopping_keeps_the_best(walks):
    X, y = walks
    rng = np.random.default_rng(3)
    noisy = np.where(rng.random(len(y)) < 0.4, "down", y)
    options = SMALL | {"early_stopping": True, "validation_fraction": 0.3, "n_iter_no_change": 4}
    model = SequenceClassifier(**options).fit(X, noisy)
    curve = model.validation_loss_curve_
    assert model.n_iter_ == len(curve) == len(model.loss_curve_) < 100
    assert np.argmin(curve) < len(curve) - 1
    # As many epochs as there were up to the best one leave the same parameters.
    shorter = clone(model).set_params(max_iter=1 + int(np.argmin(curve))).fit(X, noisy)
    np.testing.assert_array_equal(shorter.predict_proba(X), model.predict_proba(X))


def test_pickle_clone_pipeline_and_search(walks):
    X, y = walks
    model = SequenceClassifier(**SMALL | {"max_iter": 3}).fit(X, y)
    again = pickle.loads(pickle.dumps(model))
    np.testing.assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert clone(model).get_params() == model.get_params()
    halves = FunctionTransformer(lambda X: [x[::2] for x in X])
    pipeline = make_pipeline(halves, SequenceClassifier(**SMALL | {"max_iter": 5}))
    search = GridSearchCV(pipeline, {"sequenceclassifier__cell": ["gru", "rnn_tanh"]}, cv=2).fit(X, y)
    assert search.score(X, y) > 0.7


def test_forms_of_the_same_sequences():
    rng = np.random.default_rng(4)
    table, y = rng.normal(size=(20, 6)), np.arange(20) % 2
    model = SequenceClassifier(**SMALL | {"max_iter": 3}).fit(table, y)
    expected = model.predict_proba(table)
    objects = np.empty(20, object)
    objects[:] = [row[:, None] for row in table]
    for form in (table.tolist(), list(table), table[:, :, None], list(table[:, :, None]), objects):
        np.testing.assert_array_equal(model.predict_proba(form), expected)
        np.testing.assert_array_equal(clone(model).fit(form, y).predict_proba(table), expected)
    assert model.predict([row[: 1 + k % 6] for k, row in enumerate(table)]).shape == (20,)


@pytest.mark.parametrize(
    ("X", "y", "options", "message"),
    [
        ([np.ones((3, 2)), np.ones((3, 1))], [0, 1], {}, r"X\[1\]: expected shape \(T, I\) with I = 2"),
        ([np.ones((3, 2)), np.ones((0, 2))], [0, 1], {}, r"X\[1\]: .* at least one step, got \(0, 2\)"),
        ([np.ones((3, 2)), np.full((2, 2), np.nan)], [0, 1], {}, r"X\[1\] contains NaN"),
        (np.ones((0, 2, 2)), [], {}, "X: expected at least one sequence"),
        ([np.ones((3, 2))], [0, 1], {}, "inconsistent numbers of samples"),
        ([np.ones((3, 2))] * 2, [0, 1], {"pooling": "max"}, "pooling: expected 'last' or 'mean'"),
        ([np.ones((3, 2))] * 2, [0, 1], {"max_iter": 0}, "max_iter: expected an integer of at least 1"),
        ([np.ones((3, 2))] * 2, [0, 1], {"cell": "elman"}, "cell: expected one of"),
        (
            [np.ones((3, 2))] * 4,
            [0, 1] * 2,
            {"early_stopping": True, "validation_fraction": 1.0},
            "validation_fraction: expected a number between 0 and 1",
        ),
        (
            [np.ones((3, 2)), -np.ones((2, 2))],
            [0, 1],
            {"learning_rate": 1e38},
            "expected a lower one",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_errors(X, y, options, message):
    with pytest.raises(ValueError, match=message):
        SequenceClassifier(**SMALL | options).fit(X, y)


@pytest.mark.parametrize("sizes", [(4, 3), (4, 4)])
def test_layers_are_of_one_size(sizes):
    model = SequenceClassifier(**SMALL | {"hidden_size": sizes, "num_layers": 2})
    with pytest.raises(TypeError, match=r"^hidden_size: expected an integer, got tuple"):
        model.fit([np.ones((3, 2))] * 2, [0, 1])


def test_wrong_sequences_to_predict(walks):
    X, y = walks
    model = SequenceClassifier(**SMALL | {"max_iter": 1}).fit(X, y)
    with pytest.raises(ValueError, match=r"X\[0\]: expected shape \(T, I\) with I = 2, got \(4, 3\)"):
        model.predict([np.ones((4, 3))])
    with pytest.raises(ValueError, match="got a table"):
        model.predict(np.ones((4, 3)))


@pytest.mark.parametrize("bar", [True, False])
def test_progress(walks, bar, monkeypatch, capsys):
    if bar:
        pytest.importorskip("tqdm", reason="tqdm is not installed")
    else:
        monkeypatch.setitem(sys.modules, "tqdm", None)
    X, y = walks
    SequenceClassifier(**SMALL | {"max_iter": 2, "verbose": True}).fit(X, y)
    out, err = capsys.readouterr()
    assert not out and "loss" in err and ("2/2" if bar else "epoch 2") in err


def test_without_scikit_learn(monkeypatch):
    for name in [name for name in sys.modules if name.startswith("pyrnn.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "sklearn", None)
    with pytest.raises(ImportError, match=r"pyrnn\.sklearn needs scikit-learn: pip install"):
        import pyrnn.sklearn  # noqa: F401


def test_japanese_vowels(threads):
    """Nine speakers told apart by 7 to 29 steps of 12 features: 96 % of the 370 sequences held out."""
    datasets = pytest.importorskip("aeon.datasets", reason="aeon, which brings the data, is not installed")
    train, test = (
        datasets.load_classification("JapaneseVowels", split=split, load_equal_length=False)
        for split in ("train", "test")
    )
    threads(2)
    accuracies = []
    for seed in range(3):
        model = SequenceClassifier(bidirectional=True, pooling="mean", dropout=0.5, random_state=seed)
        model.fit([x.T for x in train[0]], train[1])
        accuracies.append(model.score([x.T for x in test[0]], test[1]))
    assert np.mean(accuracies) >= 0.96
