# SPDX-License-Identifier: Apache-2.0
"""Complete programs on top of the layers, to use and to read."""
