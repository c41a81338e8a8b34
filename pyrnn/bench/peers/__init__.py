# SPDX-License-Identifier: Apache-2.0
"""The libraries that are compared, one small adapter each."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable

from pyrnn.bench.peers.jax_scan import JaxScan
from pyrnn.bench.peers.keras_layers import Keras
from pyrnn.bench.peers.numpy_loop import NumpyLoop
from pyrnn.bench.peers.onnx_runtime import OnnxRuntime
from pyrnn.bench.peers.openvino_runtime import OpenVino
from pyrnn.bench.peers.ours import Pyrnn
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.peers.pytorch import Compiled, Torch, TorchLoop

OURS = Pyrnn
PEERS: dict[str, type[Peer]] = {
    peer.name: peer for peer in (Torch, Compiled, TorchLoop, OnnxRuntime, OpenVino, JaxScan, Keras, NumpyLoop)
}

__all__ = ["OURS", "PEERS", "Peer", "missing"]


def missing(names: Iterable[str]) -> dict[str, str]:
    """Those of the peers that cannot be used, and what would have to be installed."""
    lacking = {
        name: [module for module in PEERS[name].modules if importlib.util.find_spec(module) is None]
        for name in names
    }
    return {name: f"not installed: {', '.join(modules)}" for name, modules in lacking.items() if modules}
