# SPDX-License-Identifier: Apache-2.0
"""Problems with options of layers: activations, clips, normalisation, projection, heads, masks."""

import numpy as np
from problems import named_gradients, options

from pyrnn.layout import Layout
from pyrnn.reference.functional import REFERENCE
from pyrnn.reference.gradcheck import flat
from pyrnn.states import built, result

CURVED = {
    "lstm": ("hardsigmoid", ("scaledtanh", 1.2, 0.7), "softsign"),
    "lstm_peephole": ("softplus", ("leakyrelu", 0.3), ("elu", 0.8)),
    "gru": ("softsign", ("affine", 0.6, 0.1)),
    "gru_reset_before": (("hardsigmoid", 0.3, 0.4), ("thresholdedrelu", -0.2)),
    "rnn_tanh": ("elu",),
}
STEP = {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "step"}
CANDIDATE = {"recurrent_dropout": 0.4, "recurrent_dropout_kind": "candidate"}
#: (cell, options of the layout, options of the call)
CASES = {
    "sizes": ("lstm", {"hidden_size": (5, 9)}, {}),
    "sizes gru": ("gru", {"hidden_size": (9, 4), "merge": "sum"}, {}),
    "sum": ("lstm_peephole", {"merge": "sum"}, {}),
    "learned": ("lstm", {"learned": True}, {}),
    "learned gru": ("gru", {"learned": True, "hidden_size": (4, 6)}, {}),
    "weights": ("gru_reset_before", {}, {"weight_dropout": 0.4}),
    "step": ("lstm", {}, STEP),
    "step before": ("gru_reset_before", {}, STEP | {"zoneout": 0.2}),
    "step fixed": ("indrnn_relu", {}, STEP),
    "step stabilised": ("slstm", {}, STEP | {"zoneout": 0.3}),
    "candidate": ("lstm", {}, CANDIDATE),
    "candidate gru": ("gru", {}, CANDIDATE),
    "candidate coupled": ("lstm_coupled", {"layer_norm": True}, CANDIDATE | {"zoneout": (0.2, 0.4)}),
    "curves": ("lstm", {}, {"activations": CURVED["lstm"]}),
    "curves peephole": ("lstm_peephole", {}, {"activations": CURVED["lstm_peephole"], "gate_clip": 0.9}),
    "curves gru": ("gru", {"layer_norm": True}, {"activations": CURVED["gru"], "gate_clip": 0.6}),
    "curves before": ("gru_reset_before", {}, {"activations": CURVED["gru_reset_before"], "gate_clip": 0.5}),
    "curves rnn": ("rnn_tanh", {}, {"activations": CURVED["rnn_tanh"], "gate_clip": 0.4}),
    "gate_clip relu": ("rnn_relu", {}, {"gate_clip": 0.3}),
    "gate_clip mgu": ("mgu", {}, {"gate_clip": 0.3}),
    "gate_clip janet": ("janet", {}, {"gate_clip": 0.3}),
    "cell_clip": ("lstm", {}, {"cell_clip": 0.25, "zoneout": (0.0, 0.3)}),
    "cell_clip projected": ("lstm_coupled", {"proj_size": 3}, {"cell_clip": 0.2, "gate_clip": 0.8}),
    "cell_norm": ("lstm", {"cell_norm": True}, {}),
    "cell_norm peephole": ("lstm_peephole", {"cell_norm": True, "bias": False}, {"zoneout": 0.2}),
    "cell_norm open": ("lstm_no_output_gate", {"cell_norm": True, "layer_norm": True, "proj_size": 2}, {}),
    "heads": ("slstm", {"heads": 3}, {}),
    "heads many": ("lstm", {"heads": 2, "hidden_size": (18, 74), "learned": True}, {"weight_dropout": 0.2}),
    "heads before": ("gru_reset_before", {"heads": 2, "layer_norm": True}, STEP | {"zoneout": 0.2}),
    "heads gates": ("lstm_gate_recurrence", {"heads": 2, "bias": False}, {"recurrent_dropout": 0.3}),
    "all": (
        "lstm",
        {"cell_norm": True, "layer_norm": True, "proj_size": 3, "merge": "sum"},
        {"cell_clip": 0.3, "activations": CURVED["lstm"], "weight_dropout": 0.2, "dropout": 0.3} | STEP,
    ),
}


def draw(case, dtype=np.float64, T=5, B=4, kind="all", directions=2):
    """A problem of two layers as keyword arguments of `sequence_forward`, and gradients coming in."""
    cell, of_layout, call = CASES[case]
    of_layout = {"hidden_size": 6, "num_layers": 2, "directions": directions} | of_layout
    layout = Layout(REFERENCE.spec(cell), 3, **of_layout)
    rng = np.random.Generator(np.random.Philox(3))

    def of(a):
        return a.astype(dtype)

    def states(*axes):
        return result(built(layout, lambda rows, n: of(rng.normal(size=(rows, *axes, n)))), False)

    params = {name: of(rng.normal(scale=0.5, size=shape)) for name, shape in layout.shapes.items()}
    arguments = {
        "cell": cell,
        "x": of(rng.normal(size=(T, B, 3))),
        "state": None if layout.initial else states(B),
        "params": params,
        "merge": layout.merge,
        "heads": layout.heads,
        "return_states": True,
        **options(kind, T, B, rng),
        **call,
    }
    gradients = of(rng.normal(size=(T, B, layout.sizes[2]))), states(B), states(T, B)
    return arguments, gradients


def solve(module, problem):
    arguments, gradients = problem
    rng = np.random.Generator(np.random.Philox(5))
    y, state, states, saved = module.sequence_forward(rng=rng, **arguments)
    grads = module.sequence_backward(saved, *gradients)
    return {"y": y, **flat("state", state), **flat("states", states), **flat("dstate", grads.state)} | {
        name: a for name, a in named_gradients(grads).items() if not name.startswith("dstate")
    }
