# SPDX-License-Identifier: Apache-2.0
"""Every cell as a loop of PyTorch's operations: what one writes for a cell that PyTorch lacks."""

import torch
from torch import sigmoid, tanh
from torch.nn.functional import layer_norm, linear


def lstm(g, s, p, h):
    i, f, g, o = g
    c = sigmoid(f) * s[1] + sigmoid(i) * tanh(g)
    return sigmoid(o) * tanh(c), c


def lstm_peephole(g, s, p, h):
    (i, f, g, o), (pi, pf, po) = g, p
    c = sigmoid(f + pf * s[1]) * s[1] + sigmoid(i + pi * s[1]) * tanh(g)
    return sigmoid(o + po * c) * tanh(c), c


def lstm_coupled(g, s, p, h):
    i, c = sigmoid(g[0]), s[1]
    c = c + i * (tanh(g[1]) - c)
    return sigmoid(g[2]) * tanh(c), c


def lstm_no_input_gate(g, s, p, h):
    c = sigmoid(g[0]) * s[1] + tanh(g[1])
    return sigmoid(g[2]) * tanh(c), c


def lstm_no_forget_gate(g, s, p, h):
    c = s[1] + sigmoid(g[0]) * tanh(g[1])
    return sigmoid(g[2]) * tanh(c), c


def lstm_no_output_gate(g, s, p, h):
    c = sigmoid(g[1]) * s[1] + sigmoid(g[0]) * tanh(g[2])
    return tanh(c), c


def lstm_no_input_activation(g, s, p, h):
    c = sigmoid(g[1]) * s[1] + sigmoid(g[0]) * g[2]
    return sigmoid(g[3]) * tanh(c), c


def lstm_no_output_activation(g, s, p, h):
    c = sigmoid(g[1]) * s[1] + sigmoid(g[0]) * tanh(g[2])
    return sigmoid(g[3]) * c, c


def janet(g, s, p, h):
    return (sigmoid(g[0]) * s[0] + sigmoid(1 - g[0]) * tanh(g[1]),)


def slstm(g, s, p, h):
    _, c, n, m = s
    log_f = g[1] + m
    m = torch.maximum(log_f, g[0])
    i, f = torch.exp(g[0] - m), torch.exp(log_f - m)
    c, n = f * c + i * tanh(g[2]), f * n + i
    return sigmoid(g[3]) * c / n, c, n, m


def rnn_tanh(g, s, p, h):
    return (tanh(g[0]),)


def rnn_relu(g, s, p, h):
    return (torch.relu(g[0]),)


#: Those whose slots are all x's and h's products added up.
PLAIN = [lstm, lstm_peephole, lstm_coupled, lstm_no_input_gate, lstm_no_forget_gate, lstm_no_output_gate]
PLAIN += [lstm_no_input_activation, lstm_no_output_activation, janet, slstm, rnn_tanh, rnn_relu]
PLAIN = {cell.__name__: cell for cell in PLAIN}


def gru(x, s, p, h):
    (rx, zx, nx), (rh, zh, nh) = x, h(s[0], 0, 3)
    z, n = sigmoid(zx + zh), tanh(nx + sigmoid(rx + rh) * nh)
    return (n + z * (s[0] - n),)


def gru_reset_before(x, s, p, h):
    rh, zh = h(s[0], 0, 2)
    z = sigmoid(x[1] + zh)
    n = tanh(x[2] + h(sigmoid(x[0] + rh) * s[0], 2, 3)[0])
    return (n + z * (s[0] - n),)


def mgu(x, s, p, h):
    f = sigmoid(x[0] + h(s[0], 0, 1)[0])
    n = tanh(x[1] + h(f * s[0], 1, 2)[0])
    return (s[0] + f * (n - s[0]),)


def mut1(x, s, p, h):
    r, z = sigmoid(x[0] + h(s[0], 0, 1)[0]), sigmoid(x[1])
    n = tanh(tanh(x[2]) + h(r * s[0], 1, 2)[0])
    return (s[0] + z * (n - s[0]),)


def mut2(x, s, p, h):
    rh, zh = h(s[0], 0, 2)
    z = sigmoid(x[1] + zh)
    n = tanh(x[2] + h(sigmoid(x[0] + rh) * s[0], 2, 3)[0])
    return (s[0] + z * (n - s[0]),)


def mut3(x, s, p, h):
    r, z = sigmoid(x[0] + h(s[0], 0, 1)[0]), sigmoid(x[1] + h(tanh(s[0]), 1, 2)[0])
    n = tanh(x[2] + h(r * s[0], 2, 3)[0])
    return (s[0] + z * (n - s[0]),)


