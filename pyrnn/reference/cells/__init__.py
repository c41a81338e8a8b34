# SPDX-License-Identifier: Apache-2.0
"""The registry of the reference's cells: one line per cell, under the names of the engine's registry.

A cell is a class of constants and two functions on arrays (B, H). `forward(a, s, p) -> (s_new, save)` takes
the slots after the products and the bias, the previous states (h first) and the per-unit parameters;
`backward(save, s, p, ds) -> (da, ds, dp)` takes what forward saved and the gradient of the new states.
`from_x` and `from_h` number the slots that the products of x and h add into; `gate_names` name what is saved
first, `param_name` the array of per-unit parameters: `weight_peephole` (params, H). Where the last `late`
slots of from_h do not read h, `read(a, s)` and `read_saved(save, s)` are the vectors that they do, `reads` of
them with as many slots each, and `read_backward(save, s, dread) -> (ds, da)` adds to the gradients of all
states and slots. With `ordered` a weight of h counts only where the first parameter is as large for the
unit that is read as for the one that reads, or larger.
`roles` are those of the activations that a call may choose: f for the sigmoid of the gates, g for the
activation of a pre-activation, h for that of c in h = o tanh(c).
"""

from collections.abc import Sequence
from typing import Any

from pyrnn.layout import Array
from pyrnn.reference.cells.clockwork import Clockwork
from pyrnn.reference.cells.gru import Gru
from pyrnn.reference.cells.gru_reset_before import GruResetBefore
from pyrnn.reference.cells.indrnn import IndRnnRelu, IndRnnTanh
from pyrnn.reference.cells.janet import Janet
from pyrnn.reference.cells.lstm import Lstm
from pyrnn.reference.cells.lstm_coupled import LstmCoupled
from pyrnn.reference.cells.lstm_gate_recurrence import LstmGateRecurrence
from pyrnn.reference.cells.lstm_no_forget_gate import LstmNoForgetGate
from pyrnn.reference.cells.lstm_no_input_activation import LstmNoInputActivation
from pyrnn.reference.cells.lstm_no_input_gate import LstmNoInputGate
from pyrnn.reference.cells.lstm_no_output_activation import LstmNoOutputActivation
from pyrnn.reference.cells.lstm_no_output_gate import LstmNoOutputGate
from pyrnn.reference.cells.lstm_peephole import LstmPeephole
from pyrnn.reference.cells.mgu import Mgu
from pyrnn.reference.cells.mut1 import Mut1
from pyrnn.reference.cells.mut2 import Mut2
from pyrnn.reference.cells.mut3 import Mut3
from pyrnn.reference.cells.rnn import RnnRelu, RnnTanh
from pyrnn.reference.cells.slstm import Slstm

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
    "slstm": Slstm,
    "gru_reset_before": GruResetBefore,
    "mgu": Mgu,
    "mut1": Mut1,
    "mut2": Mut2,
    "mut3": Mut3,
    "indrnn_tanh": IndRnnTanh,
    "indrnn_relu": IndRnnRelu,
    "clockwork": Clockwork,
    "lstm_gate_recurrence": LstmGateRecurrence,
}


CONSTANTS = ("slots", "states", "saved", "params", "from_x", "from_h")


def possible(cell: str, states: Sequence[Array]) -> list[Array]:
    """States that the cell can be in: more than 1 in the place of any number where only positive ones are."""
    positive = getattr(registry[cell], "positive", ())
    return [1 + abs(s) if k in positive else s for k, s in enumerate(states)]


def cells() -> dict[str, dict[str, Any]]:
    """Constants of every registered cell, by name: what `pyrnn._core.cells()` returns for the engine."""
    return {
        name: {key: getattr(cell, key) for key in CONSTANTS}
        | {"param_name": getattr(cell, "param_name", ""), "late": getattr(cell, "late", 0)}
        | {"reads": getattr(cell, "reads", int(hasattr(cell, "late")))}
        | {"ordered": getattr(cell, "ordered", False)}
        | {"roles": getattr(cell, "roles", "")}
        for name, cell in registry.items()
    }
