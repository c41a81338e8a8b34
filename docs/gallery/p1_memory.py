# SPDX-License-Identifier: Apache-2.0
r"""
From a plain network to the LSTM
================================

A recurrent layer reads a sequence one step at a time and carries a state along. What the state still knows
of the past is all that the layer remembers. This page looks at that state.
"""

# %%
# The plain recurrent network (Elman 1990) has one equation,
#
# .. math:: h_t = \tanh(W x_t + R h_{t-1} + b),
#
# and five lines of NumPy are the whole layer:

import matplotlib.pyplot as plt
import numpy as np

import pyrnn
from pyrnn import viz

rng = np.random.default_rng(0)
layer = pyrnn.RNN(input_size=4, hidden_size=16, seed=0)
x = rng.normal(size=(30, 1, 4)).astype("float32")  # (T, B, I): 30 steps of one sequence
w, r, b_x, b_h = (layer.params[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))

h = np.zeros((1, 16))
outputs = []
for x_t in x:
    h = np.tanh(x_t @ w.T + b_x + h @ r.T + b_h)
    outputs.append(h)

y, state = layer(x)
print(f"largest difference: {abs(y - outputs).max():.1e}")

# %%
# Let the sequence say something once, at its first step, and nothing afterwards. The difference between the
# states with and without that first step is what the layer remembers of it.


def remembered(layer, steps=40):
    """Difference of every unit at every step (T, H)."""
    silence = np.zeros((steps, 1, 4), "float32")
    word = silence.copy()
    word[0] = 1
    return (layer(word)[0] - layer(silence)[0])[:, 0]


def lstm(forget_bias):
    """An LSTM whose forget gates start out more or less open."""
    layer = pyrnn.LSTM(4, 16, seed=0)
    layer.params["bias_ih_l0"][16:32] += forget_bias  # gate order i f g o
    return layer


layers = {"plain": layer, "LSTM": lstm(0), "LSTM, forget bias 4": lstm(4)}
figure, axes = plt.subplots(3, figsize=(8, 5.5), layout="constrained", sharex=True)
for ax, (name, some) in zip(axes, layers.items(), strict=True):
    found = remembered(some)
    viz.hidden_state(found / abs(found).max(), limit=1, ax=ax).set_title(name)
    ax.set_xlabel("")
axes[-1].set_xlabel("steps after the word")
plt.show()

# %%
# The plain network multiplies its state by the same matrix at every step, and what it knew is gone after a
# few. The LSTM (Hochreiter & Schmidhuber 1997, Gers et al. 2000) keeps a second state, c, beside h, and
# decides by gates what happens to it:
#
# .. math::
#
#    i, f, o &= \sigma(W x_t + R h_{t-1} + b) \quad\text{(each with its own weights)} \\
#    g &= \tanh(W_g x_t + R_g h_{t-1} + b_g) \\
#    c_t &= f \cdot c_{t-1} + i \cdot g \\
#    h_t &= o \cdot \tanh(c_t)
#
# The old c is multiplied by f alone, unit by unit: with f close to 1 it stays as it is. An untrained LSTM
# has f near one half and forgets nearly as fast as the plain network; with a bias of 4, σ(4) = 0.98 of
# every unit's c is left after each step. Training moves these gates. The same in numbers, halving times of
# the memory:

for name, some in layers.items():
    size = np.linalg.norm(remembered(some), axis=1)
    rate = (size[-1] / size[5]) ** (1 / (len(size) - 6))
    print(f"{name:>20}: {rate:.3f} a step, half after {np.log(0.5) / np.log(rate):.1f} steps")
