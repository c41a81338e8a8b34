# SPDX-License-Identifier: Apache-2.0
"""What a layer of `pyrnn` is, to read: its sizes and options, its configuration, its words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pyrnn import checks
from pyrnn.layout import Layout
from pyrnn.options import Activation, Chosen


class Sized:
    """What layers of all kinds of weights are: their cell, sizes and directions."""

    _layout: Layout
    zoneout: float | tuple[float, ...]

    @property
    def cell(self) -> str:
        """Name of the cell."""
        return self._layout.spec.name

    @property
    def input_size(self) -> int:
        """I."""
        return self._layout.input_size

    @property
    def hidden_size(self) -> Any:
        """H, or a tuple with that of each layer where they differ."""
        return self._layout.hidden_size

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return self._layout.num_layers

    @property
    def bidirectional(self) -> bool:
        """Whether there is a reverse direction."""
        return self._layout.directions == 2

    @property
    def reverse(self) -> bool:
        """Whether the only direction is the reverse one."""
        return self._layout.reverse

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self._layout.bias

    def _zoneout(self) -> tuple[float, ...]:
        """The rate of each state."""
        return checks.rates("zoneout", self.zoneout, self._layout.spec.states)


class Described(Sized):
    """The sizes and options of a layer."""

    _chosen: Chosen
    batch_first: bool
    dropout: float
    recurrent_dropout: float
    compute_dtype: str | None
    dtype: Any
    device: str

    @property
    def layer_norm(self) -> bool:
        """Whether the products are normalised."""
        return self._layout.layer_norm

    @property
    def proj_size(self) -> int:
        """P, or 0."""
        return self._layout.proj_size

    @property
    def merge(self) -> str:
        """What becomes of the outputs of two directions."""
        return self._chosen.merge

    @property
    def heads(self) -> int:
        """Blocks of the weights of h."""
        return self._layout.heads

    @property
    def forget_bias(self) -> float | None:
        """What the forget gate's bias started from."""
        return self._chosen.forget_bias

    @property
    def learn_initial_state(self) -> bool:
        """Whether the initial states are parameters."""
        return self._chosen.learn_initial_state

    @property
    def weight_dropout(self) -> float:
        """Probability of zeroing a weight of h."""
        return self._chosen.weight_dropout

    @property
    def recurrent_dropout_kind(self) -> str:
        """What recurrent dropout acts on."""
        return self._chosen.recurrent_dropout_kind

    @property
    def cell_clip(self) -> float | None:
        """What c is clipped to."""
        return self._chosen.cell_clip

    @property
    def gate_clip(self) -> float | None:
        """What activations read is clipped to."""
        return self._chosen.gate_clip

    @property
    def activations(self) -> Sequence[Activation] | None:
        """Those in place of the cell's own."""
        return self._chosen.activations

    @property
    def cell_norm(self) -> bool:
        """Whether c is normalised on its way to h."""
        return self._chosen.cell_norm

    def config(self) -> dict[str, Any]:
        """What a file says beside the parameters, which tell the sizes."""
        return {
            "layer": type(self).__name__,
            "cell": self.cell,
            "batch_first": self.batch_first,
            "reverse": self.reverse,
            "dropout": self.dropout,
            "zoneout": self.zoneout,
            "recurrent_dropout": self.recurrent_dropout,
            "compute_dtype": self.compute_dtype,
            **self._chosen.changed(),
        }

    def __repr__(self) -> str:
        name = type(self).__name__
        words = [repr(self.cell)] if name == "Recurrent" else []
        words += [str(self.input_size), str(self.hidden_size)]
        if self.num_layers > 1:
            words.append(f"num_layers={self.num_layers}")
        if self.cell == "rnn_relu" and name == "RNN":
            words.append("nonlinearity='relu'")
        for option, default in (
            ("bias", True),
            ("batch_first", False),
            ("dropout", 0.0),
            ("zoneout", 0.0),
            ("recurrent_dropout", 0.0),
            ("layer_norm", False),
            ("proj_size", 0),
            ("bidirectional", False),
            ("reverse", False),
        ):
            if getattr(self, option) != default:
                words.append(f"{option}={getattr(self, option)}")
        words += [f"{name}={value!r}" for name, value in self._chosen.changed().items()]
        if str(self.dtype) != "float32":
            words.append(f"dtype={str(self.dtype)!r}")
        if self.compute_dtype:
            words.append(f"compute_dtype={self.compute_dtype!r}")
        if self.device != "cpu":
            words.append(f"device={self.device!r}")
        return f"{name}({', '.join(words)})"
