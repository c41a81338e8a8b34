# SPDX-License-Identifier: Apache-2.0
"""The only place that asks what kind of array it has: NumPy's, CuPy's or PyTorch's."""
