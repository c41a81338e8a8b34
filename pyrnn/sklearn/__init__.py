# SPDX-License-Identifier: Apache-2.0
"""Recurrent networks as scikit-learn estimators: a label or numbers for each sequence, of any lengths."""

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError('pyrnn.sklearn needs scikit-learn: pip install "pyrnn-kernels[sklearn]"') from error

from pyrnn.sklearn.estimators import SequenceClassifier, SequenceRegressor

__all__ = ["SequenceClassifier", "SequenceRegressor"]
