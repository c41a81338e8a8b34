# SPDX-License-Identifier: Apache-2.0
"""What is measured: cells, forms of a layer, modes, numbers and sizes, and what each costs at the least."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from pyrnn.functional import KERNELS
from pyrnn.layout import Array, Layout

Shape = tuple[int, int, int, int]

MODES = {"inference": "Inference", "training": "Forward + backward", "stream": "One step per call"}
FORMS = ("plain", "bidirectional", "stacked", "lengths")


class Compute(NamedTuple):
    """The numbers that products multiply."""

    option: str | None  # compute_dtype of the layer
    weight_bytes: int  # of a packed weight
    peak: str  # dtype of the peak that its products have
    values: float  # largest relative error of an output
    gradients: float  # largest relative error of a gradient


#: Relative L2 errors against the float64 reference. float32: far more than its arithmetic has, because peers
#: approximate the activations, and far less than any mistake makes. bfloat16 has 8 bits, peers keep states in
#: it too, and a slope of ReLU taken on the wrong side of zero costs a gradient 9 % at a few dozen units.
#: int8: 1/254 of the largest number of a row at the most, on both sides; it has no gradients. A new kind of
#: weight is a line here, and its name in the `computes` of the peers that have it.
COMPUTE = {
    "float32": Compute(None, 4, "float32", 1e-4, 3e-4),
    "bfloat16": Compute("bfloat16", 2, "bfloat16", 3e-2, 1.5e-1),
    "int8": Compute(None, 1, "int8", 5e-2, 0.0),
}

#: T, B, I, H that peers were measured at first, and those in public use: language models on the Penn
#: Treebank, speech, audio sample by sample, voice activity.
SHAPES: tuple[Shape, ...] = (
    (100, 1, 64, 64),
    (100, 1, 128, 128),
    (100, 1, 512, 512),
    (64, 8, 128, 128),
    (64, 32, 128, 128),
    (50, 64, 256, 256),
    (100, 64, 512, 512),
    (25, 128, 1024, 1024),
    (35, 20, 200, 200),
)
PUBLIC: tuple[Shape, ...] = (
    (50, 64, 500, 500),
    (30, 128, 512, 512),
    (300, 20, 800, 800),
    (629, 1, 128, 128),
    (100, 32, 1760, 1760),
    (48000, 1, 1, 8),
    (48000, 1, 1, 16),
    (48000, 1, 1, 32),
    (35, 20, 1500, 1500),
)
STREAMS: tuple[Shape, ...] = tuple((1, 1, H, H) for H in (32, 64, 128, 256, 512))
#: Sizes at which only some cells are in use.
ONLY: dict[Shape, tuple[str, ...]] = {(100, 32, 1760, 1760): ("gru", "rnn_tanh")}

#: Without options: a few minutes. With --quick: seconds, to see that all works.
SHORT: tuple[Shape, ...] = ((1, 1, 128, 128), (100, 1, 128, 128), (64, 8, 128, 128), (50, 64, 256, 256))
QUICK: tuple[Shape, ...] = ((1, 1, 32, 32), (16, 4, 32, 32))
#: Where --full also takes layers that are bidirectional, stacked or read sequences of unequal length.
FORMS_AT: tuple[Shape, ...] = ((100, 1, 128, 128), (64, 32, 128, 128), (50, 64, 256, 256))
CELLS = ("lstm", "gru", "rnn_tanh")


@dataclass(frozen=True)
class Case:
    """A layer, what it does, and the sizes T, B, I, H of its input.

    Attributes
    ----------
    mode : {"inference", "training", "stream"}
        Outputs alone; outputs and every gradient; one step a call, the state kept.
    form : {"plain", "bidirectional", "stacked", "lengths"}
        One layer in one direction; two directions; two layers; lengths drawn from 1 to T.
    compute : {"float32", "bfloat16", "int8"}
        int8: the weights, and what they are multiplied with; inference and streams alone.
    """

    cell: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    mode: str = "inference"
    form: str = "plain"
    compute: str = "float32"

    @property
    def shape(self) -> Shape:
        """T, B, I, H."""
        return self.T, self.B, self.I, self.H

    @property
    def layers(self) -> int:
        """How many are stacked."""
        return 2 if self.form == "stacked" else 1

    @property
    def directions(self) -> int:
        """2 when bidirectional."""
        return 2 if self.form == "bidirectional" else 1

    @property
    def lengths(self) -> Array | None:
        """Of the sequences (B,), the same at every call; None where all have T steps."""
        if self.form != "lengths":
            return None
        return np.random.default_rng(self.T).integers(1, self.T + 1, self.B)

    @cached_property
    def layout(self) -> Layout:
        """Names and shapes of the parameters."""
        return Layout(KERNELS.spec(self.cell), self.I, self.H, self.layers, self.directions)

    def weights(self, kind: str) -> int:
        """How many weights there are whose name begins so."""
        return sum(math.prod(s) for name, s in self.layout.shapes.items() if name.startswith(kind))

    @property
    def steps(self) -> int:
        """Steps of all sequences together."""
        return self.T * self.B if self.lengths is None else int(self.lengths.sum())

    @property
    def flops(self) -> float:
        """Two for each weight, sequence and step; the backward has two products for each of the forward."""
        return 2.0 * self.weights("weight_") * self.steps * (3 if self.mode == "training" else 1)

    @property
    def footprint(self) -> int:
        """Bytes of packed weights that a step reads: of a stream all, else the recurrent ones of a layer."""
        size = COMPUTE[self.compute].weight_bytes
        if self.mode == "stream":
            return size * self.weights("weight_")
        return size * self.weights("weight_hh") // self.layers

    @property
    def bytes_read(self) -> float:
        """Bytes of packed weights that a call reads at the least: those of each step, backward once more."""
        if self.mode == "stream":
            return float(self.footprint)
        steps = self.T if self.lengths is None else int(self.lengths.max())
        return float(self.footprint) * self.layers * steps * (2 if self.mode == "training" else 1)

    def __str__(self) -> str:
        words = [self.cell, *([self.form] if self.form != "plain" else []), ",".join(map(str, self.shape))]
        return " ".join([*words, self.mode, *([self.compute] if self.compute != "float32" else [])])


def cases(
    cells: Iterable[str],
    forms: Sequence[str],
    modes: Sequence[str],
    computes: Sequence[str],
    shapes: Iterable[Shape],
) -> Iterator[Case]:
    """Every combination that makes sense, each once.

    A stream takes B, I and H of the shapes with T = 1, or of all when there are none; it is plain or stacked.
    Shapes with T = 1 are for streams where streams are wanted.
    """
    shapes = list(shapes)
    single = [shape for shape in shapes if shape[0] == 1]
    seen: set[Case] = set()
    for cell in cells:
        for shape in shapes:
            if cell not in ONLY.get(shape, (cell,)):
                continue
            for form in forms:
                for mode in modes:
                    if mode == "stream" and (form not in ("plain", "stacked") or (single and shape[0] > 1)):
                        continue
                    if mode != "stream" and "stream" in modes and shape[0] == 1:
                        continue
                    for compute in computes:
                        if compute == "int8" and mode == "training":
                            continue
                        sizes = (1, *shape[1:]) if mode == "stream" else shape
                        case = Case(cell, *sizes, mode, form, compute)
                        if case not in seen:
                            seen.add(case)
                            yield case


def full(
    cells: Sequence[str], forms: Sequence[str], modes: Sequence[str], computes: Sequence[str]
) -> list[Case]:
    """The whole grid: every shape for plain layers, some for the other forms, in the first `computes`."""
    plain = cases(cells, ["plain"] if "plain" in forms else [], modes, computes, STREAMS + SHAPES + PUBLIC)
    others = [form for form in forms if form != "plain"]
    sequences = [mode for mode in modes if mode != "stream"]
    return [*plain, *cases(cells, others, sequences, computes[:1], FORMS_AT)]


def parse_shape(text: str) -> Shape:
    """T,B,I,H from the command line.

    Raises
    ------
    ValueError
        These are not four positive numbers.
    """
    try:
        T, B, inputs, H = (int(word) for word in text.split(","))
    except ValueError:
        raise ValueError(f"--shapes: expected T,B,I,H as in 64,8,128,128, got {text!r}") from None
    if min(T, B, inputs, H) < 1:
        raise ValueError(f"--shapes: expected positive numbers, got {text!r}")
    return T, B, inputs, H


def parse_words(
    option: str, text: str, known: Sequence[str], short: dict[str, str] | None = None
) -> list[str]:
    """Words of a list, each known; `short` gives other names for some.

    Raises
    ------
    ValueError
        One of them is not known.
    """
    words = [(short or {}).get(word, word) for word in text.split(",") if word]
    for word in words:
        if word not in known:
            raise ValueError(f"--{option}: expected some of {', '.join(known)}, got {word!r}")
    if not words:
        raise ValueError(f"--{option}: expected some of {', '.join(known)}, got none")
    return list(dict.fromkeys(words))


def as_json(case: Case) -> dict[str, Any]:
    """The fields of a case."""
    return {name: getattr(case, name) for name in Case.__dataclass_fields__}
