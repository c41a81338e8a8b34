# SPDX-License-Identifier: Apache-2.0
"""Single steps of the registered cells: `cell(x, state) -> state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrnn import checks, stacking
from pyrnn.backends.layer import Backend
from pyrnn.functional import KERNELS
from pyrnn.initial import initial_params
from pyrnn.layout import Array, Layout
from pyrnn.parameters import Parameters
from pyrnn.stacking import Gradients, Saved
from pyrnn.states import State
from pyrnn.storing import Stored, bound


def cells() -> tuple[str, ...]:
    """Names of the registered cells, for `Recurrent`, `Cell` and `pyrnn.functional`.

    Examples
    --------
    >>> import pyrnn
    >>> pyrnn.cells()[:4]
    ('lstm', 'gru', 'rnn_tanh', 'rnn_relu')
    """
    return tuple(KERNELS.specs)


class Cell(Stored):
    """One step of a registered cell; `state_dict`, `load_state_dict` and `save` as a layer's.

    Parameters
    ----------
    name : str
        A name in `pyrnn.cells()`.
    input_size, hidden_size : int
        I and H.
    bias : bool
        Whether there are `bias_ih` and `bias_hh`.
    dtype : {"float32", "float64"}
    device : {"cpu"}
    seed : int, optional
        Of the initial parameters.

    Attributes
    ----------
    params : dict of arrays
        `weight_ih` (slots·H, I), `weight_hh` (slots·H, H), `bias_ih`, `bias_hh` (slots·H,), as in
        PyTorch's cells.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> cell = pyrnn.Cell("lstm", 3, 5, seed=0)
    >>> h, c = cell(np.ones((2, 3), np.float32))
    >>> h.shape
    (2, 5)

    Notes
    -----
    Equivalent to `torch.nn.LSTMCell`, `GRUCell`, `RNNCell` for the cells that PyTorch has.
    """

    _backend: Backend = KERNELS
    device = "cpu"

    def __init__(
        self,
        name: str,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        checks.on_cpu(device)
        self._layout = Layout(
            self._backend.spec(name),
            checks.size("input_size", input_size),
            checks.size("hidden_size", hidden_size),
            bias=checks.flag("bias", bias),
            suffixes=False,
        )
        self.dtype = checks.float_dtype(dtype)
        rng = np.random.Generator(np.random.Philox(checks.seed("seed", seed)))
        initial = initial_params(self._layout, rng)
        self.params = Parameters({name: a.astype(self.dtype) for name, a in initial.items()})

    @property
    def name(self) -> str:
        """Name of the cell."""
        return self._layout.spec.name

    @property
    def input_size(self) -> int:
        """I."""
        return self._layout.input_size

    @property
    def hidden_size(self) -> int:
        """H."""
        return int(self._layout.hidden_size)

    @property
    def bias(self) -> bool:
        """Whether there are biases."""
        return self._layout.bias

    def __call__(self, x: Array, state: State | None = None) -> State:
        """One step.

        Parameters
        ----------
        x : array (B, I) or (I,)
        state : array (B, H) or (H,), or a tuple (h, c, …) of them, optional
            Zeros when None.

        Returns
        -------
        state : in the structure of `state`
        """
        return self._run(x, state, save=False)[0]

    def forward(self, x: Array, state: State | None = None) -> tuple[State, Saved]:
        """One step, and what `backward` needs; x and the parameters must not change until then."""
        final, saved = self._run(x, state, save=True)
        saved.owner = self
        return final, saved

    def backward(self, saved: Saved, dstate: State) -> Gradients:
        """Gradients of x, the previous state and every parameter from that of the new state.

        Raises
        ------
        TypeError
            `saved` is not what `forward` returned.
        ValueError
            `saved` is another cell's, or a shape is wrong.
        """
        if isinstance(saved, Saved) and saved.owner is not self:
            raise ValueError("saved: expected what this cell's forward returned, got another's")
        if not isinstance(saved, Saved):
            raise TypeError(f"saved: expected what forward returned, got {type(saved).__name__}")
        B = None if saved.unbatched else saved.sizes[1]
        grads = stacking.backward(saved, None, self._rows("dstate", dstate, B))
        return Gradients(grads.x[0], first(grads.state), grads.params)

    def _parameters(self) -> tuple[Layout, dict[str, Array]]:
        return self._layout, self.params

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> Cell:
        """A cell with these parameters; sizes that are not those of the tensors are refused first."""
        arguments = bound(cls, config)
        inputs, units = (checks.size(name, arguments[name]) for name in ("input_size", "hidden_size"))
        spec, bias = cls._backend.spec(cls._name(arguments)), checks.flag("bias", arguments["bias"])
        checks.state_dict(Layout(spec, inputs, units, bias=bias, suffixes=False), tensors)
        cell = cls(**arguments, seed=0)
        cell.load_state_dict(tensors)
        return cell

    @staticmethod
    def _name(arguments: Mapping[str, Any]) -> str:
        """The registered name, from the constructor's arguments."""
        return str(arguments["name"])

    def _run(self, x: Array, state: State | None, save: bool) -> tuple[State, Any]:
        """The step as a sequence of length one; one layer, so the leading axis of x and of a state is 1."""
        x = checks.plain_array("x", x, self.dtype)
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ValueError(f"x: expected shape (B, I) or (I,) with I = {self.input_size}, got {x.shape}")
        if state is not None:
            state = self._rows("state", state, None if x.ndim == 1 else x.shape[0])
        _, final, saved = stacking.forward(
            self._backend, self._layout, self.dtype, x[None], state, self.params, save=save
        )
        return first(final), saved

    def _rows(self, name: str, state: State, B: int | None) -> State:
        """A state, checked, with the leading axis of a sequence's."""
        H = self.hidden_size
        shape, axes = ((H,), "(H,)") if B is None else ((B, H), "(B, H)")
        arrays = checks.states(name, state, self._layout.spec.states, shape, axes, self.dtype)
        return arrays[0][None] if len(arrays) == 1 else tuple(s[None] for s in arrays)


