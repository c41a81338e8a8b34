# SPDX-License-Identifier: Apache-2.0
"""The first test to read: an LSTM against four lines of NumPy."""

import numpy as np

import pyrnn


def test_lstm():
    layer = pyrnn.LSTM(3, 5, dtype="float64", seed=0)
    w, r, b_x, b_h = (layer.params[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    x = np.random.default_rng(0).normal(size=(7, 2, 3))
    y, (h_last, c_last) = layer(x)
    h = c = np.zeros((2, 5))
    for t in range(7):
        i, f, g, o = np.split(x[t] @ w.T + b_x + h @ r.T + b_h, 4, axis=1)
        c = c / (1 + np.exp(-f)) + np.tanh(g) / (1 + np.exp(-i))
        h = np.tanh(c) / (1 + np.exp(-o))
        np.testing.assert_allclose(y[t], h, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose((h_last[0], c_last[0]), (h, c), rtol=1e-12, atol=1e-14)
