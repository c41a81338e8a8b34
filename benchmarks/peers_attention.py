# SPDX-License-Identifier: Apache-2.0
"""Attention and the decoder in the libraries that are compared, on the same numbers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

import pyrnn
from pyrnn import functional


class Pair(NamedTuple):
    """Projected queries and keys, and values, of one score."""

    score: str
    B: int
    Tq: int
    Tk: int
    D: int

    def flops(self, mode: str) -> float:
        """What the pairs cost at the least.

        A product is one multiply-add for the score and one for the context, twice that in the backward.
        An additive score is four, the reciprocal's correction included, and its backward seven; its
        products are left out.
        """
        pairs = 2.0 * self.B * self.Tq * self.Tk * self.D
        if self.score == "additive":
            return pairs * (4 if mode == "forward" else 11)
        return pairs * (2 if mode == "forward" else 6)


class DecoderCase(NamedTuple):
    """An LSTM with H inputs, units, memory features and outputs, attention layer and input feeding."""

    score: str
    B: int
    T: int
    Tk: int
    H: int

    def flops(self, mode: str) -> float:
        """Of the products with weights."""
        weights = 4 * self.H * 3 * self.H + self.H * self.H + 2 * self.H * self.H
        return 2.0 * self.B * self.T * weights * (1 if mode == "forward" else 3)


def numbers(*shape: int, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, *shape)).standard_normal(shape, dtype=np.float32) * np.float32(scale)


class PyrnnAttention:
    name = "pyrnn"

    def __init__(self, case: Pair, threads: int) -> None:
        pyrnn.set_num_threads(threads)
        self.case = case
        D = case.D
        self.query, self.key = numbers(case.B, case.Tq, D), numbers(case.B, case.Tk, D, seed=1)
        self.value, self.dcontext = numbers(case.B, case.Tk, D, seed=2), numbers(case.B, case.Tq, D, seed=3)
        self.params = {"weight_score": numbers(D, scale=D**-0.5)} if case.score == "additive" else None
        self.score = "scaled_dot" if case.score == "dot" else case.score

    def forward(self) -> dict[str, np.ndarray]:
        context, weights = pyrnn.attention(
            self.query, self.key, self.value, score=self.score, params=self.params, return_weights=True
        )
        return {"context": context} | ({"weights": weights} if self.case.score == "additive" else {})

    def train(self) -> dict[str, np.ndarray]:
        *_, saved = functional.attention_forward(
            self.query, self.key, self.value, score=self.score, params=self.params
        )
        grads = functional.attention_backward(saved, self.dcontext)
        return {"query": grads.query, "key": grads.key, "value": grads.value, **grads.params}


class TorchAttention:
    name = "pytorch"

    def __init__(self, case: Pair, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.case = torch, case
        ours = PyrnnAttention(case, threads)
        self.inputs = {
            name: torch.tensor(getattr(ours, name), requires_grad=True) for name in ("query", "key", "value")
        }
        if ours.params:
            self.inputs["weight_score"] = torch.tensor(ours.params["weight_score"], requires_grad=True)
        self.dcontext = torch.tensor(ours.dcontext)
        self.function = self.compiled(self.additive if case.score == "additive" else self.dot)

    def compiled(self, function):
        return function

    def additive(self, query, key, value, weight_score):
        scores = self.torch.tanh(query[:, :, None] + key[:, None]) @ weight_score
        weights = self.torch.softmax(scores, -1)
        return weights @ value, weights

    def dot(self, query, key, value):
        return self.torch.nn.functional.scaled_dot_product_attention(query, key, value), None

    def forward(self) -> dict[str, np.ndarray]:
        with self.torch.no_grad():
            context, weights = self.function(*self.inputs.values())
        return {"context": context.numpy()} | ({} if weights is None else {"weights": weights.numpy()})

    def train(self) -> dict[str, np.ndarray]:
        for a in self.inputs.values():
            a.grad = None
        self.function(*self.inputs.values())[0].backward(self.dcontext)
        return {name: a.grad.numpy() for name, a in self.inputs.items()}


class CompiledAttention(TorchAttention):
    name = "torch.compile"

    def compiled(self, function):
        return self.torch.compile(function, dynamic=False)


class PyrnnDecoder:
    name = "pyrnn"

    def __init__(self, case: DecoderCase, threads: int) -> None:
        pyrnn.set_num_threads(threads)
        B, T, Tk, H = case[1:]
        scale = H**-0.5
        self.x, self.memory, self.doutputs = (
            numbers(B, T, H),
            numbers(B, Tk, H, seed=1),
            numbers(B, T, H, seed=2),
        )
        self.params = {
            "weight_ih": numbers(4 * H, 2 * H, scale=scale), "weight_hh": numbers(4 * H, H, scale=scale),
            "bias_ih": numbers(4 * H, scale=scale), "bias_hh": numbers(4 * H, scale=scale, seed=1),
            "weight_attention": numbers(H, 2 * H, scale=scale), "bias_attention": numbers(H, scale=scale),
        }  # fmt: skip
        self.score = {"weight": numbers(H, H, scale=scale / 4)}
        if case.score == "additive":
            self.score = {
                "weight_query": numbers(H, H, scale=scale), "weight_key": numbers(H, H, scale=scale, seed=1),
                "weight_score": numbers(H, scale=scale),
            }  # fmt: skip
        self.attention = {"score": case.score, "params": self.score}

    def run(self):
        return functional.decoder_forward("lstm", self.x, self.memory, self.params, attention=self.attention)

    def forward(self) -> dict[str, np.ndarray]:
        outputs, _, weights, _ = self.run()
        return {"outputs": outputs, "weights": weights}

    def train(self) -> dict[str, np.ndarray]:
        grads = functional.decoder_backward(self.run()[3], self.doutputs)
        return {"x": grads.x, "memory": grads.memory, **grads.params, **grads.attention}


class TorchDecoder:
    """The same model as everybody writes it: a Python loop over torch.nn.LSTMCell."""

    name = "pytorch"

    def __init__(self, case: DecoderCase, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.torch, self.case = torch, case
        ours = PyrnnDecoder(case, threads)

        def leaf(a: np.ndarray):
            return torch.tensor(a, requires_grad=True)

        self.x, self.memory, self.doutputs = leaf(ours.x), leaf(ours.memory), torch.tensor(ours.doutputs)
        self.cell = torch.nn.LSTMCell(2 * case.H, case.H)
        self.cell.load_state_dict(
            {name: torch.tensor(a) for name, a in ours.params.items() if "attention" not in name}
        )
        self.params = dict(self.cell.named_parameters())
        self.params |= {name: leaf(a) for name, a in ours.params.items() if "attention" in name}
        self.score = {name: leaf(a) for name, a in ours.score.items()}

    def run(self):
        torch, p, a, memory = self.torch, self.params, self.score, self.memory
        zeros = torch.zeros(self.case.B, self.case.H)
        state, feed, outputs, alignment = (zeros, zeros), zeros, [], []
        keys = memory @ a["weight_key"].T if "weight_key" in a else memory
        for x in self.x.unbind(1):
            state = self.cell(torch.cat([x, feed], 1), state)
            if "weight_key" in a:
                scores = torch.tanh((state[0] @ a["weight_query"].T)[:, None] + keys) @ a["weight_score"]
            else:
                scores = torch.bmm(keys, (state[0] @ a["weight"])[:, :, None])[:, :, 0]
            weights = torch.softmax(scores, 1)
            context = torch.bmm(weights[:, None], memory)[:, 0]
            joined = torch.cat([context, state[0]], 1)
            feed = torch.tanh(torch.nn.functional.linear(joined, p["weight_attention"], p["bias_attention"]))
            outputs.append(feed)
            alignment.append(weights)
        return torch.stack(outputs, 1), torch.stack(alignment, 1)

    def forward(self) -> dict[str, np.ndarray]:
        with self.torch.no_grad():
            outputs, weights = self.run()
        return {"outputs": outputs.numpy(), "weights": weights.numpy()}

    def train(self) -> dict[str, np.ndarray]:
        leaves = {"x": self.x, "memory": self.memory, **self.params, **self.score}
        for a in leaves.values():
            a.grad = None
        self.run()[0].backward(self.doutputs)
        return {name: a.grad.numpy() for name, a in leaves.items()}
