# SPDX-License-Identifier: Apache-2.0
"""The options of a program as a checked dataclass: character model, translation, captions, variants."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any, ClassVar

CELLS = {"lstm": "lstm", "gru": "gru", "rnn": "rnn_tanh"}
#: Scores of the attention of `pyrnn translate`, and "none" for none.
SCORES = ("additive", "dot", "scaled_dot", "general", "cosine", "concat", "location", "none")


def option(default: Any, least: float, metavar: str, text: str) -> Any:
    """A field: its default, smallest value, and how `--help` shows it."""
    return dataclasses.field(default=default, metadata={"least": least, "metavar": metavar, "help": text})


@dataclasses.dataclass(frozen=True)
class Options:
    """Fields that `option` made, checked against their defaults' types and their smallest values.

    Raises
    ------
    ValueError
        A value makes no sense; the message names the option.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind: type = type(field.default)
            value: Any = getattr(self, field.name)
            least: float = field.metadata["least"]
            accepted: Any = (int, float) if kind is float else kind
            if isinstance(value, bool) or not isinstance(value, accepted):
                raise ValueError(f"--{field.name}: expected {kind.__name__}, got {value!r}")
            # The comparison from both sides refuses NaN as well.
            if not isinstance(value, str) and not least <= value < 2**31:
                raise ValueError(f"--{field.name}: expected a number from {least}, got {value}")


def one_of(name: str, value: str, choices: Iterable[str]) -> None:
    """ValueError unless the option's value is one of these."""
    if value not in choices:
        raise ValueError(f"--{name}: expected one of {', '.join(choices)}, got {value!r}")


@dataclasses.dataclass(frozen=True)
class Config(Options):
    """Everything that decides the course of a training of the character model, but the text."""

    cell: str = option("lstm", 0, "NAME", "lstm, gru or rnn")
    layers: int = option(2, 1, "N", "recurrent layers")
    hidden: int = option(256, 1, "N", "units of each layer")
    embedding: int = option(64, 0, "N", "size of a character's vector; 0 for one-hot")
    dropout: float = option(0.1, 0, "P", "between layers")
    batch: int = option(32, 1, "N", "places of the text that are read side by side")
    length: int = option(64, 1, "N", "characters before the gradient is cut")
    steps: int = option(1000, 1, "N", "updates")
    rate: float = option(6e-3, 0, "X", "highest learning rate")
    clip: float = option(1.0, 0, "X", "longest gradient; 0 for any")
    every: int = option(100, 1, "N", "steps between validations")
    patience: int = option(5, 0, "N", "validations without a better one before it stops; 0 for never")
    seed: int = option(0, 0, "N", "of the initial parameters and the dropout")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("cell", self.cell, CELLS)
        if self.dropout >= 1:
            raise ValueError(f"--dropout: expected a number below 1, got {self.dropout}")


@dataclasses.dataclass(frozen=True)
class TranslateConfig(Options):
    """Everything that decides the course of a training of the translation, but the pairs of a file."""

    cell: str = option("gru", 0, "NAME", "lstm, gru or rnn")
    layers: int = option(1, 1, "N", "of the encoder")
    hidden: int = option(128, 2, "N", "units of the decoder, and of the encoder's two directions together")
    embedding: int = option(64, 1, "N", "size of a character's vector")
    score: str = option("additive", 0, "NAME", f"of the attention: {', '.join(SCORES)}")
    dates: int = option(1, 1, "N", "most dates in an example")
    batch: int = option(64, 1, "N", "examples of an update")
    steps: int = option(1000, 1, "N", "updates")
    rate: float = option(4e-3, 0, "X", "highest learning rate")
    clip: float = option(1.0, 0, "X", "longest gradient; 0 for any")
    every: int = option(100, 1, "N", "steps between validations")
    patience: int = option(0, 0, "N", "validations without a better one before it stops; 0 for never")
    seed: int = option(0, 0, "N", "of the initial parameters and of the order of the examples")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("cell", self.cell, CELLS)
        one_of("score", self.score, SCORES)
        if self.hidden % 2:
            raise ValueError(f"--hidden: expected an even number, got {self.hidden}")


