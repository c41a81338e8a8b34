# SPDX-License-Identifier: Apache-2.0
"""Options of a layer beyond its sizes: how directions merge, what changes inside a cell, what is learned.

Activations are those of the ONNX operators LSTM, GRU and RNN, under their names, with their alpha and beta.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias, TypedDict

import numpy as np

from pyrnn import checks
from pyrnn.layout import Spec

Activation: TypeAlias = str | Sequence[Any]

#: The numbers that each takes, with their defaults.
CURVES: dict[str, tuple[float, ...]] = {
    "sigmoid": (),
    "tanh": (),
    "relu": (),
    "hardsigmoid": (0.2, 0.5),
    "softsign": (),
    "affine": (1.0, 0.0),
    "leakyrelu": (0.01,),
    "thresholdedrelu": (1.0,),
    "scaledtanh": (1.0, 1.0),
    "elu": (1.0,),
    "softplus": (),
}
#: Their derivative is taken from the value, which needs them to rise.
RISING = ("leakyrelu", "elu")
KINDS = ("sequence", "step", "candidate")
ROLES = {"f": "sigmoid", "g": "tanh", "h": "tanh"}


class CallOptions(TypedDict, total=False):
    """Keyword arguments of `pyrnn.functional.sequence_forward` and of layers; see `MoreOptions`."""

    merge: str
    heads: int
    weight_dropout: float
    recurrent_dropout_kind: str
    cell_clip: float | None
    gate_clip: float | None
    activations: Sequence[Activation] | None


class MoreOptions(CallOptions, total=False):
    """Keyword arguments of every layer beside those that `Recurrent` lists.

    merge : {"concat", "sum"}
        What becomes of the outputs of two directions: side by side, 2·H wide, or their sum, H wide.
    forget_bias : float, optional
        What the forget gate's bias starts from: `bias_ih` holds it, `bias_hh` zero (Gers et al. 2000;
        Jozefowicz et al. 2015). For cells with a gate f.
    learn_initial_state : bool
        The states that a sequence starts from when none are given are parameters, `h0_l0`, `c0_l0`,
        `h0_l0_reverse` …, one vector for all sequences, zeros at first. They are also what
        `reset_to="initial"` restores, and where streams start.
    weight_dropout : float
        Probability of zeroing a weight of h (`weight_hh`), in training; one mask a call (DropConnect as in
        the AWD-LSTM, Merity et al. 2018).
    recurrent_dropout_kind : {"sequence", "step", "candidate"}
        What `recurrent_dropout` acts on: the h that the product reads, with one mask for all steps of a
        sequence (Gal & Ghahramani 2016) or another at every step; or the candidate g of c' = f c + i g, n of
        the GRU, another at every step, which never forgets (Semeniuta et al. 2016).
    heads : int
        A unit reads the units of its own head alone: `weight_hh_l0` is (slots·H, H/heads), the blocks of a
        matrix that is zero beside its diagonal (sLSTM, Beck et al. 2024). A divisor of every hidden_size.
    cell_clip : float, optional
        c is clipped to ±cell_clip after every step, before h is made of it; no gradient passes where it was.
    gate_clip : float, optional
        What the activations of gates and candidate read is clipped to ±gate_clip (ONNX's `clip`); no gradient
        passes where it was.
    activations : sequence of names, or of (name, alpha), (name, alpha, beta), optional
        In place of the cell's own, in the order of the ONNX operators: (f, g, h) of LSTMs, f of the gates, g
        of the candidate, h of c in h = o h(c); (f, g) of GRUs; (f,) of the simple network. The names are
        sigmoid, tanh, relu, hardsigmoid, softsign, affine, leakyrelu, thresholdedrelu, scaledtanh, elu,
        softplus, in any case; both directions get the same.
    cell_norm : bool
        h = o tanh(LN(c)): c is normalised over its units on the way to h (Ba et al. 2016), with the gain
        `weight_ln_c_l0` and, if there are biases, `bias_ln_c_l0`; the c that is carried on is not.

    On the CPU the last five, and the dropout of candidates, run in float32 and float64; CUDA devices have no
    dropout of candidates. ValueError where a cell has nothing of the kind.
    """

    forget_bias: float | None
    learn_initial_state: bool
    cell_norm: bool


class Variation(NamedTuple):
    """What changes inside a cell, checked."""

    curves: tuple[tuple[str, float, float], ...]  # of the gates, the candidate, the output
    gate_clip: float = 0.0  # 0: none
    cell_clip: float = 0.0
    dropout_kind: str = "sequence"
    weight_dropout: float = 0.0
    inside: bool = False  # whether the cell differs without any dropout

    def argument(self, dropout: float, cell_norm: bool) -> dict[str, Any]:
        """The argument of a back end, where the cell is not run as it is."""
        if not (self.inside or cell_norm or (dropout and self.dropout_kind != "sequence")):
            return {}
        return {"variation": (self.curves, self.gate_clip, self.cell_clip, self.dropout_kind)}


PLAIN = Variation(())


def own_curves(spec: Spec) -> tuple[tuple[str, float, float], ...]:
    """The activations of a cell as it is."""
    own = ROLES | ({"g": "relu"} if spec.name == "rnn_relu" else {})
    return tuple((name, 0.0, 0.0) for name in own.values())


def curve(name: str, value: Any) -> tuple[str, float, float]:
    """An activation by name, with its numbers."""
    words = [value] if isinstance(value, str) else value
    if not isinstance(words, tuple | list) or not words or not isinstance(words[0], str):
        raise TypeError(f"{name}: expected a name, or a tuple of one and its numbers, got {value!r}")
    kind = words[0].lower()
    if kind not in CURVES:
        raise ValueError(f"{name}: expected one of {', '.join(CURVES)}, got {words[0]!r}")
    if len(words) - 1 > len(CURVES[kind]):
        raise ValueError(f"{name}: expected at most {len(CURVES[kind])} numbers for {kind}, got {value!r}")
    given = [checks.finite(f"{name}: {kind}", number) for number in words[1:]]
    alpha, beta, *_ = (*given, *CURVES[kind][len(given) :], 0.0, 0.0)
    if kind in RISING and alpha < 0:
        raise ValueError(f"{name}: expected an alpha of at least 0 for {kind}, got {alpha:g}")
    return kind, alpha, beta


def curves_of(spec: Spec, activations: Any) -> tuple[tuple[str, float, float], ...]:
    """All three, from those of the roles that the cell has."""
    chosen = dict(zip(ROLES, own_curves(spec), strict=True))
    if activations is None:
        return tuple(chosen.values())
    if not isinstance(activations, tuple | list):
        raise TypeError(f"activations: expected a sequence of names, got {type(activations).__name__}")
    if not spec.roles:
        raise ValueError(f"activations: expected None, because those of {spec.name} are fixed")
    if len(activations) != len(spec.roles):
        wanted = ", ".join("f" if spec.roles == "g" else role for role in spec.roles)
        raise ValueError(f"activations: expected {len(spec.roles)} ({wanted}), got {len(activations)}")
    chosen |= {
        role: curve(f"activations[{k}]", value)
        for k, (role, value) in enumerate(zip(spec.roles, activations, strict=True))
    }
    return tuple(chosen.values())


def clip(name: str, value: Any) -> float:
    """A positive bound, or 0 from None."""
    if value is None:
        return 0.0
    if not (np.isfinite(checks.real(name, value)) and value > 0):
        raise ValueError(f"{name}: expected a positive number, got {value}")
    return float(value)


def variation(
    spec: Spec,
    *,
    weight_dropout: Any = 0.0,
    recurrent_dropout_kind: Any = "sequence",
    cell_clip: Any = None,
    gate_clip: Any = None,
    activations: Any = None,
    compute_dtype: Any = None,
    cell_norm: bool = False,
) -> Variation:
    """The options of a call that act inside a cell; ValueError where the cell has nothing of the kind."""
    kind = checks.choice("recurrent_dropout_kind", recurrent_dropout_kind, KINDS)
    chosen = Variation(
        curves_of(spec, activations),
        clip("gate_clip", gate_clip),
        clip("cell_clip", cell_clip),
        kind,
        checks.probability("weight_dropout", weight_dropout),
    )
    chosen = chosen._replace(
        inside=bool(activations is not None or chosen.gate_clip or chosen.cell_clip or cell_norm)
    )
    if chosen.gate_clip and not spec.roles:
        raise ValueError(f"gate_clip: expected None, because the activations of {spec.name} are fixed")
    for name, wanted in (("cell_clip", bool(chosen.cell_clip)), ("cell_norm", cell_norm)):
        if wanted and "h" not in spec.roles:
            raise ValueError(f"{name}: expected none, because {spec.name} makes no h of a c")
    if chosen.cell_clip and spec.params:
        raise ValueError(f"cell_clip: expected None, because the output gate of {spec.name} reads c")
    if kind == "candidate":
        if "f" not in spec.roles:
            raise ValueError(f"recurrent_dropout_kind: expected no 'candidate', {spec.name} has none")
        if chosen.gate_clip or chosen.curves[1][0] == "hardsigmoid":
            what = "gate_clip" if chosen.gate_clip else "a hardsigmoid of it"
            raise ValueError(f"recurrent_dropout_kind: expected no 'candidate' beside {what}")
    if compute_dtype is not None and (chosen.inside or kind != "sequence"):
        raise ValueError(
            "compute_dtype: expected None beside activations, clips, cell_norm or recurrent_dropout_kind, "
            f"got {compute_dtype!r}"
        )
    return chosen


def merged(merge: Any, directions: int) -> str:
    """What becomes of two directions."""
    if checks.choice("merge", merge, ("concat", "sum")) == "sum" and directions == 1:
        raise ValueError("merge: expected 'concat' for a single direction, got 'sum'")
    return str(merge)


def units(hidden_size: Any, num_layers: int) -> int | tuple[int, ...]:
    """Units of all layers, or of each."""
    if not isinstance(hidden_size, tuple | list):
        return checks.size("hidden_size", hidden_size)
    if len(hidden_size) != num_layers:
        raise ValueError(f"hidden_size: expected num_layers = {num_layers} sizes, got {len(hidden_size)}")
    return tuple(checks.size(f"hidden_size[{k}]", size) for k, size in enumerate(hidden_size))


class Chosen(NamedTuple):
    """The options of a layer as they were given, for its words and files."""

    merge: str = "concat"
    heads: int = 1
    forget_bias: float | None = None
    learn_initial_state: bool = False
    weight_dropout: float = 0.0
    recurrent_dropout_kind: str = "sequence"
    cell_clip: float | None = None
    gate_clip: float | None = None
    activations: Sequence[Activation] | None = None
    cell_norm: bool = False

    def inside(self) -> dict[str, Any]:
        """Those that act inside a cell."""
        names = (
            "weight_dropout",
            "recurrent_dropout_kind",
            "cell_clip",
            "gate_clip",
            "activations",
            "cell_norm",
        )
        return {name: getattr(self, name) for name in names}

    def changed(self) -> dict[str, Any]:
        """Those that are not the default."""
        return {name: value for name, value in self._asdict().items() if value != self._field_defaults[name]}


def chosen(given: MoreOptions) -> Chosen:
    """The options of a layer by name; TypeError for any other name."""
    unknown = set(given) - set(Chosen._fields)
    if unknown:
        raise TypeError(f"unexpected keyword argument {min(unknown)!r}")
    options = Chosen(**given)
    checks.flag("learn_initial_state", options.learn_initial_state)
    checks.flag("cell_norm", options.cell_norm)
    if options.forget_bias is not None:
        checks.finite("forget_bias", options.forget_bias)
    # As a file gives them back, and out of the caller's reach.
    return Chosen(*map(plain, options))


def plain(value: Any) -> Any:
    """NumPy's numbers, bools and strings as Python's own, which files can hold, and sequences as tuples."""
    if isinstance(value, np.floating):
        return float(value)
    if isinstance(value, np.generic):
        return value.item()
    return tuple(map(plain, value)) if isinstance(value, list | tuple) else value
