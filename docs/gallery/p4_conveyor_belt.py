# SPDX-License-Identifier: Apache-2.0
r"""
The cell state as a conveyor belt
=================================

Things are put on it, ride along, and are taken off: an LSTM that learns to count shows what its second state
is for.
"""

# %%
# The task is that of Gers & Schmidhuber (2001): read strings of n letters a and then n letters b, and say
# at each step what comes next. After the first b all is determined: as many b as there were a, then the
# end, here a dot. Nothing but a count can tell when.

import matplotlib.pyplot as plt
import numpy as np

import pyrnn
from pyrnn import viz

LETTERS = ".ab"
rng = np.random.default_rng(1)
layer = pyrnn.LSTM(input_size=3, hidden_size=4, seed=4)
head = rng.normal(0, 0.5, (3, 4)).astype("float32")
weights = {**layer.params, "head": head}
mean = {name: np.zeros_like(a) for name, a in weights.items()}
square = {name: np.zeros_like(a) for name, a in weights.items()}


def strings(counts, longest):
    """One-hot (T, B, 3) of .aabb., letters that follow as numbers (T, B), and lengths."""
    T = 2 * longest + 1
    ids = np.zeros((T + 1, len(counts)), int)
    for k, n in enumerate(counts):
        ids[1 : n + 1, k], ids[n + 1 : 2 * n + 1, k] = 1, 2
    return np.eye(3, dtype="float32")[ids[:-1]], ids[1:], 2 * np.asarray(counts) + 1


for step in range(1, 1501):
    x, due, lengths = strings(rng.integers(1, 11, 32), 10)
    y, _, saved = layer.forward(x, lengths=lengths)
    p = np.exp(y @ head.T)
    p /= p.sum(-1, keepdims=True)
    d = p - np.eye(3)[due]
    # What follows an a cannot be known; b and the end can.
    known = (np.arange(len(x))[:, None] < lengths) & (x[..., 1] == 0) & (x[..., 0] == 0)
    d = (d * known[..., None] / known.sum()).astype("float32")
    gradients = layer.backward(saved, d @ head).params | {"head": np.einsum("tbo,tbh->oh", d, y)}
    for name, g in gradients.items():  # Adam
        mean[name] += 0.1 * (g - mean[name])
        square[name] += 0.01 * (g * g - square[name])
        rate = 0.02 * min(1, 2 - 2 * step / 1501)
        update = mean[name] / (1 - 0.9**step) / (np.sqrt(square[name] / (1 - 0.99**step)) + 1e-8)
        weights[name] -= rate * update

# %%
# It has seen strings up to n = 10. Those of which it gets every b and the end right, alone:

right = []
for n in range(1, 31):
    x, due, _ = strings([n], n)
    said = (layer(x)[0] @ head.T).argmax(-1)
    if (said == due)[n + 1 :].all():
        right.append(n)
print("right for n =", *right)

# %%
# What a string does to the cell states: a line for each of the four units.

n = 8
x, _, _ = strings([n], n)
text = "." + "a" * n + "b" * n
gates = {name: a[:, 0] for name, a in layer.gates(x).items()}
c = np.zeros((len(x), 4))
before = np.zeros(4)
for t in range(len(x)):
    c[t] = before = gates["f"][t] * before + gates["i"][t] * gates["g"][t]

figure, ax = plt.subplots(figsize=(8, 3), layout="constrained")
ax.plot(c, "o-", markersize=3, label=[f"unit {k}" for k in range(4)])
ax.set_xticks(range(len(text)), list(text))
ax.set_ylabel("c")
ax.grid(alpha=0.3)
ax.legend(fontsize=8)
plt.show()

# %%
# One of them has become the counter: the unit whose state changes most evenly, up while a is read and down
# while b is, or the other way round. Orange bars are what a step writes, i·g; the colour of the belt is the
# forget gate: dark where everything is kept.

slopes_a, slopes_b = np.diff(c[1 : n + 1], axis=0).mean(0), np.diff(c[n + 1 :], axis=0).mean(0)
counter = int(np.argmax(-slopes_a * slopes_b))
written = gates["i"] * gates["g"]
viz.cell_state(c[:, counter], text, kept=gates["f"][:, counter], written=written[:, counter])
plt.show()
print(f"unit {counter}: {slopes_a[counter]:+.2f} for each a, {slopes_b[counter]:+.2f} for each b,")
print(f"forget gate {gates['f'][1:, counter].min():.3f} at the least")

# %%
# The belt carries a number from the first a to the last b because the forget gate holds it, and on the way
# back it carries the gradient in the same manner: :math:`\partial c_t / \partial c_{t-1} = f`.
