# SPDX-License-Identifier: Apache-2.0
"""Every kind of attention object, with problems that fit."""

import numpy as np
import pytest

import pyrnn
from pyrnn import reference

B, TQ, TK, DQ, DK, A = 2, 3, 6, 4, 5, 7

#: the call that makes each kind, on a module
KINDS = {
    "bahdanau": "BahdanauAttention(4, 5, 7, dtype='float64')",
    "normalized": "BahdanauAttention(4, 5, 7, normalize=True, bias=True, scale=0.5, dtype='float64')",
    "coverage": "BahdanauAttention(4, 5, 7, coverage=True, alignment='sparsemax', dtype='float64')",
    "dot": "LuongAttention(4, 4, dtype='float64')",
    "scaled dot": "LuongAttention(4, 4, score='scaled_dot', window=(1, 2), dtype='float64')",
    "cosine": "LuongAttention(4, 4, score='cosine', scale=3.0, dtype='float64')",
    "general": "LuongAttention(4, 5, score='general', local='m', window=1, dtype='float64')",
    "predictive": "LuongAttention(4, 5, score='general', local='p', window=2, dtype='float64')",
    "concat": "LuongAttention(4, 5, score='concat', units=7, bias=True, coverage=True, dtype='float64')",
    "location": "LocationAttention(4, 5, 7, filters=2, filter_width=3, dtype='float64')",
    "monotonic": "MonotonicAttention(4, 5, 7, score_bias_init=0.5, dtype='float64')",
}
EVERY_KIND = pytest.mark.parametrize("kind", KINDS)
ENGINES = pytest.mark.parametrize("module", [pyrnn, reference], ids=["kernels", "reference"])


def made(kind, module=reference, seed=0, **options):
    """An aligner of a kind, with other options if given."""
    words = "".join(f", {name}={value!r}" for name, value in options.items())
    return eval(KINDS[kind][:-1] + f"{words}, seed={seed})", vars(module))


def problem(attn, rng=None):
    """Query, key and lengths that fit an aligner."""
    rng = rng or np.random.default_rng(5)
    return (
        rng.normal(size=(B, TQ, attn.query_size)).astype(attn.dtype),
        rng.normal(size=(B, TK, attn.key_size)).astype(attn.dtype),
        np.array([TK, 4]),
    )
