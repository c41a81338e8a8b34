# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers as pure functions for JAX on the CPU, with `jit`, `grad` and `vmap`."""

try:
    import jax
    import jax.ffi
except ImportError as error:
    raise ImportError('pyrnn.jax needs JAX: pip install "pyrnn-kernels[jax]"') from error
try:
    from pyrnn import _jax
except ImportError as error:
    raise ImportError("pyrnn.jax needs pyrnn._jax, which this build left out: PYRNN_JAX=OFF") from error

from pyrnn.jax.layers import gru, lstm, rnn, sequence
from pyrnn.parameters import Parameters

__all__ = ["gru", "lstm", "rnn", "sequence"]

for name, handler in _jax.handlers().items():
    jax.ffi.register_ffi_target(name, handler, platform="cpu")

# A layer's parameters are to JAX what a dict is; what `jax.tree.map` makes of them is one.
jax.tree_util.register_pytree_with_keys(
    Parameters,
    lambda params: ([(jax.tree_util.DictKey(n), params[n]) for n in sorted(params)], tuple(sorted(params))),
    lambda names, arrays: dict(zip(names, arrays, strict=True)),
)
