# SPDX-License-Identifier: Apache-2.0
"""What the estimators accept as X, as sequences end to end in one array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.utils.validation import check_array, validate_data

from pyrnn.layout import Array


class Sequences:
    """Sequences of different lengths, end to end.

    Parameters
    ----------
    steps : array (S, I)
        All steps of all sequences.
    lengths : integers (n,)
        Their sum is S.

    Attributes
    ----------
    steps, lengths
        As given.
    begins : integers (n,)
        Where each sequence begins.
    """

    def __init__(self, steps: Array, lengths: Any) -> None:
        self.steps, self.lengths = steps, np.asarray(lengths, np.int64)
        self.begins = np.cumsum(self.lengths) - self.lengths

    def __len__(self) -> int:
        return len(self.lengths)

    def standardized(self, mean: Array, scale: Array) -> Sequences:
        """The same in float32, less the mean and divided by the scale of each feature."""
        return Sequences(((self.steps - mean) / scale).astype(np.float32), self.lengths)

    def chosen(self, rows: Array) -> Sequences:
        """Those with the given numbers."""
        parts = [self.steps[b : b + n] for b, n in zip(self.begins[rows], self.lengths[rows], strict=True)]
        return Sequences(np.concatenate(parts), self.lengths[rows])

    def batch(self, rows: Array) -> tuple[Array, Array]:
        """Sequences side by side: x (T, B, I), with anything past the lengths, and the lengths (B,)."""
        lengths = self.lengths[rows]
        step = np.minimum(np.arange(lengths.max())[:, None], lengths - 1)
        return self.steps[self.begins[rows] + step], lengths


def read_sequences(estimator: Any, X: Any, reset: bool) -> Sequences:
    """X in float64; sets (`reset`) or compares the number of features of the estimator.

    Parameters
    ----------
    X : sequence of arrays (T_i, I) or (T_i,), array (n, T, I), or a table (n, T)
        A row of a table is a sequence of T steps of one feature.

    Raises
    ------
    ValueError
        A shape is wrong, a sequence is empty, or a number is not finite.
    """
    listed = listed_sequences(X)
    if listed is None:
        return read_table(estimator, X, reset)
    if len(listed) == 0:
        raise ValueError("X: expected at least one sequence, got none")
    arrays = [read_sequence(f"X[{k}]", a) for k, a in enumerate(listed)]
    inputs = arrays[0].shape[1] if reset else estimator.layer_.input_size
    for k, a in enumerate(arrays):
        if a.shape[1] != inputs:
            raise ValueError(f"X[{k}]: expected shape (T, I) with I = {inputs}, got {a.shape}")
    if reset:
        estimator.n_features_in_, estimator._table = inputs, False
    return Sequences(np.concatenate(arrays), [len(a) for a in arrays])


def listed_sequences(X: Any) -> Sequence[Any] | Array | None:
    """X as something to go through sequence by sequence; None: a table, or nothing that is known."""
    if isinstance(X, np.ndarray):
        several = X.ndim == 3 or (X.ndim == 1 and X.dtype == object)
    else:
        several = isinstance(X, list | tuple)
    if not several:
        return None
    shapes = {np.shape(a) if isinstance(a, np.ndarray) else list_shape(a) for a in X}
    dimensions = {len(shape) for shape in shapes}
    if 2 in dimensions or (dimensions == {1} and len(shapes) > 1):
        found: Sequence[Any] | Array = X
        return found
    return X if isinstance(X, np.ndarray) and X.ndim == 3 else None


def list_shape(a: Any) -> tuple[int, ...]:
    """The shape of nested lists, read off their first elements."""
    if not isinstance(a, list | tuple):
        return np.shape(a) if hasattr(a, "shape") else ()
    return (len(a), *(list_shape(a[0]) if a else ()))


def read_sequence(name: str, a: Any) -> Array:
    """One sequence as float64 (T, I)."""
    array: Array = check_array(
        a, dtype=np.float64, ensure_2d=False, ensure_min_samples=0, ensure_min_features=0, input_name=name
    )
    if array.ndim == 1:
        array = array[:, None]
    if array.ndim != 2 or 0 in array.shape:
        raise ValueError(f"{name}: expected shape (T, I) with at least one step, got {array.shape}")
    return array


def read_table(estimator: Any, X: Any, reset: bool) -> Sequences:
    """Rows of a table (n, T) as sequences of one feature."""
    if reset or estimator._table:
        table = validate_data(estimator, X, reset=reset, dtype=np.float64)
        if reset:
            estimator._table = True
    else:
        table = check_array(X, dtype=np.float64, input_name="X")
    if not reset and estimator.layer_.input_size != 1:
        raise ValueError(
            f"X: expected sequences (T, I) with I = {estimator.layer_.input_size}, "
            f"got a table {table.shape}, whose rows are sequences with I = 1"
        )
    return Sequences(table.reshape(-1, 1), [table.shape[1]] * len(table))