def indrnn_tanh(x, s, p, h):
    return (tanh(x[0] + p[0] * s[0]),)


def indrnn_relu(x, s, p, h):
    return (torch.relu(x[0] + p[0] * s[0]),)


def clockwork(x, s, p, h):
    rests = s[1] > 0
    return torch.where(rests, s[0], tanh(x[0] + h(s[0], 0, 1)[0])), torch.where(rests, s[1], p[0]) - 1


def lstm_gate_recurrence(x, s, p, h):
    i, f, g, o = (a + b for a, b in zip(x, h(s[0], 0, 4), strict=True))
    for k in range(3):
        more = h(s[2 + k], 4 + 3 * k, 7 + 3 * k)
        i, f, o = i + more[0], f + more[1], o + more[2]
    i, f, o = sigmoid(i), sigmoid(f), sigmoid(o)
    c = f * s[1] + i * tanh(g)
    return o * tanh(c), c, i, f, o


STAGED = [
    gru,
    gru_reset_before,
    mgu,
    mut1,
    mut2,
    mut3,
    indrnn_tanh,
    indrnn_relu,
    clockwork,
    lstm_gate_recurrence,
]
STAGED = {cell.__name__: cell for cell in STAGED}


def lstm_of(options, x, p):
    """An LSTM with options that act inside a step, or on h."""
    bound, clip, heads = (options.get(name) for name in ("gate_clip", "cell_clip", "heads"))
    hard = "activations" in options
    r, w_hr, H = p["weight_hh"], p.get("weight_hr"), len(p["weight_ih"]) // 4
    split = None if heads is None else r.view(4, heads, H // heads, -1)
    inputs = linear(x, p["weight_ih"], p["bias_ih"] + p["bias_hh"])
    h, c, ys = x.new_zeros(x.shape[1], r.shape[1] * (heads or 1)), x.new_zeros(x.shape[1], H), []
    for a in inputs:
        if split is None:
            a = a + linear(h, r)
        else:
            blocks = torch.einsum("bnk,snjk->bsnj", h.view(len(h), heads, -1), split)
            a = a + blocks.reshape(len(h), 4 * H)
        if bound:
            a = a.clamp(-bound, bound)
        i, f, g, o = a.chunk(4, 1)
        i, f, o = ((0.2 * v + 0.5).clamp(0, 1) if hard else sigmoid(v) for v in (i, f, o))
        c = f * c + i * tanh(g)
        if clip:
            c = c.clamp(-clip, clip)
        out = layer_norm(c, (H,), p["weight_ln_c"], p["bias_ln_c"]) if "weight_ln_c" in p else c
        h = o * tanh(out)
        if w_hr is not None:
            h = linear(h, w_hr)
        ys.append(h)
    return torch.stack(ys)


def layer(cell, states, options, x, params):
    """One layer's outputs (T, B, H); None for options that are not written here."""
    p = {name.removesuffix("_l0"): a for name, a in params.items()}
    if set(options) - {"layer_norm"}:
        drawn = {"zoneout", "recurrent_dropout"} & set(options)
        return None if drawn or cell != "lstm" else lstm_of(options, x, p)
    w, r, H = p["weight_ih"], p.get("weight_hh"), x.shape[2]
    per_unit = next((a for name, a in p.items() if name == "weight_hh" and a.shape[0] == 1 != H), None)
    for name in ("weight_peephole", "weight_period"):
        per_unit = p.get(name, per_unit)
    if cell == "clockwork":
        r = torch.where(per_unit[0] >= per_unit[0][:, None], r, 0)
    b = p["bias_ih"] + (p["bias_hh"] if cell in PLAIN else 0)
    inputs = linear(x, w)
    if options:
        inputs = layer_norm(inputs, (len(w),), p["weight_ln_ih"])
    inputs = inputs + b

    def product(v, first, last):
        rows = slice(first * H, last * H)
        return linear(v, r[rows], p["bias_hh"][rows]).chunk(last - first, 1)

    s, ys = (x.new_zeros(x.shape[1], H),) * states, []
    for a in inputs:
        if cell in PLAIN:
            recurrent = linear(s[0], r)
            if options:
                recurrent = layer_norm(recurrent, (len(r),), p["weight_ln_hh"])
            s = PLAIN[cell]((a + recurrent).chunk(len(w) // H, 1), s, per_unit, None)
        else:
            s = STAGED[cell](a.chunk(len(w) // H, 1), s, per_unit, product)
        ys.append(s[0])
    return torch.stack(ys)
