# SPDX-License-Identifier: Apache-2.0
"""Files: safetensors, and layers in them; layers from other libraries and for them."""

from pyrnn.io.keras_layers import from_keras, to_keras
from pyrnn.io.layers import load, save_layer
from pyrnn.io.onnx_layers import from_onnx
from pyrnn.io.onnx_models import to_onnx
from pyrnn.io.safetensors import load_safetensors, save_safetensors
from pyrnn.io.torch_modules import from_torch, to_torch

__all__ = [
    "from_keras",
    "from_onnx",
    "from_torch",
    "load",
    "load_safetensors",
    "save_layer",
    "save_safetensors",
    "to_keras",
    "to_onnx",
    "to_torch",
]
