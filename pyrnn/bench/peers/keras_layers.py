# SPDX-License-Identifier: Apache-2.0
"""Keras: its layers on the back end that KERAS_BACKEND names, or else on JAX, where they are compiled."""

from __future__ import annotations

import importlib.util
import os
from typing import Any

import numpy as np

from pyrnn.bench.peers.peer import Peer
from pyrnn.bench.problem import Problem
from pyrnn.io.keras_layers import CLASSES, weights_of
from pyrnn.layout import Array

#: The options of each cell's layer.
OPTIONS: dict[str, dict[str, Any]] = {"gru": {"reset_after": True}, "rnn_relu": {"activation": "relu"}}


class Keras(Peer):
    """Inference of one layer."""

    name = "keras"
    modules = ("keras",)
    modes = ("inference",)
    forms = ("plain",)

    def __init__(self, problem: Problem, threads: int) -> None:
        super().__init__(problem, threads)
        if "KERAS_BACKEND" not in os.environ:
            os.environ["KERAS_BACKEND"] = "jax" if importlib.util.find_spec("jax") else "torch"
        import keras

        case, params = self.case, problem.params
        kind, options = CLASSES[case.cell], OPTIONS.get(case.cell, {})
        layer = getattr(keras.layers, kind)(case.H, return_sequences=True, **options)
        layer.build((case.B, case.T, case.I))
        layer.set_weights(weights_of(case.cell, params, "_l0"))
        self.x = keras.ops.convert_to_tensor(np.ascontiguousarray(problem.x.swapaxes(0, 1)))
        self.backend = keras.backend.backend()
        if self.backend == "jax":
            import jax

            variables = (
                [v.value for v in layer.trainable_variables],
                [v.value for v in layer.non_trainable_variables],
            )
            call = jax.jit(
                lambda trainable, rest, x: layer.stateless_call(trainable, rest, x, training=False)[0]
            )
            self.run = lambda: call(*variables, self.x).block_until_ready()  # type: ignore[method-assign]
        elif self.backend == "torch":
            import torch

            torch.set_num_threads(threads)
            self.run = torch.inference_mode()(lambda: layer(self.x))  # type: ignore[method-assign]
        else:
            raise ValueError(f"KERAS_BACKEND: expected jax or torch, got {self.backend}")

    def result(self, ran: Any) -> dict[str, Array]:
        """Time first."""
        return {"y": np.asarray(ran).swapaxes(0, 1)}
