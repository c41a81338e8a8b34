# SPDX-License-Identifier: Apache-2.0
"""What every kind of attention shares: parameters drawn, checked, saved and loaded, and the calls.

An aligner scores queries against keys, turns the scores into weights and mixes the values. The kinds, in
`pyrnn.aligners`, differ in parameters and options only; what is computed is
`pyrnn.functional.attention_forward`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np

from pyrnn import attending, checks, functional, placing
from pyrnn.attending import AttentionGradients, Memory, Saved
from pyrnn.layout import Array, Shapes
from pyrnn.parameters import Parameters
from pyrnn.storing import Stored, bound

Named = dict[str, tuple[tuple[int, ...], str]]

SCORES = ("dot", "general", "concat", "scaled_dot", "cosine")


class Aligner(Stored):
    """What every kind of attention shares; made through its subclasses.

    Attributes
    ----------
    params : dict of arrays
        The score's parameters by name. Change them in place, or replace them by arrays of the same shape.
    rng : numpy.random.Generator
        Draws the noise of monotonic attention; counter-based (Philox).
    """

    query_size: int
    key_size: int
    dtype: Any  # NumPy's dtype; the name of a type of number on a device
    scale: float | None
    params: dict[str, Array]
    rng: np.random.Generator

    #: what checks an option, by its name
    CHECKS: ClassVar[dict[str, Callable[[str, Any], Any]]] = {
        "query_size": checks.size,
        "key_size": checks.size,
        "units": checks.size,
        "normalize": checks.flag,
        "bias": checks.flag,
        "coverage": checks.flag,
        "scale": lambda name, value: None if value is None else checks.finite(name, value),
        "alignment": lambda name, value: checks.choice(name, value, ("softmax", "sparsemax")),
        "filters": checks.size,
        "filter_width": lambda name, value: odd(name, value),
        "sigmoid_noise": lambda name, value: checks.finite(name, value, 0),
        "score_bias_init": checks.finite,
        "score": lambda name, value: checks.choice(name, value, SCORES),
        "local": lambda name, value: None if value is None else checks.choice(name, value, ("m", "p")),
        "window": lambda name, value: window_of(name, value),
        "position_units": lambda name, value: size_or_none(name, value),
        "dtype": lambda name, value: checks.float_dtype(value),
    }

    _backend = functional.ATTENTION
    device = "cpu"
    _device: int | None = None  # the device's number
    _library: Any = None  # of its arrays

    def __init__(self, seed: int | None, **options: Any) -> None:
        self._configure(**options)
        self.rng = np.random.Generator(np.random.Philox(checks.seed("seed", seed)))
        shapes = self._shapes.shapes
        self.params = Parameters({n: self._made(self._draw(n, shape)) for n, shape in shapes.items()})

    def _configure(self, **options: Any) -> None:
        """Check every option and keep it as an attribute; nothing is allocated."""
        self.device = options.pop("device", "cpu")
        if self.device != "cpu":
            self._device, self._library = placing.library_named(self.device)
            self.dtype = placing.number_named(options.pop("dtype"))
        vars(self).update({name: self.CHECKS[name](name, value) for name, value in options.items()})
        self._shapes = Shapes(self._named())
        if self._device is not None:
            placing.check_device(self._arguments(training=True), getattr(self, "coverage", False))

    def _made(self, a: Any) -> Any:
        """An array of the parameters' library and dtype."""
        return np.asarray(a, self.dtype) if self._library is None else self._library.made(a, self.dtype)

    def _named(self) -> Named:
        """Names, shapes and symbols of the parameters."""
        raise NotImplementedError

    def _arguments(self, training: bool) -> dict[str, Any]:
        """The options in the words of `attention_forward`."""
        raise NotImplementedError

    def _draw(self, name: str, shape: tuple[int, ...]) -> Any:
        """Matrices and vectors uniform in ±1/√(size of the last axis); see the subclasses for the rest."""
        if name == "bias":
            return np.zeros(shape)
        if name == "gain":
            return self._shapes.shapes["weight_score"][0] ** -0.5
        return self.rng.uniform(-1, 1, shape) * shape[-1] ** -0.5

    def __call__(
        self,
        query: Array,
        key: Array | Memory,
        value: Array | None = None,
        *,
        mask: Array | None = None,
        key_lengths: Any = None,
        causal: bool = False,
        query_offset: int = 0,
        previous: Array | None = None,
        coverage: Array | None = None,
        return_weights: bool = False,
        out: Array | None = None,
    ) -> Any:
        """Inference: no noise, nothing kept.

        Parameters
        ----------
        query : array (B, Tq, Dq), (B, Dq) for one query, or (B, heads, Tq, Dq)
        key : array (B, Tk, Dk), or (B, heads, Tk, Dk), or what `precompute` returned
        value : array (B, Tk, Dv), or (B, heads, Tk, Dv), optional
            The key when None.
        mask, key_lengths, causal, query_offset, previous, coverage, out
            As in `pyrnn.functional.attention_forward`.
        return_weights : bool

        Returns
        -------
        context : array (B, Tq, Dv), as the query
        weights : array (B, Tq, Tk), only with `return_weights`

        Raises
        ------
        ValueError, TypeError
            A shape, a value or a dtype is wrong; the message names it.
        """
        checks.flag("return_weights", return_weights)
        context, weights, _ = placing.forward(
            self._backend,
            self._sized("query", query, self.query_size, "Dq"),
            key if isinstance(key, Memory) else self._sized("key", key, self.key_size, "Dk"),
            value,
            mask=mask,
            key_lengths=key_lengths,
            causal=causal,
            query_offset=query_offset,
            previous=previous,
            coverage=coverage,
            out=out,
            **self._arguments(training=False),
            params=self._params(),
            device=self._device,
            save=False,
        )
        return (context, weights) if return_weights else context

    def forward(
        self,
        query: Array,
        key: Array | Memory,
        value: Array | None = None,
        *,
        mask: Array | None = None,
        key_lengths: Any = None,
        causal: bool = False,
        query_offset: int = 0,
        previous: Array | None = None,
        coverage: Array | None = None,
        training: bool = True,
        out: Array | None = None,
    ) -> tuple[Array, Array, Saved]:
        """Attend and keep what `backward` needs; the arguments of a call, and `training`, which draws noise.

        Returns
        -------
        context, weights
            As a call returns them; monotonic attention: expected values.
        saved : Saved
            query, key, value, weights and the parameters must not change until the backward.
        """
        query = self._sized("query", query, self.query_size, "Dq")
        keys = key.key if isinstance(key, Memory) else self._sized("key", key, self.key_size, "Dk")
        rows = query.shape[:-1] if query.ndim > 2 else (query.shape[0], 1)
        if mask is not None and self._device is None:
            mask = checks.array_of("mask", mask)
            mask = mask[:, None] if query.ndim == mask.ndim == 2 else mask  # (B, Tk)
        context, weights, saved = placing.forward(
            self._backend,
            query,
            key if isinstance(key, Memory) else keys,
            value,
            mask=self.noisy(mask, (*rows, keys.shape[-2])) if checks.flag("training", training) else mask,
            key_lengths=key_lengths,
            causal=causal,
            query_offset=query_offset,
            previous=previous,
            coverage=coverage,
            out=out,
            **self._arguments(training=True),
            params=self._params(),
            device=self._device,
            save=True,
        )
        saved.owner = self
        return context, weights, saved

    def backward(
        self, saved: Saved, dcontext: Array | None, dweights: Array | None = None
    ) -> AttentionGradients:
        """Gradients of query, key, value and every parameter; see `pyrnn.functional.attention_backward`.

        Raises
        ------
        TypeError
            `saved` is not what `forward` returned.
        ValueError
            `saved` is another attention's, or a shape is wrong.
        """
        if getattr(saved, "owner", self) is not self:
            raise ValueError("saved: expected what this attention's forward returned, got another's")
        return placing.backward(saved, dcontext, dweights)

    def precompute(self, key: Array, lengths: Any = None, value: Array | None = None) -> Memory:
        """Project the keys once, for many calls with `memory` in place of the key.

        Parameters
        ----------
        key : array (B, Tk, Dk)
        lengths : integers (B,), optional
            Keys of each row that count.
        value : array (B, Tk, Dv), optional
            The key when None.

        Returns
        -------
        Memory
            Holds what the key's parameters are now: precompute again when they have changed.
        """
        key = self._sized("key", key, self.key_size, "Dk")
        if self._device is not None:
            return self._precompute_there(key, lengths, value)
        if lengths is not None:
            lengths = checks.lengths_of(lengths, key.shape[-2], key.shape[0], False, "lengths", "Tk")
        return attending.precompute(
            self._backend,
            key,
            value,
            score=self._arguments(training=False)["score"],
            params=self._params(),
            key_lengths=lengths,
        )

    def _precompute_there(self, key: Any, lengths: Any, value: Any) -> Memory:
        """On a device, for the steps of a decoder, whose memory is key and value."""
        if value is not None:
            raise NotImplementedError(f"value: expected None with device={self.device!r}, got one")
        score = self._arguments(training=False)["score"]
        memory: Memory = placing.precompute(
            self._device or 0, key, lengths, score=score, params=self._params()
        )
        return memory

    def noisy(self, mask: Array | None, shape: tuple[int, ...]) -> Array | None:
        """The mask with training's noise on scores of this shape in it; only monotonic attention has any."""
        return mask

    def _parameters(self) -> tuple[Shapes, dict[str, Array]]:
        return self._shapes, self.params

    @classmethod
    def restore(cls, config: Mapping[str, Any], tensors: Mapping[str, Array]) -> Aligner:
        """An aligner with these parameters; nothing is allocated for what a configuration asks."""
        attention = cls.__new__(cls)
        attention._configure(**bound(cls, config))
        arrays = checks.state_dict(attention._shapes, tensors)
        attention.params = Parameters({n: np.array(a, attention.dtype) for n, a in arrays.items()})
        attention.rng = np.random.Generator(np.random.Philox())
        return attention

    def _params(self) -> dict[str, Array]:
        """The parameters, checked."""
        if self._device is not None:
            return self.params  # checked with the call's arrays
        return checks.named_arrays(self._shapes, self.params, self.dtype)

    def state_dict(self) -> dict[str, Array]:
        """A copy of the parameters by name, as NumPy's arrays."""
        if self._library is None:
            return super().state_dict()
        return {name: self._library.numpy(a) for name, a in self.params.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Copy parameters in place, cast to the dtype; see `pyrnn.storing.Stored.load_state_dict`."""
        if self._library is None:
            return super().load_state_dict(state)
        for name, a in checks.state_dict(self._shapes, state).items():
            self.params[name][...] = self._made(a)
        return None

    def _sized(self, name: str, a: Any, size: int, symbol: str) -> Any:
        """A query or a key, its dtype and its last axis checked; the rest is for the functions to check."""
        if self._device is None:
            plain: Any = checks.plain_array(name, a, self.dtype)
        else:
            plain = placing.on_device(name, a, self._device, self.dtype)
        if plain.ndim < 2 or plain.shape[-1] != size:
            raise ValueError(
                f"{name}: expected shape (…, {symbol}) with {symbol} = {size}, got {tuple(plain.shape)}"
            )
        return plain


def size_or_none(name: str, value: Any) -> int | None:
    """None or a positive integer."""
    return None if value is None else checks.size(name, value)


def odd(name: str, value: Any) -> int:
    """A positive odd integer."""
    if checks.size(name, value) % 2 == 0:
        raise ValueError(f"{name}: expected an odd integer, got {value}")
    return int(value)


def window_of(name: str, value: Any) -> int | tuple[int, int] | None:
    """None, an integer of at least 0, or a pair (left, right) of them."""
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name}: expected an integer or a pair (left, right), got {value}")
        return checks.integer(name, value[0], 0), checks.integer(name, value[1], 0)
    return None if value is None else checks.integer(name, value, 0)
