# SPDX-License-Identifier: Apache-2.0
"""A recurrent decoder that attends to a memory at every step, and its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pyrnn import checks, decoding, functional, placing
from pyrnn.aligners import KINDS
from pyrnn.aligning import Aligner
from pyrnn.attending import Memory
from pyrnn.cells import CELLS
from pyrnn.decoding import DecoderGradients, Saved
from pyrnn.layout import Array, Shapes
from pyrnn.parameters import Parameters
from pyrnn.states import State
from pyrnn.stepping import Carry, Stepping
from pyrnn.storing import bound

__all__ = ["AttentionDecoder", "Carry"]

PREFIX = "attention."


class AttentionDecoder(Stepping):
    """One recurrent cell that attends to a memory at every step.

    With h the cell's output, c the context that the attention returns for a query, and O the size of out::

        query="current" (Luong et al. 2015): h_t = cell([x_t; feed_{t-1}]); c_t = attention(h_t);
            feed_t = out_t with an attention layer, else c_t
        query="previous" (Bahdanau et al. 2015): c_t = attention(h_{t-1}); h_t = cell([x_t; c_t])
        out_t = tanh(W [c_t; h_t] + b) with an attention layer, else [c_t; h_t]

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    input_size, hidden_size : int
        I and H.
    attention : BahdanauAttention, LuongAttention, LocationAttention or MonotonicAttention
        Its query size is H; its key size is M, that of the memory, which is both key and value.
    input_feed : bool
        Whether the cell reads the feed or context beside x.
    query : {"current", "previous"}
        Which h attends.
    attention_layer : int, optional
        O; without an attention layer, and O = M + H, when None.
    bias : bool
        Whether cell and attention layer have biases.
    dtype : {"float32", "float64"}
        The attention's as well; on a CUDA device also "bfloat16" and "float16".
    device : str
        "cpu", "cuda" or "cuda:1"; the attention's as well. Arrays are then CuPy's or PyTorch's.
    seed : int, optional
        Of the initial parameters; the attention has its own.

    Attributes
    ----------
    params : dict of arrays
        `weight_ih` (slots·H, I + fed), `weight_hh` (slots·H, H), `bias_ih`, `bias_hh` (slots·H,), and with an
        attention layer `weight_attention` (O, M + H), `bias_attention` (O,). Initially uniform in ±1/√H. The
        score's parameters are `attention.params`.
    attention : Aligner

    Raises
    ------
    ValueError, TypeError
        A size or option is wrong; the message names it.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> attention = pyrnn.BahdanauAttention(5, 6, 8, seed=0)
    >>> decoder = pyrnn.AttentionDecoder("gru", 3, 5, attention, attention_layer=7, seed=1)
    >>> x, memory = np.ones((2, 4, 3), np.float32), np.ones((2, 9, 6), np.float32)
    >>> outputs, state, weights = decoder(x, memory, memory_lengths=[9, 2])
    >>> outputs.shape, state.shape, weights.shape
    ((2, 4, 7), (2, 5), (2, 4, 9))
    """

    _backend = functional.DECODER

    def __init__(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        attention: Aligner,
        *,
        input_feed: bool = True,
        query: str = "current",
        attention_layer: int | None = None,
        bias: bool = True,
        dtype: Any = "float32",
        device: str = "cpu",
        seed: int | None = None,
    ) -> None:
        self._configure(
            cell=cell,
            input_size=input_size,
            hidden_size=hidden_size,
            attention=attention,
            input_feed=input_feed,
            query=query,
            attention_layer=attention_layer,
            bias=bias,
            dtype=dtype,
            device=device,
        )
        rng, bound = np.random.Generator(np.random.Philox(checks.seed("seed", seed))), self.hidden_size**-0.5
        shapes = self._shapes.shapes.items()
        self.params = Parameters(
            {name: attention._made(rng.uniform(-bound, bound, shape)) for name, shape in shapes}
        )

    def _configure(
        self,
        cell: str,
        input_size: int,
        hidden_size: int,
        attention: Aligner,
        input_feed: bool,
        query: str,
        attention_layer: int | None,
        bias: bool,
        dtype: Any,
        device: str = "cpu",
    ) -> None:
        """Check every option and keep it as an attribute; nothing is allocated."""
        spec = self._backend.cells.spec(cell)
        self.cell = cell
        self.input_size = checks.size("input_size", input_size)
        self.hidden_size = H = checks.size("hidden_size", hidden_size)
        self.input_feed, self.bias = checks.flag("input_feed", input_feed), checks.flag("bias", bias)
        self.query = checks.choice("query", query, ("current", "previous"))
        self.attention_layer = None
        if attention_layer is not None:
            self.attention_layer = checks.size("attention_layer", attention_layer)
        self.device = device
        self.dtype: Any = checks.float_dtype(dtype) if device == "cpu" else placing.number_named(dtype)
        if not isinstance(attention, Aligner):
            raise TypeError(f"attention: expected an attention, got {type(attention).__name__}")
        if attention.device != device:
            raise RuntimeError(f"attention: expected one with device={device!r}, got {attention.device!r}")
        if attention._device is not None:
            placing.check_cell(cell, attention._device)
        if attention.query_size != H:
            raise ValueError(
                f"attention: expected query_size = hidden_size = {H}, got {attention.query_size}"
            )
        if attention.dtype != self.dtype:
            raise TypeError(f"attention: expected dtype {self.dtype}, got {attention.dtype}")
        self.attention = attention
        sizes = decoding.sizes_of(self.input_size, attention.key_size, H, attention_layer, input_feed, query)
        self._sizes = sizes
        self._shapes = decoding.decoder_shapes(spec, sizes, self.bias, attention_layer is not None)

    @property
    def memory_size(self) -> int:
        """M."""
        return self._sizes.memory_size

    @property
    def output_size(self) -> int:
        """O."""
        return self._sizes.output_size

    @property
    def fed(self) -> int:
        """What the cell reads beside x: 0 without input feeding."""
        return self._sizes.fed

    @property
    def states(self) -> int:
        """How many arrays make up the cell's state."""
        return self._backend.cells.spec(self.cell).states

    def __call__(
        self,
        x: Array,
        memory: Array | Memory,
        memory_lengths: Any = None,
        state: State | None = None,
        *,
        mask: Array | None = None,
        feed: Array | None = None,
        previous: Array | None = None,
        coverage: Array | None = None,
        out: Array | None = None,
    ) -> tuple[Array, State, Array]:
        """Inference: no noise, nothing kept.

        Parameters
        ----------
        x : array (B, Tq, I)
        memory : array (B, Tk, M), or what `precompute` returned
        memory_lengths, state, mask, feed, previous, coverage, out
            As in `pyrnn.functional.decoder_forward`.

        Returns
        -------
        outputs : array (B, Tq, O)
        state : array (B, H), or a tuple of them for cells with several states
        weights : array (B, Tq, Tk)
            The alignment: how much of each element of the memory each step took.
        """
        return self._run(
            x,
            memory,
            memory_lengths,
            state,
            mask=mask,
            feed=feed,
            previous=previous,
            coverage=coverage,
            out=out,
        )[:3]

    def forward(
        self,
        x: Array,
        memory: Array | Memory,
        memory_lengths: Any = None,
        state: State | None = None,
        *,
        mask: Array | None = None,
        feed: Array | None = None,
        previous: Array | None = None,
        coverage: Array | None = None,
        training: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, State, Array, Saved]:
        """Run and keep what `backward` needs; the arguments of a call, and `training`, which draws noise.

        Returns
        -------
        outputs, state, weights
            As a call returns them; with monotonic attention, expected values.
        saved : Saved
            x, the memory and the parameters must not change until the backward.
        """
        x = self._plain("x", x)
        key = memory.key if isinstance(memory, Memory) else self._plain("memory", memory)
        if checks.flag("training", training) and x.ndim == key.ndim == 3:
            mask = self.attention.noisy(mask, (*x.shape[:2], key.shape[1]))
        outputs, final, weights, saved = self._run(
            x,
            memory,
            memory_lengths,
            state,
            mask=mask,
            feed=feed,
            previous=previous,
            coverage=coverage,
            out=out,
            save=True,
        )
        saved.owner = self
        return outputs, final, weights, saved

    def backward(
        self,
        saved: Saved,
        doutputs: Array | None,
        dstate: State | None = None,
        dweights: Array | None = None,
    ) -> DecoderGradients:
        """Gradients of x, memory, state and every parameter; see `pyrnn.functional.decoder_backward`.

        Returns
        -------
        DecoderGradients
            `params` by the names of `decoder.params`, `attention` by those of `decoder.attention.params`.

        Raises
        ------
        TypeError
            `saved` is not what `forward` returned.
        ValueError
            `saved` is another decoder's, or a shape is wrong.
        """
        if getattr(saved, "owner", self) is not self:
            raise ValueError("saved: expected what this decoder's forward returned, got another's")
        return placing.decode_backward(saved, doutputs, dstate, dweights)

    def precompute(self, memory: Array, lengths: Any = None) -> Memory:
        """Project the memory (B, Tk, M) once, for many steps; see `Aligner.precompute`."""
        return self.attention.precompute(self._sized(memory), lengths)

    def _run(
        self,
        x: Array,
        memory: Array | Memory,
        lengths: Any,
        state: State | None,
        *,
        position: int = 0,
        save: bool = False,
        **options: Any,
    ) -> tuple[Array, State, Array, Any]:
        """`decoding.forward` with the decoder's options; `save` is training."""
        x = self._plain("x", x)
        if x.ndim != 3 or x.shape[2] != self.input_size:
            raise ValueError(f"x: expected shape (B, Tq, I) with I = {self.input_size}, got {tuple(x.shape)}")
        if not isinstance(memory, Memory):
            memory = self._sized(memory)
        return placing.decode(
            self._backend,
            self.cell,
            x,
            memory,
            self._checked(),
            state,
            attention=self._arguments(training=save) | {"query_offset": position},
            device=self.attention._device,
            memory_lengths=lengths,
            query=self.query,
            input_feed=self.input_feed,
            save=save,
            **options,
        )

    def _sized(self, memory: Any) -> Array:
        """A memory that is an array, its dtype and axes checked."""
        a: Array = self._plain("memory", memory)
        M = self.memory_size
        if a.ndim != 3 or a.shape[2] != M:
            raise ValueError(f"memory: expected shape (B, Tk, M) with M = {M}, got {tuple(a.shape)}")
        return a

    def _plain(self, name: str, a: Any) -> Any:
        """An array of the decoder's device, its dtype checked."""
        if self.attention._device is None:
            plain: Array = checks.plain_array(name, a, self.dtype)
            return plain
        return placing.on_device(name, a, self.attention._device, self.dtype)

    def _checked(self) -> dict[str, Array]:
        """The decoder's own parameters, checked."""
        if self.attention._device is not None:
            return self.params  # checked with the call's arrays
        return checks.named_arrays(self._shapes, self.params, self.dtype)

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name, as NumPy's arrays."""
        library = self.attention._library
        if library is None:
            return super().state_dict()
        return {name: library.numpy(a) for name, a in self._parameters()[1].items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters in place, cast to the dtype; see `pyrnn.storing.Stored.load_state_dict`."""
        if self.attention._library is None:
            return super().load_state_dict(state)
        shapes, params = self._parameters()
        for name, a in checks.state_dict(shapes, state).items():
            params[name][...] = self.attention._made(a)
        return None

    def _arguments(self, training: bool) -> dict[str, Any]:
        """The attention in the words of `attention_forward`."""
        return self.attention._arguments(training) | {"params": self.attention._params()}

    def _parameters(self) -> tuple[Shapes, dict[str, Array]]:
        own, score = self._shapes, self.attention._shapes
        named = {name: (shape, own.axes(name)) for name, shape in own.shapes.items()}
        named |= {PREFIX + name: (shape, score.axes(name)) for name, shape in score.shapes.items()}
        return Shapes(named), self.params | {PREFIX + n: a for n, a in self.attention.params.items()}

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> AttentionDecoder:
        """A decoder with these parameters; nothing is allocated for what a configuration asks."""
        given = bound(cls, config)
        score = {n.removeprefix(PREFIX): a for n, a in tensors.items() if n.startswith(PREFIX)}
        given["attention"] = restore(given["attention"], score)
        decoder = cls.__new__(cls)
        decoder._configure(**given)
        arrays = checks.state_dict(
            decoder._shapes, {n: a for n, a in tensors.items() if not n.startswith(PREFIX)}
        )
        decoder.params = Parameters({name: np.array(a, decoder.dtype) for name, a in arrays.items()})
        return decoder


def restore(config: Any, tensors: Mapping[str, Array]) -> Any:
    """An attention, a decoder or a single step from its configuration and its parameters."""
    kinds: dict[str, Any] = {cls.__name__: cls for cls in (AttentionDecoder, *KINDS, *CELLS)}
    name = config.get("layer") if isinstance(config, Mapping) else None
    if name not in kinds:
        raise ValueError(f"layer: expected one of {', '.join(kinds)}, got {name!r}")
    return kinds[name].restore(config, tensors)