@dataclasses.dataclass(frozen=True)
class CaptionsConfig(Options):
    """Everything that decides the course of a training of the captions."""

    #: Pixels of the largest canvas: its thousand test canvases are captioned in one call.
    MOST_PIXELS: ClassVar[int] = 4096

    cell: str = option("lstm", 0, "NAME", "lstm, gru or rnn")
    hidden: int = option(128, 1, "N", "units of the decoder")
    features: int = option(96, 1, "N", "units that look at a patch")
    units: int = option(64, 1, "N", "units of the attention")
    embedding: int = option(32, 1, "N", "size of a word's vector")
    height: int = option(24, 16, "N", "rows of a canvas")
    width: int = option(32, 32, "N", "columns of a canvas")
    batch: int = option(64, 1, "N", "canvases of an update")
    steps: int = option(3000, 1, "N", "updates")
    rate: float = option(4e-3, 0, "X", "highest learning rate")
    clip: float = option(1.0, 0, "X", "longest gradient; 0 for any")
    every: int = option(500, 1, "N", "steps between validations")
    patience: int = option(0, 0, "N", "validations without a better one before it stops; 0 for never")
    seed: int = option(0, 0, "N", "of the initial parameters and of the canvases")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("cell", self.cell, CELLS)
        if self.height * self.width > self.MOST_PIXELS:
            got = f"{self.height} x {self.width}"
            raise ValueError(f"--height, --width: expected at most {self.MOST_PIXELS} pixels, got {got}")


@dataclasses.dataclass(frozen=True)
class VariantsConfig(Options):
    """Everything that decides the course of a comparison of cells, but the cells and a text.

    Where an option's default is the task's own, 0 stands for it, and is replaced by it here.
    """

    #: Fewest steps in which every task makes sense.
    SHORTEST: ClassVar[int] = 12
    OWN: ClassVar[dict[str, dict[str, Any]]] = {
        "adding": {"length": 100, "hidden": 32, "steps": 4000, "rate": 0.02},
        "copy": {"length": 30, "hidden": 32, "steps": 4000, "rate": 0.01},
        "text": {"length": 50, "hidden": 64, "steps": 800, "rate": 0.02},
    }

    task: str = option("adding", 0, "NAME", "adding, copy or text")
    seeds: int = option(3, 1, "N", "trainings of each cell")
    length: int = option(0, 0, "N", "steps of a sequence; 0 for the task's own number")
    hidden: int = option(0, 0, "N", "units of every cell; 0 for the task's own number")
    weights: int = option(
        0, 0, "N", "choose each cell's units so that its model has about so many; 0: --hidden"
    )
    batch: int = option(32, 1, "N", "sequences of an update")
    steps: int = option(0, 0, "N", "updates of each training; 0 for the task's own number")
    rate: float = option(0.0, 0, "X", "highest learning rate; 0 for the task's own")
    clip: float = option(1.0, 0, "X", "longest gradient; 0 for any")
    forget: float = option(1.0, -100, "X", "added to the forget gate's bias at the start")
    points: int = option(20, 1, "N", "of a learning curve")
    seed: int = option(0, 0, "N", "of each cell's first training; the others count on")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("task", self.task, self.OWN)
        for name, value in self.OWN[self.task].items():
            if not getattr(self, name):
                object.__setattr__(self, name, value)
        if self.length < self.SHORTEST:
            raise ValueError(f"--length: expected a number from {self.SHORTEST}, got {self.length}")


@dataclasses.dataclass(frozen=True)
class GradientsConfig(Options):
    """Everything that decides which gradients are seen, but the cells."""

    length: int = option(100, VariantsConfig.SHORTEST, "N", "steps of a sequence")
    hidden: int = option(32, 1, "N", "units of every cell")
    batch: int = option(32, 1, "N", "sequences of an update")
    steps: int = option(4000, 1, "N", "updates of each training")
    rate: float = option(0.02, 0, "X", "highest learning rate")
    clip: float = option(1.0, 0, "X", "longest gradient; 0 for any")
    forget: float = option(1.0, -100, "X", "added to the forget gate's bias at the start")
    seed: int = option(0, 0, "N", "of the initial parameters and the sequences")
