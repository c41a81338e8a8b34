# SPDX-License-Identifier: Apache-2.0
"""A stack of recurrent layers of any registered cell, with its parameters."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from pyrnn import checks, options, stacking
from pyrnn.backends.layer import Backend
from pyrnn.described import Described
from pyrnn.functional import KERNELS
from pyrnn.initial import initial_params
from pyrnn.io.layers import save_layer
from pyrnn.layout import Array, Layout
from pyrnn.options import MoreOptions
from pyrnn.parameters import Parameters
from pyrnn.quantized import Quantized, quantize
from pyrnn.stacking import Gradients, Saved
from pyrnn.states import State
from pyrnn.streams import Stream


class Recurrent(Described):
    """A stack of recurrent layers of any registered cell.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    input_size : int
        I.
    hidden_size : int, or a tuple of one for each layer
        H. Where layers differ, a state is a tuple with an array (directions, B, H) for each layer.
    num_layers : int
        Each layer reads the outputs of the one below.
    bias : bool
        Whether there are `bias_ih` and `bias_hh`.
    batch_first : bool
        Sequences, masks and resets are (B, T, …) instead of (T, B, …).
    dropout : float
        Probability of zeroing an output of every layer but the last, in training.
    bidirectional : bool
        A second set of cells reads each sequence from its last valid step; outputs are 2·H wide.
    reverse : bool
        The only direction is the reverse one: each sequence is read from its last valid step. Outputs stand
        where their inputs do.
    zoneout : float, or a tuple of one for each state
        Probability that a unit keeps its old state instead of the cell's new one, in training; at inference
        each state is the expectation, zoneout times the old and the rest of the new (Krueger et al. 2017).
    recurrent_dropout : float
        Probability of zeroing a unit of the h that the recurrent product reads, in training, with one mask
        for all steps of a sequence (Gal & Ghahramani 2016).
    layer_norm : bool
        The products of x and of h are normalised over all their slots, each with a gain of its own (Ba et al.
        2016): `weight_ln_ih_l0`, `weight_ln_hh_l0`.
    proj_size : int
        P, less than H: each step's h is projected to so many numbers, which are the output and what the next
        step reads (Sak et al. 2014); `weight_hr_l0` (P, H). For cells with a state beside h; 0 is none.
    compute_dtype : {None, "bfloat16"}, on a CUDA device {None, "tf32"}
        "bfloat16": with AVX512-BF16 the products round both sides to bfloat16, elsewhere those of the forward
        the weights; sums, states, outputs and gradients stay float32. With `layer_norm`, `proj_size` or
        `heads`, and for cells of several products of h, everything stays float32, of which a UserWarning
        tells. "tf32": products of float32 in TF32.
    dtype : {"float32", "float64"}, on a CUDA device also {"bfloat16", "float16"}
        Of the parameters and of everything computed.
    device : {"cpu", "cuda", "cuda:0", …}
        On a CUDA device arrays are CuPy's, or PyTorch's CUDA tensors, and so are the parameters (CuPy's if it
        is installed); work goes to the library's current stream, and nothing waits for it. No GPU has run
        this yet: see docs/cuda.md.
    seed : int, optional
        Of the initial parameters and of the dropout masks; unpredictable when None.
    **more
        merge, forget_bias, learn_initial_state, weight_dropout, recurrent_dropout_kind, heads, cell_clip,
        gate_clip, activations, cell_norm: see `pyrnn.options.MoreOptions`.

    Attributes
    ----------
    params : dict of arrays
        PyTorch's names, shapes and gate order: `weight_ih_l0` (slots·H, I), `weight_hh_l0` (slots·H, H),
        `bias_ih_l0`, `bias_hh_l0` (slots·H,), `…_l0_reverse`, `…_l1`. Initially uniform in ±1/√H, PyTorch's
        convention. Change them in place, or replace them by arrays of the same shape; a name that is none of
        theirs is refused.
    rng : numpy.random.Generator
        Draws the dropout masks; counter-based (Philox), one draw per layer of a call.

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong; the message names it.
    NotImplementedError
        An option that does not exist yet has a value other than its default.
    RuntimeError
        The device, its driver or the CUDA library is missing.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.Recurrent("gru", 3, 5, seed=0)
    >>> y, h = layer(np.ones((7, 2, 3), np.float32))
    >>> y.shape, h.shape
    ((7, 2, 5), (1, 2, 5))

    Notes
    -----
    Equivalent to `torch.nn.LSTM`, `torch.nn.GRU` and `torch.nn.RNN` for the cells that PyTorch has.
    """

    _backend: Backend = KERNELS

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int | tuple[int, ...],
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        reverse: bool = False,
        proj_size: int = 0,
        layer_norm: bool = False,
        zoneout: float | tuple[float, ...] = 0.0,
        recurrent_dropout: float = 0.0,
        compute_dtype: str | None = None,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
        **more: Unpack[MoreOptions],
    ) -> None:
        self._chosen = options.chosen(more)
        if device != "cpu":
            self._backend = cuda_backend(device, compute_dtype)
            compute_dtype = None
            kind = self._chosen.recurrent_dropout_kind
            checks.supported(
                device,
                recurrent_dropout_kind=(kind, "step" if kind == "step" else "sequence"),
            )
        if checks.flag("reverse", reverse) and bidirectional:
            raise ValueError("reverse: expected False with bidirectional=True, got True")
        spec = self._backend.spec(cell)
        directions = 1 + checks.flag("bidirectional", bidirectional)
        num_layers = checks.size("num_layers", num_layers)
        input_size = checks.size("input_size", input_size)
        hidden_size = options.units(hidden_size, num_layers)
        sizes = hidden_size if isinstance(hidden_size, tuple) else (hidden_size,)
        self._variation = options.variation(spec, **self._chosen.inside(), compute_dtype=compute_dtype)
        self._layout = Layout(
            spec,
            input_size,
            hidden_size,
            num_layers,
            directions,
            checks.flag("bias", bias),
            layer_norm=checks.flag("layer_norm", layer_norm),
            proj_size=checks.projection(proj_size, spec, min(sizes)),
            cell_norm=self.cell_norm,
            learned=self.learn_initial_state,
            merge=options.merged(self.merge, directions),
            heads=checks.heads(self._chosen.heads, spec, sizes, proj_size),
            reverse=bool(reverse),
        )
        self.batch_first = checks.flag("batch_first", batch_first)
        self.dropout = checks.probability("dropout", dropout)
        checks.rates("zoneout", zoneout, self._layout.spec.states)
        self.zoneout = options.plain(zoneout)
        self.recurrent_dropout = checks.probability("recurrent_dropout", recurrent_dropout)
        self.dtype = checks.float_dtype(dtype) if device == "cpu" else self._backend.dtype("dtype", dtype)
        self.compute_dtype = checks.compute_dtype(compute_dtype, self.dtype)
        checks.warn_of_float32(compute_dtype, self._layout)
        self.device = device
        self.rng = np.random.Generator(np.random.Philox(checks.seed("seed", seed)))
        self.params = self._made(initial_params(self._layout, self.rng, self.forget_bias))

    def _checkpointed(self, value: Any) -> bool:
        """What only the CPU computes again."""
        if checks.flag("checkpoint", value) and self.device != "cpu":
            raise ValueError(f"checkpoint: expected False on device {self.device!r}, got True")
        return bool(value)

    def _made(self, params: Mapping[str, Array]) -> dict[str, Array]:
        """Arrays of the layer's library and dtype from NumPy's."""
        return Parameters({name: self._backend.arrays.made(a, self.dtype) for name, a in params.items()})

    def __call__(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: Any = None,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_to: str = "zero",
        out: Array | None = None,
        return_states: bool = False,
    ) -> Any:
        """Inference: no dropout, nothing kept.

        Parameters
        ----------
        x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I)
        state, lengths, mask, resets, reset_to, out, return_states
            As in `pyrnn.functional.sequence_forward`.

        Returns
        -------
        y : array (T, B, H·directions), in the layout of x; P in the place of H with a projection
        state : array (num_layers·directions, B, H), or a tuple of them for cells with several states; of h
            with a projection P
        states : with `return_states`
            As the state, with the steps behind the first axis: (num_layers·directions, T, B, H).
        """
        return stacking.forward(
            self._backend,
            self._layout,
            self.dtype,
            x,
            state,
            self.params,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reset_to=reset_to,
            batch_first=self.batch_first,
            zoneout=self.zoneout,
            out=out,
            compute_dtype=self.compute_dtype,
            variation=self._variation,
            return_states=checks.flag("return_states", return_states),
        )[:-1]

    def forward(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: Any = None,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_to: str = "zero",
        training: bool = True,
        out: Array | None = None,
        return_states: bool = False,
        checkpoint: bool = False,
    ) -> Any:
        """Run and keep what `backward` needs; the arguments of a call, and these.

        Parameters
        ----------
        training : bool
            Whether the masks of dropout, zoneout and recurrent dropout are drawn.
        checkpoint : bool
            Keep the states of every √T-th step or so alone, and compute what lies between once more in the
            backward: a third more time, the same gradients bit by bit; on the CPU, else ValueError.

        Returns
        -------
        y, state, and with `return_states` states
            As a call returns them.
        saved : Saved
            x and the parameters must not change until the backward; y may.
        """
        found = stacking.forward(
            self._backend,
            self._layout,
            self.dtype,
            x,
            state,
            self.params,
            lengths=lengths,
            mask=mask,
            resets=resets,
            reset_to=reset_to,
            batch_first=self.batch_first,
            dropout=self.dropout,
            zoneout=self.zoneout,
            recurrent_dropout=self.recurrent_dropout,
            training=training,
            rng=self.rng,
            out=out,
            compute_dtype=self.compute_dtype,
            save=True,
            variation=self._variation,
            return_states=checks.flag("return_states", return_states),
            checkpoint=self._checkpointed(checkpoint),
        )
        found[-1].owner = self
        return found

    def backward(
        self, saved: Saved, dy: Array | None, dstate: State | None = None, dstates: State | None = None
    ) -> Gradients:
        """Gradients of x, the initial state and every parameter; see `pyrnn.functional.sequence_backward`.

        Raises
        ------
        TypeError
            `saved` is not what `forward` returned.
        ValueError
            `saved` is another layer's, or a shape is wrong.
        """
        if isinstance(saved, Saved) and saved.owner is not self:
            raise ValueError("saved: expected what this layer's forward returned, got another layer's")
        return stacking.backward(saved, dy, dstate, dstates)

    def gates(
        self,
        x: Array,
        state: State | None = None,
        *,
        lengths: Any = None,
        mask: Array | None = None,
        resets: Array | None = None,
        reset_to: str = "zero",
        layer: int = -1,
    ) -> dict[str, Array]:
        """Activations of every gate at every step of one layer, for looking at.

        Parameters
        ----------
        x, state, lengths, mask, resets, reset_to
            As in a call.
        layer : int
            Which layer; negative counts from the top.

        Returns
        -------
        dict of arrays (T, B, H·directions), in the layout of x
            `i f g o` for the LSTM, `r z n` for the GRU, `h` for the simple network; zero at skipped steps.
        """
        from pyrnn.reference.cells import registry

        if not -self.num_layers <= checks.integer("layer", layer, -np.inf) < self.num_layers:
            raise ValueError(f"layer: expected {-self.num_layers} to {self.num_layers - 1}, got {layer}")
        saved = self.forward(
            x, state, lengths=lengths, mask=mask, resets=resets, reset_to=reset_to, training=False
        )[2]
        return stacking.gates(saved, layer % self.num_layers, registry[self.cell].gate_names)

    def stream(self, batch_size: int = 1) -> Stream:
        """Step by step with the state kept inside, on the CPU; see `pyrnn.streams.Stream`."""
        checks.on_cpu(self.device)
        return Stream(self, batch_size)

    def quantize(self, dtype: str = "int8") -> Quantized:
        """A copy with weights of eight bits, for inference; see `pyrnn.quantized.quantize`."""
        return quantize(self, dtype)

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name, as NumPy's arrays; bfloat16 as float32."""
        return {name: self._backend.arrays.numpy(self.params[name]) for name in self._layout.shapes}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters in place, cast to the layer's dtype; every name and shape is checked first.

        Parameters
        ----------
        state : mapping of name to array-like of floats

        Raises
        ------
        ValueError
            A name is missing or unknown, or a shape is wrong; nothing is loaded then.
        TypeError
            A value holds something else than real floating-point numbers.
        """
        loaded = checks.state_dict(self._layout, state)
        self._backend.arrays.weights(self._layout, self.params, self.dtype)
        checks.writable(self.params)
        for name, a in self._made(loaded).items():
            self.params[name][...] = a

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write parameters and configuration to a safetensors file, for `pyrnn.load`."""
        save_layer(self, path)


def cuda_backend(device: Any, compute_dtype: Any) -> Backend:
    """The back end of a CUDA device; RuntimeError when it is not there."""
    if not isinstance(device, str):
        raise RuntimeError(f"device: expected 'cpu' or 'cuda', got {device!r}")
    from pyrnn.backends.cuda import CudaBackend

    if compute_dtype not in (None, "tf32"):
        raise NotImplementedError(
            f"compute_dtype={compute_dtype!r} is not implemented; only compute_dtype=None and 'tf32' are"
        )
    return CudaBackend(device, compute_dtype or "exact")
