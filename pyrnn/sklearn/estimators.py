# SPDX-License-Identifier: Apache-2.0
"""SequenceClassifier and SequenceRegressor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.model_selection import train_test_split
from sklearn.utils import assert_all_finite, check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, column_or_1d

import pyrnn
from pyrnn import checks
from pyrnn.blas import blas_threads
from pyrnn.layout import Array
from pyrnn.losses import mean_cross_entropy, mean_squared_error
from pyrnn.sklearn.fitting import Schedule, fit
from pyrnn.sklearn.network import Loss, Network, scores
from pyrnn.sklearn.sequences import Sequences, read_sequences


class SequenceEstimator(BaseEstimator):  # type: ignore[misc,unused-ignore]
    """What both estimators are: recurrent layers, a linear layer over what they keep, trained by Adam."""

    def __init__(
        self,
        cell: str = "lstm",
        hidden_size: int = 64,
        num_layers: int = 1,
        *,
        bidirectional: bool = False,
        pooling: str = "last",
        dropout: float = 0.0,
        recurrent_dropout: float = 0.0,
        standardize: bool = True,
        learning_rate: float = 1e-2,
        batch_size: int = 32,
        max_iter: int = 100,
        gradient_clip: float = 1.0,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.cell = cell
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        self.bidirectional = bidirectional
        self.pooling = pooling
        self.dropout = dropout
        self.recurrent_dropout = recurrent_dropout
        self.standardize = standardize
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.max_iter = max_iter
        self.gradient_clip = gradient_clip
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        return tags

    def _read(self, X: Any, y: Any) -> Sequences:
        """X of a fit, with the sizes of both compared."""
        if y is None:
            raise ValueError(f"{type(self).__name__} requires y to be passed, but the target y is None")
        sequences = read_sequences(self, X, reset=True)
        check_consistent_length(sequences.lengths, y)
        return sequences

    def _schedule(self) -> Schedule:
        """The options of training, checked."""
        return Schedule(
            checks.integer("max_iter", self.max_iter, 1),
            checks.integer("batch_size", self.batch_size, 1),
            checks.finite("learning_rate", self.learning_rate, 0.0),
            checks.finite("gradient_clip", self.gradient_clip, 0.0),
            checks.finite("tol", self.tol, 0.0),
            checks.integer("n_iter_no_change", self.n_iter_no_change, 1),
            bool(self.verbose),
        )

    def _fit(
        self, sequences: Sequences, targets: Array, outputs: int, loss: Loss, stratify: Array | None
    ) -> Self:
        """Train; targets are classes (n,) or numbers (n, O)."""
        schedule = self._schedule()
        pooling = checks.choice("pooling", self.pooling, ("last", "mean"))
        dropout = checks.probability("dropout", self.dropout)
        rng = check_random_state(self.random_state)
        seed = int(rng.randint(2**31 - 1))
        self.mean_, self.scale_ = moments(sequences.steps, checks.flag("standardize", self.standardize))
        inputs = sequences.standardized(self.mean_, self.scale_)
        self.layer_ = pyrnn.Recurrent(
            self.cell,
            sequences.steps.shape[1],
            checks.size("hidden_size", self.hidden_size),
            self.num_layers,
            bidirectional=self.bidirectional,
            dropout=dropout,
            recurrent_dropout=self.recurrent_dropout,
            seed=seed,
        )
        network = Network(self.layer_, outputs, pooling, dropout, seed)
        rows, held_out = np.arange(len(sequences)), None
        if checks.flag("early_stopping", self.early_stopping):
            fraction = checks.finite("validation_fraction", self.validation_fraction)
            if not 0 < fraction < 1:
                raise ValueError(f"validation_fraction: expected a number between 0 and 1, got {fraction}")
            rows, aside = train_test_split(rows, test_size=fraction, random_state=rng, stratify=stratify)
            held_out = self._held_out(network, inputs, targets, loss, aside)
        with blas_threads(1):
            curves = fit(network, inputs, targets, loss, rows, held_out, schedule, rng)
        network.detach()
        self.head_ = dict(network.head())
        self.loss_curve_, self.loss_ = curves.training, curves.training[-1]
        self.validation_loss_curve_ = curves.validation
        self.n_iter_ = len(curves.training)
        return self

    def _held_out(
        self, network: Network, inputs: Sequences, targets: Array, loss: Loss, aside: Array
    ) -> Callable[[], float]:
        """The mean loss of the sequences with the numbers `aside`, as the network is when it is asked."""
        held = inputs.chosen(aside)

        def held_out() -> float:
            found = scores(network.layer, network.pooling, network.head(), held, self.batch_size)
            return loss(found, targets[aside])[0]

        return held_out

    def _scores(self, X: Any) -> Array:
        """float64 (n, O)."""
        check_is_fitted(self)
        inputs = read_sequences(self, X, reset=False).standardized(self.mean_, self.scale_)
        return scores(self.layer_, self.pooling, self.head_, inputs, self.batch_size)


DOCUMENTATION = """

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    hidden_size, num_layers : int
        H, and how many layers.
    bidirectional : bool
        Whether a second set of cells reads each sequence from its end.
    pooling : {"last", "mean"}
        What the linear layer reads: h after the last step, or the mean of the outputs of all steps.
    dropout : float
        In training, the probability of zeroing an output of every layer, and of what the linear layer reads.
    recurrent_dropout : float
        Probability of zeroing a unit of the h that the recurrent product reads, in training.
    standardize : bool
        Whether each feature is brought to mean 0 and variance 1 over all steps of the training sequences.
    learning_rate : float
        Adam's.
    batch_size : int
    max_iter : int
        Most epochs.
    gradient_clip : float
        The gradient's norm is limited to this; 0 leaves it.
    tol, n_iter_no_change : float, int
        Training ends after so many epochs in a row that bring the loss no lower by `tol`.
    early_stopping : bool
        Whether that is the loss of sequences held out; the parameters that were best on them are kept then.
    validation_fraction : float
        How many are held out.
    random_state : int, RandomState or None
        Of the initial parameters, the batches, the masks and what is held out; the same number gives the same
        estimator, bit for bit, whatever the number of threads.
    verbose : bool
        A progress bar (tqdm's, or plain lines without it).

    Attributes
    ----------
    layer_ : pyrnn.Recurrent
    head_ : dict of arrays
        `weight` (O, H·directions) and `bias` (O,) of the linear layer.
    mean_, scale_ : arrays (I,)
        Of the features.
    n_iter_ : int
        Epochs.
    loss_, loss_curve_, validation_loss_curve_ : float, lists of float
        Mean loss of the last epoch, and of each.
    n_features_in_ : int
        I; of a table, T.
"""


class SequenceClassifier(ClassifierMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    __doc__ = f"""One class for each sequence, by recurrent layers and a softmax.{DOCUMENTATION}
    classes_ : array (K,)

    Raises
    ------
    ValueError, TypeError
        From `fit`: an option, a shape or a value is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.sklearn import SequenceClassifier
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(length, 1)).cumsum(0) for length in range(5, 45)]
    >>> y = ["up" if x[-1, 0] > x[0, 0] else "down" for x in X]
    >>> SequenceClassifier(hidden_size=16, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def fit(self, X: Any, y: Any) -> Self:
        """Train from new parameters on.

        Parameters
        ----------
        X : sequence of arrays (T_i, I), array (n, T, I), or table (n, T)
            A row of a table is a sequence of T steps of one feature.
        y : labels (n,)

        Returns
        -------
        SequenceClassifier
            Itself.
        """
        sequences = self._read(X, y)
        labels = column_or_1d(y, warn=True)
        assert_all_finite(labels, input_name="y")
        check_classification_targets(labels)
        self.classes_, targets = np.unique(labels, return_inverse=True)
        return self._fit(sequences, targets, len(self.classes_), mean_cross_entropy, targets)

    def predict_proba(self, X: Any) -> Array:
        """Probabilities of the classes, in the order of `classes_`: float64 (n, K); X as in `fit`."""
        found = self._scores(X)
        found -= found.max(1, keepdims=True)
        np.exp(found, out=found)
        found /= found.sum(1, keepdims=True)
        return found

    def predict(self, X: Any) -> Array:
        """The most probable class of each sequence: labels (n,); X as in `fit`."""
        best = self._scores(X).argmax(1)
        labels: Array = self.classes_[best]
        return labels


class SequenceRegressor(RegressorMixin, SequenceEstimator):  # type: ignore[misc,unused-ignore]
    __doc__ = f"""One number or several for each sequence, by recurrent layers and a linear layer.

    The loss is the mean squared error; `standardize` standardizes the targets as well.{DOCUMENTATION}
    target_mean_, target_scale_ : arrays (O,)

    Raises
    ------
    ValueError, TypeError
        From `fit`: an option, a shape or a value is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.sklearn import SequenceRegressor
    >>> rng = np.random.default_rng(0)
    >>> X = [rng.normal(size=(length, 2)) for length in range(5, 45)]
    >>> y = [x[-1, 0] for x in X]
    >>> SequenceRegressor("gru", 16, random_state=0).fit(X, y).score(X, y) > 0.9
    True
    """

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> Self:
        """Train from new parameters on.

        Parameters
        ----------
        X : sequence of arrays (T_i, I), array (n, T, I), or table (n, T)
            A row of a table is a sequence of T steps of one feature.
        y : numbers (n,) or (n, O)

        Returns
        -------
        SequenceRegressor
            Itself.
        """
        sequences = self._read(X, y)
        numbers = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y")
        targets = numbers.reshape(len(numbers), -1)
        self.target_mean_, self.target_scale_ = moments(targets, self.standardize)
        self._flat = numbers.ndim == 1
        standard = ((targets - self.target_mean_) / self.target_scale_).astype(np.float32)
        return self._fit(sequences, standard, targets.shape[1], mean_squared_error, None)

    def predict(self, X: Any) -> Array:
        """Numbers (n,), or (n, O) where `fit` was given such; X as in `fit`."""
        found = self._scores(X) * self.target_scale_ + self.target_mean_
        return found[:, 0] if self._flat else found


def moments(a: Array, wanted: bool) -> tuple[Array, Array]:
    """Mean and standard deviation of the columns, 1 for those that do not vary; 0 and 1 unless `wanted`."""
    if not wanted:
        return np.zeros(a.shape[1]), np.ones(a.shape[1])
    deviation = a.std(0)
    return a.mean(0), np.where(deviation > 0, deviation, 1.0)
