# SPDX-License-Identifier: Apache-2.0
"""Files: safetensors, and layers in them."""

from pyrnn.io.layers import load, save_layer
from pyrnn.io.safetensors import load_safetensors, save_safetensors

__all__ = ["load", "load_safetensors", "save_layer", "save_safetensors"]
