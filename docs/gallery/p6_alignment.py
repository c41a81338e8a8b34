# SPDX-License-Identifier: Apache-2.0
r"""
Attention as an alignment matrix
================================

A decoder with attention looks at every position of its input at every step. Where it looks is a matrix, and
one can watch it become what the task asks for.
"""

# %%
# The task: six different digits, to be written in increasing order. The encoder is a GRU in both
# directions, the decoder a GRU with Bahdanau's attention (Bahdanau et al. 2015): with :math:`q` its state
# and :math:`h_j` what the encoder knows at position j,
#
# .. math:: a_j = \mathrm{softmax}_j\, v^\top \tanh(W_q q + W_k h_j), \qquad \text{context} = \sum_j a_j h_j.

import matplotlib.pyplot as plt
import numpy as np

import pyrnn
from pyrnn import viz

rng = np.random.default_rng(0)
encoder = pyrnn.GRU(11, 24, bidirectional=True, batch_first=True, seed=0)
attention = pyrnn.BahdanauAttention(query_size=48, key_size=48, units=48, seed=0)
decoder = pyrnn.AttentionDecoder("gru", 11, 48, attention, attention_layer=48, seed=0)
head = rng.normal(0, 0.2, (11, 48)).astype("float32")
groups = [encoder.params, decoder.params, attention.params, {"head": head}]
squares = [{name: np.zeros_like(a) for name, a in params.items()} for params in groups]
one_hot = np.eye(11, dtype="float32")  # ten digits, and 10 for the start


def read(batch):
    """Digits (B, 6) and the same sorted."""
    source = rng.permuted(np.tile(np.arange(10), (batch, 1)), axis=1)[:, :6]
    return source, np.sort(source, axis=1)


def write(source, target):
    """Probabilities of every digit (B, 6, 11), the alignment, and what the way back needs."""
    memory, _, encoded = encoder.forward(one_hot[source])
    before = np.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=10)
    outputs, _, weights, decoded = decoder.forward(one_hot[before], memory)
    p = np.exp(outputs @ head.T)
    return p / p.sum(-1, keepdims=True), weights, (encoded, decoded, outputs)


steps, seen, shown = 900, {}, read(1)
for step in range(steps + 1):
    if step in (0, 200, steps):
        seen[step] = write(*shown)[1][0]
    source, target = read(64)
    p, _, (encoded, decoded, outputs) = write(source, target)
    d = (p - one_hot[target]) / source.size  # of the mean cross entropy
    back = decoder.backward(decoded, d @ head)
    of_encoder = encoder.backward(encoded, back.memory).params
    of_head = {"head": np.einsum("bto,bth->oh", d, outputs)}
    gradients = [of_encoder, back.params, back.attention, of_head]
    for params, gradient, square in zip(groups, gradients, squares, strict=True):
        for name, g in gradient.items():  # RMSprop
            square[name] += 0.05 * (g * g - square[name])
            params[name] -= (0.006 - 0.005 * step / steps) * g / (np.sqrt(square[name]) + 1e-4)

source, target = read(1000)
p, weights, _ = write(source, target)
print(f"{100 * (p.argmax(-1) == target).mean():.1f} % of 6000 digits right")

# %%
# The alignment of one sequence before, early in, and after training: a row for each digit written, a column
# for each one read.

names = ["".join(map(str, digits[0])) for digits in shown]
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), layout="constrained")
for ax, (step, matrix) in zip(axes, seen.items(), strict=True):
    viz.alignment(matrix, *names, ax=ax, colorbar=ax is axes[-1]).set_title(f"after {step} updates")
plt.show()

# %%
# Rows that look elsewhere get by: the encoder reads in both directions, so that its :math:`h_j` knows of the
# digits beside j as well, and the largest ones are what is left over.
#
# Sorting six digits means that the k-th row looks at the place of the k-th smallest one: a permutation. How
# much of the weight lies there, over a thousand sequences, and how often it is the largest:

places = source.argsort(axis=1)  # (B, 6): where the k-th smallest stands
there = np.take_along_axis(weights, places[:, :, None], 2)[:, :, 0]
print(f"{100 * there.mean():.0f} % of the weight")
print(f"{100 * (weights.argmax(-1) == places).mean():.1f} % of the rows look there most")
