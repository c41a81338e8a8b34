# SPDX-License-Identifier: Apache-2.0
"""The registry of the reference's cells: one line per cell, under the names of the engine's registry.

A cell is a class of constants and two functions on arrays (B, H). `forward(a, s, p) -> (s_new, save)` takes
the slots after the products and the bias, the previous states (h first) and the per-unit parameters;
`backward(save, s, p, ds) -> (da, ds, dp)` takes what forward saved and the gradient of the new states.
`from_x` and `from_h` number the slots that the products of x and h add into; `gate_names` name what is saved
first, `param_name` the array of per-unit parameters: `weight_peephole` (params, H). Where the last `late`
slots of from_h do not read h, `read(a, s)` and `read_saved(save, s)` say what, and
`read_backward(save, s, dread) -> (dh, da)` adds to the gradients of h and of all slots.
"""

from typing import Any

from pyrnn.reference.cells.gru import Gru
from pyrnn.reference.cells.gru_reset_before import GruResetBefore
from pyrnn.reference.cells.janet import Janet
from pyrnn.reference.cells.lstm import Lstm
from pyrnn.reference.cells.lstm_coupled import LstmCoupled
from pyrnn.reference.cells.lstm_no_forget_gate import LstmNoForgetGate
from pyrnn.reference.cells.lstm_no_input_activation import LstmNoInputActivation
from pyrnn.reference.cells.lstm_no_input_gate import LstmNoInputGate
from pyrnn.reference.cells.lstm_no_output_activation import LstmNoOutputActivation
from pyrnn.reference.cells.lstm_no_output_gate import LstmNoOutputGate
from pyrnn.reference.cells.lstm_peephole import LstmPeephole
from pyrnn.reference.cells.mgu import Mgu
from pyrnn.reference.cells.rnn import RnnRelu, RnnTanh

registry: dict[str, Any] = {
    "lstm": Lstm,
    "gru": Gru,
    "rnn_tanh": RnnTanh,
    "rnn_relu": RnnRelu,
    "lstm_peephole": LstmPeephole,
    "lstm_coupled": LstmCoupled,
    "lstm_no_input_gate": LstmNoInputGate,
    "lstm_no_forget_gate": LstmNoForgetGate,
    "lstm_no_output_gate": LstmNoOutputGate,
    "lstm_no_input_activation": LstmNoInputActivation,
    "lstm_no_output_activation": LstmNoOutputActivation,
    "janet": Janet,
    "gru_reset_before": GruResetBefore,
    "mgu": Mgu,
}

CONSTANTS = ("slots", "states", "saved", "params", "from_x", "from_h")


def cells() -> dict[str, dict[str, Any]]:
    """Constants of every registered cell, by name: what `pyrnn._core.cells()` returns for the engine."""
    return {
        name: {key: getattr(cell, key) for key in CONSTANTS}
        | {"param_name": getattr(cell, "param_name", ""), "late": getattr(cell, "late", 0)}
        for name, cell in registry.items()
    }
