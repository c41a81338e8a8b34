# SPDX-License-Identifier: Apache-2.0
"""Layers that read in reverse alone: the same as a forward layer on each sequence turned round."""

import numpy as np
import pytest
from tolerances import FLOAT64, max_error

import pyrnn

LENGTHS = [6, 3, 0, 1]


def turned(a: np.ndarray) -> np.ndarray:
    """Every sequence of (T, B, …) from its last valid step to its first, the rest as it is."""
    a = a.copy()
    for b, length in enumerate(LENGTHS):
        a[:length, b] = a[:length, b][::-1].copy()
    return a


@pytest.mark.parametrize(
    ("cell", "options"),
    [("lstm", {"num_layers": 2}), ("gru_reset_before", {}), ("lstm", {"proj_size": 3, "layer_norm": True})],
)
def test_forward_on_sequences_turned_round(cell: str, options: dict) -> None:
    forward = pyrnn.Recurrent(cell, 3, 5, dtype="float64", seed=0, **options)
    reverse = pyrnn.Recurrent(cell, 3, 5, dtype="float64", seed=0, reverse=True, **options)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(6, 4, 3))
    for b, length in enumerate(LENGTHS):
        x[length:, b] = np.nan
    expected, final, saved = forward.forward(turned(x), lengths=LENGTHS)
    y, state, kept = reverse.forward(x, lengths=LENGTHS)
    dy = rng.normal(size=y.shape)
    for got, want in ((y, turned(expected)), (reverse(x, lengths=LENGTHS)[0], turned(expected))):
        assert max_error(got, want) < FLOAT64
    states, finals = (s if isinstance(s, tuple) else (s,) for s in (state, final))
    assert all(max_error(got, want) < FLOAT64 for got, want in zip(states, finals, strict=True))
    grads, wanted = reverse.backward(kept, dy), forward.backward(saved, turned(dy))
    assert max_error(grads.x, turned(wanted.x)) < FLOAT64
    assert all(max_error(grads.params[name], wanted.params[name]) < FLOAT64 for name in reverse.params)


def test_it_is_the_second_half_of_both_directions() -> None:
    both = pyrnn.GRU(3, 5, bidirectional=True, seed=0)
    alone = pyrnn.GRU(3, 5, reverse=True)
    alone.load_state_dict({name: both.params[name + "_reverse"] for name in alone.params})
    x = np.random.default_rng(0).normal(size=(6, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(alone(x, lengths=LENGTHS)[0], both(x, lengths=LENGTHS)[0][..., 5:])
    assert repr(alone) == "GRU(3, 5, reverse=True)"


def test_errors() -> None:
    with pytest.raises(ValueError, match="reverse: expected False with bidirectional=True, got True"):
        pyrnn.LSTM(3, 5, bidirectional=True, reverse=True)
    with pytest.raises(TypeError, match="reverse: expected a bool, got int"):
        pyrnn.LSTM(3, 5, reverse=1)
    with pytest.raises(ValueError, match="stream: expected a layer that reads forward"):
        pyrnn.LSTM(3, 5, reverse=True).stream()
