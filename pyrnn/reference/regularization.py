# SPDX-License-Identifier: Apache-2.0
"""The masks of zoneout and recurrent dropout, from a counter-based generator.

Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the four words of the
counter (unit, t, b, stream) under a key. A mask depends on where it applies alone, so any order gives it.
"""

from typing import Any

import numpy as np

from pyrnn.layout import Array

WORD = np.uint64(0xFFFFFFFF)


def philox(seed: int, counter: tuple[Array, ...]) -> tuple[Array, ...]:
    """Four words of 32 bits, as uint64, of a counter of four such words that broadcast."""
    c0, c1, c2, c3 = np.broadcast_arrays(*(np.asarray(c, np.uint64) for c in counter))
    key = [seed & 0xFFFFFFFF, seed >> 32]
    for _ in range(10):
        k0, k1 = map(np.uint64, key)
        p0, p1 = c0 * np.uint64(0xD2511F53), c2 * np.uint64(0xCD9E8D57)
        high = np.uint64(32)
        c0, c1, c2, c3 = (p1 >> high) ^ c1 ^ k0, p1 & WORD, (p0 >> high) ^ c3 ^ k1, p0 & WORD
        key = [(key[0] + 0x9E3779B9) & 0xFFFFFFFF, (key[1] + 0xBB67AE85) & 0xFFFFFFFF]
    return c0, c1, c2, c3


def zoneout_shares(regularization: Any, T: int, B: int, H: int) -> Array:
    """How much of each old state the units keep at every step, (T, S, B, H); 0 or 1 in training."""
    if regularization is None:
        return np.zeros((T, 1, 1, 1))
    zoneout, _, training, seed, stream = regularization
    if not training:
        return np.tile(np.reshape(zoneout, (-1, 1, 1)), (T, 1, 1, 1))
    t, b, unit = np.ogrid[:T, :B, :H]
    words: list[Array] = []
    while len(words) < len(zoneout):  # four from a counter; the next has a t that no sequence reaches
        words += philox(seed, (unit, t + len(words) // 4 * 2**31, b, np.asarray(2 * stream)))
    shares = [word < int(p * 2**32) for word, p in zip(words, zoneout, strict=False)]
    return np.stack(shares, axis=1).astype(np.float64)


def dropout_masks(regularization: Any, afresh: bool, T: int, B: int, H: int) -> Array:
    """What units are multiplied by at every step, (T, B, H): the same at all, or `afresh` another at each."""
    one = dropout_factors(regularization, B, H)
    if not (afresh and T):
        return np.broadcast_to(one, (T, *one.shape))
    return np.stack([dropout_factors(regularization, B, H, t) for t in range(T)])


def dropout_factors(regularization: Any, B: int, H: int, t: int = 0) -> Array:
    """What the units of h are multiplied by before the product, (B, H); t is 0 for one mask at all steps."""
    if regularization is None or not regularization[2]:
        return np.ones((1, 1))
    _, dropout, _, seed, stream = regularization
    b, unit = np.ogrid[:B, :H]
    words = philox(seed, (unit, np.asarray(t), b, np.asarray(2 * stream + 1)))
    return np.where(words[0] < int(dropout * 2**32), 0.0, 1 / (1 - dropout) if dropout < 1 else 0.0)
