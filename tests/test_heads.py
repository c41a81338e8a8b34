# SPDX-License-Identifier: Apache-2.0
"""Recurrent weights of several heads; against the reference they are cases of tests/test_options.py."""

import re

import numpy as np
import pytest
from tolerances import FLOAT64, max_error

import pyrnn
from pyrnn import functional


def normal(*shape):
    return np.random.Generator(np.random.Philox(7)).normal(size=shape)


@pytest.mark.parametrize("cell", ["lstm", "slstm", "gru_reset_before"])
def test_heads_are_blocks_of_a_whole_matrix(cell):
    """Against the layer without heads, whose weights of h are zero beside the blocks."""
    split, whole = (pyrnn.Recurrent(cell, 3, 12, heads=n, dtype="float64", seed=0) for n in (3, 1))
    weight, slots = split.params["weight_hh_l0"], len(split.params["weight_hh_l0"]) // 12
    assert weight.shape == (12 * slots, 4)
    inside = np.repeat(np.repeat(np.eye(3, dtype=bool), 4, 0), 4, 1)
    full = np.zeros((slots, 12, 12))
    full[:, inside] = weight.reshape(slots, -1)
    whole.load_state_dict(split.params | {"weight_hh_l0": full.reshape(-1, 12)})
    x = normal(5, 2, 3)
    (y, _, kept), (z, _, also) = split.forward(x), whole.forward(x)
    assert max_error(y, z) <= FLOAT64
    found, wanted = (layer.backward(s, y) for layer, s in ((split, kept), (whole, also)))
    block = wanted.params["weight_hh_l0"].reshape(slots, 12, 12)[:, inside].reshape(weight.shape)
    for name, a in found.params.items():
        assert max_error(a, block if name == "weight_hh_l0" else wanted.params[name]) <= FLOAT64, name
    assert max_error(found.x, wanted.x) <= FLOAT64


def test_heads_that_do_not_fit():
    x = normal(2, 1, 3)
    params = {"weight_ih_l0": normal(24, 3), "weight_hh_l0": normal(24, 2)}
    for heads, message in (
        (1, r"weight_hh_l0: expected shape (4*H, H) = (24, 6), got (24, 2)"),
        (2, r"weight_hh_l0: expected shape (4*H, H/heads) = (24, 3), got (24, 2)"),
        (4, "heads: expected a divisor of hidden_size = 6, got 4"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            functional.sequence("lstm", x, None, params, heads=heads)
    arrays = (x, None, *params.values(), None, None, np.empty((2, 1, 6)), [np.empty((1, 6))] * 2)
    for given, message in (
        ({"heads": 0}, "heads: expected at least 1, got 0"),
        ({"heads": 4}, "heads: expected a divisor of H = 6, got 4"),
        ({"heads": 2}, r"weight_hh: expected .*2"),
        ({"heads": 3, "weight_hr": normal(2, 6)}, "heads: expected 1 beside weight_hr, got 3"),
    ):
        with pytest.raises(ValueError, match=message):
            pyrnn._core.forward("lstm", *arrays, **given)
    with pytest.raises(ValueError, match="heads: expected 1, clockwork has no full product of h"):
        pyrnn._core.forward("clockwork", *arrays, heads=2)


def test_in_plain_operations_of_pytorch():
    torch = pytest.importorskip("torch")
    import pyrnn.torch

    layer = pyrnn.torch.LSTM(3, 6, cell="lstm_peephole", heads=2, dtype=torch.float64)
    x = torch.randn(5, 2, 3, dtype=torch.float64)
    y = layer(x)[0].detach()
    assert (
        max_error(torch.func.vmap(lambda a: layer(a)[0])(x[None])[0].detach().numpy(), y.numpy()) <= FLOAT64
    )
