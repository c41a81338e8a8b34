# SPDX-License-Identifier: Apache-2.0
"""States of a stack of layers: as the caller has them, and one for each layer and direction.

A state is an array (num_layers·directions, B, H), or, where layers differ in size, a tuple with an array
(directions, B, H) for each layer; a cell with several states has a tuple of such. The states of every step
have the steps behind the first axis.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from pyrnn.layout import Array, Layout

State: TypeAlias = Array | tuple[Any, ...]


def by_pass(layout: Layout, whole: Sequence[Any]) -> list[Any]:
    """Of every state, what can be indexed by layer and direction."""
    return [[row for a in state for row in a] for state in whole] if layout.ragged else list(whole)


def memory_of(state: Any) -> Sequence[Array]:
    """The arrays that one state is made of."""
    return state if isinstance(state, list | tuple) else (state,)


def result(whole: Sequence[Any], unbatched: bool) -> State:
    """States as the caller gets them."""

    def given(a: Any) -> Any:
        if isinstance(a, tuple):
            return tuple(map(given, a))
        return a[:, 0] if unbatched else a

    found = tuple(map(given, whole))
    return found[0] if len(found) == 1 else found


def built(layout: Layout, make: Callable[[int, int], Any]) -> list[Any]:
    """One for each state: make(rows, width), or a tuple of that for each layer."""
    D, S = layout.directions, layout.spec.states
    if not layout.ragged:
        return [make(layout.num_layers * D, width) for width in layout.state_sizes]
    return [tuple(make(D, width[s]) for width in layout.widths) for s in range(S)]


def empty_states(arrays: Any, layout: Layout, B: int, dtype: Any) -> list[Any]:
    """Memory for states."""
    return built(layout, lambda rows, width: arrays.empty((rows, B, width), dtype))


def zero_states(arrays: Any, layout: Layout, B: int, dtype: Any) -> list[Any]:
    """Zeros, the same for every layer and direction that can share them; by pass."""
    rows = layout.num_layers * layout.directions
    if layout.ragged:
        return by_pass(layout, built(layout, lambda rows, width: arrays.zeros((rows, B, width), dtype)))
    return [[arrays.zeros((B, width), dtype)] * rows for width in layout.state_sizes]


def learned_states(arrays: Any, layout: Layout, params: Any, B: int, dtype: Any) -> list[list[Array]]:
    """The initial states that are parameters, one for each sequence; by pass."""
    found = []
    for s in range(layout.spec.states):
        rows = [arrays.weight(layout, params, named[s][0], dtype) for named in layout.initial]
        found.append([arrays.repeated(row, B) for row in rows])
    return found


def learned_gradients(layout: Layout, dinitial: Sequence[Any] | None, grads: dict[str, Array]) -> None:
    """Write the gradients of the initial states that are parameters: zero where others were given."""
    for k, named in enumerate(layout.initial):
        for s, (name, _) in enumerate(named):
            grads[name][...] = 0 if dinitial is None else dinitial[s][k].sum(axis=0)


def read_arrays(
    arrays: Any, name: str, state: State, layout: Layout, steps: tuple[int, ...], axes: str, dtype: Any
) -> list[Any]:
    """States, checked; `steps` and `axes`: sizes and names of the axes between the first and the last."""
    L, D, S = layout.num_layers, layout.directions, layout.spec.states
    if not layout.ragged:
        more = {"proj_size": layout.proj_size} if layout.proj_size else {}
        shape = (L * D, *steps, layout.state_sizes[-1])
        expected = f"(num_layers*directions, {axes}H)"
        return list(arrays.states(name, state, S, shape, expected, dtype, **more))
    by_state = (state,) if S == 1 else state
    labels = [name] if S == 1 else [f"{name}[{s}]" for s in range(S)]
    if not isinstance(by_state, tuple | list) or len(by_state) != S:
        got = len(by_state) if isinstance(by_state, tuple | list) else type(by_state).__name__
        raise wrong_count(name, S, got)
    found = []
    for s, (label, layers) in enumerate(zip(labels, by_state, strict=True)):
        if not isinstance(layers, tuple | list) or len(layers) != L:
            got = len(layers) if isinstance(layers, tuple | list) else type(layers).__name__
            raise wrong_count(label, L, got)
        found.append(
            tuple(
                arrays.states(
                    f"{label}[{k}]",
                    a,
                    1,
                    (D, *steps, layout.widths[k][s]),
                    f"(directions, {axes}{'P' if layout.proj_size and not s else 'H'})",
                    dtype,
                )[0]
                for k, a in enumerate(layers)
            )
        )
    return found


def wrong_count(name: str, count: int, got: Any) -> Exception:
    """The error for something else than a tuple of so many."""
    kind = TypeError if isinstance(got, str) else ValueError
    return kind(f"{name}: expected a tuple of {count}, got {got}")


def read_state(
    arrays: Any, name: str, state: State, layout: Layout, B: int, unbatched: bool, dtype: Any
) -> list[Any]:
    """A state, checked, as arrays with B behind the first axis."""
    steps, axes = ((), "") if unbatched else ((B,), "B, ")
    found = read_arrays(arrays, name, state, layout, steps, axes, dtype)
    if not unbatched:
        return found
    return [tuple(a[:, None] for a in s) if isinstance(s, tuple) else s[:, None] for s in found]


def read_every_state(saved: Any, dstates: State) -> list[list[Array]]:
    """The gradients of the states of every step, checked; by pass, (T, B, H)."""
    (T, B), layout, arrays = saved.sizes, saved.layout, saved.arrays
    steps: tuple[int, ...] = (T, B)
    axes = "T, B, "
    if saved.unbatched:
        steps, axes = (T,), "T, "
    elif saved.batch_first:
        steps, axes = (B, T), "B, T, "
    found = by_pass(layout, read_arrays(arrays, "dstates", dstates, layout, steps, axes, saved.dtype))
    D = layout.num_layers * layout.directions

    def time_major(a: Array) -> Array:
        return a[:, None] if saved.unbatched else a.swapaxes(0, 1) if saved.batch_first else a

    return [[arrays.ready(time_major(s[k]), saved.dtype) for k in range(D)] for s in found]


def every_state(saved: Any) -> State:
    """The states after every step, as the caller gets them; zero where a step was skipped."""
    layout, D = saved.layout, saved.layout.directions
    kept = [one.states() for one in saved.passes]  # (T, B, states, H)
    found: list[Any] = []

    def given(a: Array) -> Array:
        return a[:, 0] if saved.unbatched else a.swapaxes(0, 1) if saved.batch_first else a

    for s in range(layout.spec.states):
        rows = [given(a[:, :, s, : layout.widths[k // D][s]]) for k, a in enumerate(kept)]
        if layout.ragged:
            found.append(tuple(saved.arrays.stacked(rows[k : k + D]) for k in range(0, len(rows), D)))
        else:
            found.append(saved.arrays.stacked(rows))
    return found[0] if len(found) == 1 else tuple(found)
