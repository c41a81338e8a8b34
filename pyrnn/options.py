# SPDX-License-Identifier: Apache-2.0
"""Options of a layer beyond its sizes: how directions merge, what is learned, which weights are dropped."""

from __future__ import annotations

from typing import Any, NamedTuple, TypedDict

from pyrnn import checks


class CallOptions(TypedDict, total=False):
    """Keyword arguments of `pyrnn.functional.sequence_forward` and of layers; see `MoreOptions`."""

    merge: str
    weight_dropout: float


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
    """

    forget_bias: float | None
    learn_initial_state: bool


class Variation(NamedTuple):
    """What changes beside the cell, checked."""

    weight_dropout: float = 0.0


PLAIN = Variation()


def variation(*, weight_dropout: Any = 0.0) -> Variation:
    """The options of a call."""
    return Variation(checks.probability("weight_dropout", weight_dropout))


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
    forget_bias: float | None = None
    learn_initial_state: bool = False
    weight_dropout: float = 0.0

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
    if options.forget_bias is not None:
        checks.finite("forget_bias", options.forget_bias)
    return options
