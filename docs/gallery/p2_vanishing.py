# SPDX-License-Identifier: Apache-2.0
r"""
Vanishing gradients
===================

Whether a layer can learn to remember depends on the way back: the gradient of a loss at the last step has to
reach the step that mattered. Here is how long it is at every step, before and after training.
"""

# %%
# With L a loss at the last step T, the gradient by the state of an earlier step is a product of one Jacobian
# matrix for each step between them,
#
# .. math::
#
#    \frac{\partial L}{\partial h_t} =
#    \left(\frac{\partial h_{t+1}}{\partial h_t}\right)^{\!\top} \cdots
#    \left(\frac{\partial h_T}{\partial h_{T-1}}\right)^{\!\top} \frac{\partial L}{\partial h_T},
#
# and products of many matrices shrink or grow exponentially (Bengio et al. 1994, Pascanu et al. 2013).
# `layer.backward` gives each factor: a call of one step, with the gradient of its final state going in and
# that of its initial state coming out.

import matplotlib.pyplot as plt
import numpy as np

import pyrnn
from pyrnn import viz

T, B, H = 60, 8, 32
x = np.random.default_rng(0).normal(size=(T, B, 2))


def lengths(layer):
    """|∂L/∂h_t| of the loss ½|h_T|², for every step t (T,)."""
    state, kept = None, []
    for t in range(T):
        y, state, saved = layer.forward(x[t : t + 1], state)
        kept.append(saved)
    several = isinstance(state, tuple)
    gradient = (y, np.zeros_like(y)) if several else y
    found = np.zeros(T)
    for t in reversed(range(T)):
        found[t] = np.linalg.norm(gradient[0] if several else gradient)
        gradient = layer.backward(kept[t], None, gradient).state
    return found / found[-1]


cells = {"plain": "rnn_tanh", "GRU": "gru", "LSTM": "lstm"}
layers = {name: pyrnn.Recurrent(cell, 2, H, dtype="float64", seed=0) for name, cell in cells.items()}
viz.gradient_norms({name: lengths(layer) for name, layer in layers.items()}).set_title("at initialisation")
plt.show()

# %%
# All three fall on straight lines of a logarithmic scale. A gate that starts out half open is no protection:
# what saves the LSTM and the GRU is that they can learn to open it. The forget gate's bias is commonly
# started at 1 for that reason (Gers et al. 2000, Jozefowicz et al. 2015).
#
# Training on the adding problem shows it: of 40 numbers two are marked, and their sum is due at the end.
# :code:`pyrnn gradients` is the same on 100 steps and with more patience.

from pyrnn.examples.config import GradientsConfig
from pyrnn.examples.vanishing import Vanishing, seen

config = GradientsConfig(length=40, hidden=32, steps=1600, batch=32)
vanishing = Vanishing(list(cells.values()), config)
for _ in cells:
    for _ in range(config.steps):
        vanishing.advance()
    vanishing.validation()  # the end of a cell's training

figure, axes = plt.subplots(1, 2, figsize=(9, 4), sharey=True, layout="constrained")
for ax, (moment, found) in zip(axes, vanishing.moments.items(), strict=True):
    viz.gradient_norms({cell: f.states for cell, f in found.items()}, floor=1e-9, ax=ax).set_title(moment)
axes[0].legend(loc="lower right", fontsize=8)
plt.show()
print("\n".join(seen(vanishing)))

# %%
# Both gated cells have solved the task, and the line of ∂L/∂c, the LSTM's cell state, has become flat: a
# gradient that arrives at the end is still there at the beginning. The plain network can be taught to pass a
# gradient over 40 steps, and is far behind; over 100 it learns nothing at all (:doc:`/variants`). The next
# page but one looks at the belt of the LSTM.
