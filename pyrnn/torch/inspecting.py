# SPDX-License-Identifier: Apache-2.0
"""What happens inside a layer: the gates and all states of every step, for looking at."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrnn import stacking
from pyrnn.functional import KERNELS
from pyrnn.torch import arrays
from pyrnn.torch.arrays import DTYPES
from pyrnn.torch.variants import described
from pyrnn.torch.varying import flat, form_of, layers_of, nested


@torch.no_grad()
def gates(module: Any, input: Tensor, hx: Any, layer: int, options: dict[str, Any]) -> dict[str, Tensor]:
    """The gates and states of one layer by name; see `Recurrent.gates`."""
    from pyrnn.reference.cells import registry

    if not -module.num_layers <= layer < module.num_layers:
        raise ValueError(f"layer: expected {-module.num_layers} to {module.num_layers - 1}, got {layer}")
    if not isinstance(input, Tensor):
        raise TypeError(f"input: expected a tensor, got {type(input).__name__}")
    known = layers_of(described(module)[0])
    layout = known.layout
    weights = [getattr(module, name) for name in module._flat_weights_names]
    states = [] if hx is None else flat(hx)
    for a in (input, *states, *weights):
        if a.device.type != "cpu" or a.dtype not in DTYPES:
            raise NotImplementedError(
                f"gates: expected float32 or float64 on the CPU, got {a.dtype} on {a.device}"
            )
    flags: dict[str, Any] = {
        n: np.asarray(a) for n, a in options.items() if a is not None and n != "reset_to"
    }
    saved = stacking.forward(
        KERNELS,
        layout,
        DTYPES[weights[0].dtype],
        arrays.view(input),
        nested(form_of(layout), [arrays.view(s) for s in states]) if states else None,
        dict(zip(layout.shapes, map(arrays.weight_view, weights), strict=True)),
        batch_first=module.batch_first,
        zoneout=known.zoneout,
        variation=known.variation,
        save=True,
        **flags,
        reset_to=options["reset_to"],
    )[2]
    number = layer % module.num_layers
    found = stacking.gates(saved, number, registry[layout.spec.name].gate_names)
    found |= stacking.states(saved, number, layout.spec.state_names)
    return {name: torch.from_numpy(np.ascontiguousarray(a)) for name, a in found.items()}


def turned(hx: Any) -> Any:
    """States (num_layers·directions, B, H) with two axes exchanged; those of a single sequence as given."""
    if isinstance(hx, tuple | list):
        return tuple(turned(s) for s in hx)
    return hx.transpose(0, 1) if isinstance(hx, Tensor) and hx.dim() == 3 else hx
