# SPDX-License-Identifier: Apache-2.0
"""Recurrent layers, attention and decoders as functions: arrays in, arrays out, no objects."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Unpack

import numpy as np

from pyrnn import _core, checks, decoding, placing, stacking
from pyrnn.attending import Memory
from pyrnn.backends.layer import Backend
from pyrnn.decoding import DecoderGradients
from pyrnn.functional_attention import (
    ATTENTION,
    attention,
    attention_backward,
    attention_forward,
    precompute,
)
from pyrnn.functional_decoder import Native
from pyrnn.layout import Array
from pyrnn.options import CallOptions
from pyrnn.stacking import Gradients, Saved
from pyrnn.states import State

__all__ = [
    "ATTENTION",
    "DECODER",
    "KERNELS",
    "attention",
    "attention_backward",
    "attention_forward",
    "decoder_backward",
    "decoder_forward",
    "precompute",
    "sequence",
    "sequence_backward",
    "sequence_forward",
]

KERNELS = Backend(
    _core.cells(),
    _core.forward,
    _core.backward,
    checks.FLOATS,
    forward_all=_core.forward_all,
    backward_all=_core.backward_all,
    forward_chain=_core.forward_chain,
)


DECODER: decoding.Backend = Native(KERNELS)


def sequence_forward(
    cell: str,
    x: Array,
    state: State | None = None,
    params: dict[str, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to: str = "zero",
    batch_first: bool = False,
    dropout: float = 0.0,
    zoneout: float | tuple[float, ...] = 0.0,
    recurrent_dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    training: bool = True,
    out: Array | None = None,
    compute_dtype: str | None = None,
    return_states: bool = False,
    checkpoint: bool = False,
    **more: Unpack[CallOptions],
) -> Any:
    """Run a stack of recurrent layers and keep what the backward needs.

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    x : array (T, B, I), (B, T, I) with `batch_first`, or (T, I) for a single sequence
        float32 or float64, the dtype of the parameters.
    state : array or tuple of arrays (num_layers·directions, B, H), optional
        `h` for cells with one state, `(h, c, …)` for cells with more; zeros when None. A single sequence has
        no B axis.
    params : dict of arrays
        PyTorch's names and shapes: `weight_ih_l0` (4·H, I) for the LSTM, `weight_hh_l0`, `bias_ih_l0`,
        `bias_hh_l0`, `…_l0_reverse`, `…_l1`. Layers, directions and biases are read off the names.
    lengths : integers (B,), optional
        Valid steps of each row, 0 to T in any order. What lies behind, even NaN, has no influence; y is zero
        there. The reverse direction starts at the last valid step.
    mask : bool array (T, B), optional
        False skips the step for that row: the state carries over and y is zero. In the layout of x: (B, T)
        with `batch_first`, (T,) for a single sequence.
    resets : bool array (T, B), optional
        True restores the row's state before step t is computed, in either direction. In the layout of x.
        Skipped steps do not reset.
    reset_to : {"zero", "initial"}
        What a reset restores.
    dropout : float
        Probability of zeroing an output of every layer but the last; the rest is scaled by 1 / (1 - dropout).
    zoneout : float, or a tuple of one for each state
        Probability that a unit keeps its old state instead of the cell's new one; without training, how much
        of the old state each keeps (Krueger et al. 2017).
    recurrent_dropout : float
        Probability of zeroing a unit of the h that the recurrent product reads, one mask for all steps of a
        sequence; the rest is scaled by 1 / (1 - recurrent_dropout) (Gal & Ghahramani 2016).
    rng : numpy.random.Generator
        Source of the masks; required for them. Zoneout and recurrent dropout take one number of it a call,
        the key of a counter-based generator (Philox): the masks are the same for every number of threads.
    training : bool
        False draws no masks.
    out : array, optional
        Where to write y; it must share no memory with what is read.
    compute_dtype : {None, "bfloat16"}
        "bfloat16": with AVX512-BF16 the products round both sides to bfloat16, elsewhere those of the forward
        the weights; sums, states, outputs and gradients stay float32, which the arrays must be. Layers that
        are normalised, projected or split into heads, and cells of several products of h, stay float32
        altogether, of which a UserWarning tells.
    return_states : bool
        Whether the states after every step are returned, too.
    checkpoint : bool
        Keep the states of every √T-th step or so alone, and compute what lies between once more in the
        backward: a third more time, the same gradients bit by bit. See docs/performance.md.
    **more
        merge, heads, weight_dropout, recurrent_dropout_kind, cell_clip, gate_clip, activations: see
        `pyrnn.options.MoreOptions`. That layers differ in size, that c is normalised (`weight_ln_c_l0`), that
        the initial states are parameters (`h0_l0`, `c0_l0`): the names and shapes of the parameters say so.

    Returns
    -------
    y : array (T, B, H·directions), in the layout of x
    state : the state after each row's last valid step, in the structure of `state`
    states : with `return_states`, in the structure of `state`
        Arrays (num_layers·directions, T, B, H), with `batch_first` (num_layers·directions, B, T, H): the
        states of every layer and direction after every step, zero where a step was skipped.
    saved : Saved
        For `sequence_backward`. x and the parameters must not change until then; y may.

    Raises
    ------
    ValueError
        A shape, a name or a value is wrong.
    TypeError
        A dtype or a kind is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import sequence_backward, sequence_forward
    >>> params = {"weight_ih_l0": np.ones((5, 3)), "weight_hh_l0": np.zeros((5, 5))}
    >>> y, h, saved = sequence_forward("rnn_relu", np.ones((7, 2, 3)), None, params)
    >>> y.shape, h.shape, float(y[0, 0, 0])
    ((7, 2, 5), (1, 2, 5), 3.0)
    >>> sequence_backward(saved, np.ones_like(y)).params["weight_ih_l0"].shape
    (5, 3)

    Notes
    -----
    Equivalent to `torch.nn.LSTM`, `GRU`, `RNN` with the same parameters, for the cells that PyTorch has.
    """
    return stacking.from_names(
        KERNELS,
        cell,
        x,
        state,
        params,
        training,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_to=reset_to,
        batch_first=batch_first,
        dropout=dropout,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
        rng=rng,
        out=out,
        compute_dtype=compute_dtype,
        return_states=checks.flag("return_states", return_states),
        **more,
        save=True,
        checkpoint=checkpoint,
    )


def sequence_backward(
    saved: Saved, dy: Array | None, dstate: State | None = None, dstates: State | None = None
) -> Gradients:
    """Gradients of a scalar from its gradients with respect to what `sequence_forward` returned.

    Parameters
    ----------
    saved : Saved
        From `sequence_forward`; may be used more than once.
    dy : array, as y, or None for zeros
        Has no influence where a step was skipped, even when NaN.
    dstate : array or tuple of arrays, as the state, or None for zeros
    dstates : as the states of every step, or None for zeros
        Beside dy and dstate, not in their place. Has no influence where a step was skipped.

    Returns
    -------
    Gradients
        `x` in the layout of x, `state` in the structure of the state, `params` by name.

    Raises
    ------
    TypeError
        `saved` is something else, or a dtype is wrong.
    ValueError
        A shape is wrong.

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.GRU(3, 5, seed=0)
    >>> x = np.ones((7, 2, 3), np.float32)
    >>> y, h, saved = pyrnn.functional.sequence_forward("gru", x, None, layer.params)
    >>> grads = pyrnn.functional.sequence_backward(saved, y)  # of ½·Σy²
    >>> grads.x.shape, grads.state.shape, grads.params["weight_hh_l0"].shape
    ((7, 2, 3), (1, 2, 5), (15, 5))
    """
    return stacking.backward(saved, dy, dstate, dstates)


def sequence(
    cell: str,
    x: Array,
    state: State | None = None,
    params: dict[str, Array] | None = None,
    *,
    lengths: Any = None,
    mask: Array | None = None,
    resets: Array | None = None,
    reset_to: str = "zero",
    batch_first: bool = False,
    dropout: float = 0.0,
    zoneout: float | tuple[float, ...] = 0.0,
    recurrent_dropout: float = 0.0,
    rng: np.random.Generator | None = None,
    training: bool = False,
    out: Array | None = None,
    compute_dtype: str | None = None,
    return_states: bool = False,
    **more: Unpack[CallOptions],
) -> Any:
    """Run a stack of recurrent layers and keep nothing; see `sequence_forward`.

    Returns
    -------
    y : array (T, B, H·directions), in the layout of x
    state : the state after each row's last valid step
    states : with `return_states`

    Examples
    --------
    >>> import numpy as np, pyrnn
    >>> layer = pyrnn.LSTM(3, 5, seed=0)
    >>> y, (h, c) = pyrnn.functional.sequence("lstm", np.ones((7, 2, 3), np.float32), params=layer.params)
    >>> y.shape, c.shape
    ((7, 2, 5), (1, 2, 5))
    """
    return stacking.from_names(
        KERNELS,
        cell,
        x,
        state,
        params,
        training,
        lengths=lengths,
        mask=mask,
        resets=resets,
        reset_to=reset_to,
        batch_first=batch_first,
        dropout=dropout,
        zoneout=zoneout,
        recurrent_dropout=recurrent_dropout,
        rng=rng,
        out=out,
        compute_dtype=compute_dtype,
        return_states=checks.flag("return_states", return_states),
        **more,
    )[:-1]


def decoder_forward(
    cell: str,
    x: Array,
    memory: Array | Memory,
    params: dict[str, Array],
    state: State | None = None,
    *,
    attention: Mapping[str, Any],
    memory_lengths: Any = None,
    mask: Array | None = None,
    query: str = "current",
    input_feed: bool = True,
    feed: Array | None = None,
    previous: Array | None = None,
    coverage: Array | None = None,
    out: Array | None = None,
) -> tuple[Array, State, Array, decoding.Saved]:
    """Run a cell that attends to a memory at every step, and keep what the backward needs.

    With h the cell's output, c the context, [·; ·] side by side, W and b the attention layer::

        query="current" (Luong et al. 2015): h_t = cell([x_t; feed_{t-1}]); c_t = attention(h_t);
            feed_t = out_t with W, else c_t
        query="previous" (Bahdanau et al. 2015): c_t = attention(h_{t-1}); h_t = cell([x_t; c_t])
        out_t = tanh(W [c_t; h_t] + b), or [c_t; h_t] without W

    Parameters
    ----------
    cell : str
        A name in `pyrnn.cells()`.
    x : array (B, Tq, I)
        float32 or float64, the dtype of the parameters.
    memory : array (B, Tk, M)
        Key and value; or what `precompute` made of them and their lengths.
    params : dict of arrays
        `weight_ih` (slots·H, I + fed), `weight_hh` (slots·H, H), and optionally `bias_ih`, `bias_hh`
        (slots·H,), `weight_attention` (O, M + H), `bias_attention` (O,); either all biases or none. fed is
        what the cell reads beside x: O with an attention layer and the current query, else M, and 0 without
        `input_feed`.
    state : array (B, H), or a tuple (h, c, …) of them, optional
        Zeros when None.
    attention : dict
        Keyword arguments of `attention_forward`: score, params, scale, causal, window, alignment, local,
        query_offset. Dq is H, Dk is M.
    memory_lengths : integers (B,), optional
        Elements of each row's memory that count.
    mask : array, optional
        Broadcastable to (B, Tq, Tk), as in `attention_forward`.
    query : {"current", "previous"}
    input_feed : bool
        False: the cell reads x alone.
    feed : array (B, O), or (B, M) without an attention layer, optional
        feed_{-1} of the current query's; zeros when None.
    previous, coverage : array (B, Tk), optional
        Weights before the first step, and their sum, for scores that read them; as in `attention_forward`.
    out : array (B, Tq, O), optional
        Where to write the outputs; it must share no memory with what is read.

    Returns
    -------
    outputs : array (B, Tq, O), O = M + H without an attention layer
    state : the last state, in the structure of `state`
    weights : array (B, Tq, Tk)
    saved : Saved
        For `decoder_backward`. x, memory and the parameters must not change until then.

    Raises
    ------
    ValueError
        A shape, a name or a value is wrong.
    TypeError
        A dtype or a kind is wrong.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import decoder_backward, decoder_forward
    >>> params = {"weight_ih": np.ones((5, 3 + 4)), "weight_hh": np.zeros((5, 5))}
    >>> attention = {"score": "general", "params": {"weight": np.ones((5, 4))}}
    >>> x, memory = np.ones((2, 6, 3)), np.ones((2, 7, 4))
    >>> outputs, h, weights, saved = decoder_forward("rnn_tanh", x, memory, params, attention=attention)
    >>> outputs.shape, h.shape, weights.shape
    ((2, 6, 9), (2, 5), (2, 6, 7))
    >>> decoder_backward(saved, outputs).memory.shape
    (2, 7, 4)
    """
    return placing.decode(
        DECODER,
        cell,
        x,
        memory,
        params,
        state,
        attention=attention,
        memory_lengths=memory_lengths,
        mask=mask,
        query=query,
        input_feed=input_feed,
        feed=feed,
        previous=previous,
        coverage=coverage,
        out=out,
        save=True,
    )


def decoder_backward(
    saved: decoding.Saved,
    doutputs: Array | None,
    dstate: State | None = None,
    dweights: Array | None = None,
) -> DecoderGradients:
    """Gradients of a scalar from its gradients with respect to what `decoder_forward` returned.

    Parameters
    ----------
    saved : Saved
        From `decoder_forward`; may be used more than once.
    doutputs, dstate, dweights : as the outputs, the state and the weights, or None for zeros

    Returns
    -------
    DecoderGradients
        x, memory, state, feed, params, attention (the score's parameters), previous, coverage; feed, previous
        and coverage when they were given.

    Raises
    ------
    TypeError
        `saved` is something else, or a dtype is wrong.
    ValueError
        A shape is wrong, or the alignment has no gradient.

    Examples
    --------
    >>> import numpy as np
    >>> from pyrnn.functional import decoder_backward, decoder_forward
    >>> params = {"weight_ih": np.ones((5, 7)), "weight_hh": np.zeros((5, 5))}
    >>> attention = {"score": "general", "params": {"weight": np.ones((5, 4))}}
    >>> x, memory = np.ones((2, 6, 3)), np.ones((2, 7, 4))
    >>> outputs, h, weights, saved = decoder_forward("rnn_tanh", x, memory, params, attention=attention)
    >>> grads = decoder_backward(saved, outputs, dweights=weights)
    >>> grads.x.shape, grads.attention["weight"].shape
    ((2, 6, 3), (5, 4))
    """
    return placing.decode_backward(saved, doutputs, dstate, dweights)
