# SPDX-License-Identifier: Apache-2.0
"""Handlers of XLA's foreign function interface, on the kernels of _core."""

def handlers() -> dict[str, object]:
    """Addresses of the handlers by name, for jax.ffi.register_ffi_target."""

def saved_bytes(cell: int, wide: bool, T: int, B: int, I: int, H: int, P: int, norm: bool) -> tuple[int, int]:
    """Bytes of the two arrays that a forward leaves for its backward."""
