# SPDX-License-Identifier: Apache-2.0
"""JAX: `lax.scan` over steps under `jit`, and its gradient. Threads: those that XLA finds, by affinity.

bfloat16: both sides of the products, summed in float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pyrnn.bench import formulas
from pyrnn.bench.formulas import Ops
from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.layout import Array


class JaxScan(Peer):
    """The formulas, compiled by XLA."""

    name = "jax"
    modules = ("jax",)
    cells = tuple(formulas.STEPS)
    computes = ("float32", "bfloat16")

    def __init__(self, problem: Problem, threads: int) -> None:
        import jax
        import jax.numpy as jnp

        super().__init__(problem, threads)
        case, self.jax, self.jnp = self.case, jax, jnp
        cpu = jax.devices("cpu")[0]
        self.ops = Ops(
            jax.nn.sigmoid, jnp.tanh, jax.nn.relu, jnp.where, jnp.zeros, jnp.stack,
            lambda arrays: jnp.concatenate(arrays, axis=-1),
        )  # fmt: skip
        self.params = {name: jax.device_put(p, cpu) for name, p in problem.params.items()}
        self.x, self.dy = jax.device_put(problem.x, cpu), jax.device_put(problem.dy, cpu)
        self.mask = None if problem.mask is None else jax.device_put(problem.mask, cpu)
        zeros = (jax.device_put(np.zeros((case.B, case.H), np.float32), cpu),) * formulas.states_of(case.cell)
        self.states: Any = [zeros] * case.layers
        self.row = jax.device_put(problem.x[0], cpu)
        self.forward = jax.jit(self.sequence)
        self.gradients = jax.jit(self.pull)
        self.advance = jax.jit(self.one_step)
        self.choose(inference=self.infer, training=self.train, stream=self.step)

    def product(self, a: Any, w: Any) -> Any:
        """a·wᵀ in the case's numbers, summed in float32."""
        dtype = self.jnp.dtype(self.case.compute)
        return self.jnp.matmul(a.astype(dtype), w.T.astype(dtype), preferred_element_type=self.jnp.float32)

    def sequence(self, params: Any, x: Any) -> Any:
        """y."""
        case, step = self.case, formulas.STEPS[self.case.cell]

        def run(p: formulas.Params, x: Any, reverse: bool) -> Any:
            ax = self.product(x, p["weight_ih"]) + p["bias_ih"]
            zeros = self.jnp.zeros((case.B, case.H), self.jnp.float32)

            def body(state: Any, inputs: Any) -> Any:
                a, there = inputs
                ah = self.product(state[0], p["weight_hh"]) + p["bias_hh"]
                new = step(self.ops, a, ah, state, p)
                if there is None:
                    return new, new[0]
                kept = tuple(self.jnp.where(there, p, q) for p, q in zip(new, state, strict=True))
                return kept, self.jnp.where(there, new[0], 0)

            start = (zeros,) * formulas.states_of(case.cell)
            return self.jax.lax.scan(body, start, (ax, self.mask), reverse=reverse)[1]

        return formulas.stacked(self.ops, case.layers, case.directions, params, x, run)

    def pull(self, params: Any, x: Any, dy: Any) -> Any:
        """y, and the gradients of the parameters and of x."""
        y, back = self.jax.vjp(self.sequence, params, x)
        return y, *back(dy)

    def one_step(self, params: Any, x: Any, states: Any) -> Any:
        """y and the new states."""
        layers = [formulas.of_layer(params, f"_l{layer}") for layer in range(self.case.layers)]
        return formulas.one_step(self.ops, self.case.cell, layers, x, states, self.product)

    def infer(self) -> Any:
        """y."""
        return self.forward(self.params, self.x).block_until_ready()

    def train(self) -> Any:
        """y and gradients."""
        return self.jax.block_until_ready(self.gradients(self.params, self.x, self.dy))

    def step(self) -> Any:
        """The next y."""
        y, self.states = self.advance(self.params, self.row, self.states)
        return y.block_until_ready()

    def result(self, ran: Any) -> dict[str, Array]:
        """NumPy's arrays."""
        if self.case.mode != "training":
            return {"y": np.asarray(ran)}
        y, params, x = ran
        return {"y": np.asarray(y), "x": np.asarray(x), **{name: np.asarray(p) for name, p in params.items()}}