def first(state: State) -> State:
    """A state without its leading axis."""
    return tuple(s[0] for s in state) if isinstance(state, tuple) else state[0]


class LSTMCell(Cell):
    """One step of the LSTM; the state is (h, c). Arguments as `Cell`, without the name.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> h, c = pyrnn.LSTMCell(3, 5, seed=0)(np.ones((2, 3), np.float32))
    >>> h.shape, c.shape
    ((2, 5), (2, 5))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(self._name({}), input_size, hidden_size, bias, dtype=dtype, device=device, seed=seed)

    @staticmethod
    def _name(arguments: Mapping[str, Any]) -> str:
        return "lstm"


class GRUCell(Cell):
    """One step of the GRU with the reset gate after the product. Arguments as `Cell`, without the name.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> cell = pyrnn.GRUCell(3, 5, seed=0)
    >>> h = cell(np.ones((2, 3), np.float32))
    >>> cell(np.ones((2, 3), np.float32), h).shape
    (2, 5)
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        *,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        super().__init__(self._name({}), input_size, hidden_size, bias, dtype=dtype, device=device, seed=seed)

    @staticmethod
    def _name(arguments: Mapping[str, Any]) -> str:
        return "gru"


class RNNCell(Cell):
    """One step of the simple network; `nonlinearity` is "tanh" or "relu". Other arguments as `Cell`.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> cell = pyrnn.RNNCell(3, 5, nonlinearity="relu", seed=0)
    >>> bool((cell(np.ones((2, 3), np.float32)) >= 0).all())
    True
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        *,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        self.nonlinearity = checks.choice("nonlinearity", nonlinearity, ("tanh", "relu"))
        name = self._name({"nonlinearity": nonlinearity})
        super().__init__(name, input_size, hidden_size, bias, dtype=dtype, device=device, seed=seed)

    @staticmethod
    def _name(arguments: Mapping[str, Any]) -> str:
        return f"rnn_{arguments['nonlinearity']}"


CELLS = (Cell, GRUCell, LSTMCell, RNNCell)
