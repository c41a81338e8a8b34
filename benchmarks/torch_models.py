# SPDX-License-Identifier: Apache-2.0
"""PyTorch's layers against the subclasses: single calls, and public models whose layers are swapped.

python benchmarks/torch_models.py [threads]

The models come from sb3-contrib (a recurrent PPO agent) and pytorch-forecasting (a recurrent forecaster);
what is not installed is left out. Results are compared before anything is timed; both sides alternate.
"""

from __future__ import annotations

import copy
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

import pyrnn.torch
from pyrnn import _core

ROUNDS = 9


class Agent:
    """The policy of sb3-contrib's RecurrentPPO: an LSTM for actions, and one for values."""

    name, needs = "sb3-contrib RecurrentPPO, LSTM 64", "sb3_contrib"

    def __init__(self) -> None:
        from sb3_contrib import RecurrentPPO

        sizes = {"lstm_hidden_size": 64}
        agent = RecurrentPPO("MlpLstmPolicy", "CartPole-v1", seed=0, device="cpu", policy_kwargs=sizes)
        self.model = agent.policy
        rng = torch.Generator().manual_seed(0)
        self.window = torch.randn(128, 4, generator=rng)
        self.starts = torch.zeros(128)
        self.actions = torch.randint(0, 2, (128,), generator=rng)

    def infer(self, model: Any) -> Any:
        """An action: one step."""
        state, actions = None, []
        for k in range(8):
            action, state = model.predict(
                self.window[k].numpy(), state, np.zeros(1, bool), deterministic=True
            )
            actions.append(torch.as_tensor(action, dtype=torch.float32))
        return torch.stack([*actions, *(torch.as_tensor(s).flatten()[0] for s in state)])

    def train(self, model: Any) -> Any:
        """Values and probabilities of a window of 128 steps, and their gradients."""
        from sb3_contrib.common.recurrent.type_aliases import RNNStates

        zeros = torch.zeros(1, 1, 64)
        states = RNNStates((zeros, zeros), (zeros, zeros))
        values, log_prob, _ = model.evaluate_actions(self.window, self.actions, states, self.starts)
        return gradients(model, values.sum() + log_prob.sum())


class Forecaster:
    """pytorch-forecasting's RecurrentNetwork: an encoder that is run on, an LSTM or GRU."""

    name, needs = "pytorch-forecasting RecurrentNetwork, LSTM 2 × 64", "pytorch_forecasting"

    def __init__(self) -> None:
        import pandas as pd
        from pytorch_forecasting import RecurrentNetwork, TimeSeriesDataSet

        rng = np.random.default_rng(0)
        rows = [
            {"series": str(k), "t": t, "value": float(np.sin(t / 5 + k) + 0.1 * rng.normal())}
            for k in range(16)
            for t in range(60)
        ]
        data = TimeSeriesDataSet(
            pd.DataFrame(rows),
            time_idx="t",
            target="value",
            group_ids=["series"],
            max_encoder_length=30,
            min_encoder_length=10,
            max_prediction_length=10,
            time_varying_unknown_reals=["value"],
        )
        torch.manual_seed(0)
        self.model = RecurrentNetwork.from_dataset(data, hidden_size=64, rnn_layers=2, dropout=0.0)
        self.x, _ = next(iter(data.to_dataloader(train=False, batch_size=64, num_workers=0)))

    def infer(self, model: Any) -> Any:
        """Forecasts of 64 windows."""
        with torch.no_grad():
            return model.eval()(self.x)["prediction"]

    def train(self, model: Any) -> Any:
        """Their gradients."""
        return gradients(model, model.train()(self.x)["prediction"].square().mean())


MODELS: tuple[type[Any], ...] = (Agent, Forecaster)


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> torch.Tensor:
    """All of them, flat."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    grads = torch.autograd.grad(loss, parameters, allow_unused=True)
    return torch.cat([g.flatten() for g in grads if g is not None])


def swapped(made: Any) -> tuple[torch.nn.Module, pyrnn.torch.Replaced]:
    """A copy of the model with the layers of this library."""
    model = copy.deepcopy(made.model)
    return model, pyrnn.torch.replace(model)


def alternate(
    calls: list[Callable[[], Any]], seconds: float = 0.05, clock: Callable[[], float] = time.perf_counter
) -> list[list[float]]:
    """Microseconds of each call in every round."""
    counts = []
    for call in calls:
        call()
        begin = time.perf_counter()
        call()
        counts.append(max(1, int(seconds / (time.perf_counter() - begin))))
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(ROUNDS):
        for mine, call, count in zip(times, calls, counts, strict=True):
            call()
            begin = clock()
            for _ in range(count):
                call()
            mine.append((clock() - begin) / count * 1e6)
    return times


def line(label: str, times: list[list[float]]) -> None:
    """A row of the table: medians, their ratio, and the ratio of the fastest rounds."""
    before, after = map(statistics.median, times[:2])
    best = min(times[0]) / min(times[1])
    print(f"| {label} | {before:.1f} | {after:.1f} | {before / after:.2f} | {best:.2f} |")


def small_calls() -> None:
    """One step of one sequence, in processor time: PyTorch's layer, the subclass, and the kernels' call."""
    print("\n| layer, H | grad | torch.nn µs | pyrnn.torch µs | × | kernels µs | Python adds µs |")
    print("|---|---|---|---|---|---|---|")
    for name, cell in (("LSTM", "lstm"), ("GRU", "gru"), ("RNN", "rnn_tanh")):
        for H in (64, 128, 256):
            peer, ours = (getattr(m, name)(H, H) for m in (torch.nn, pyrnn.torch))
            x = torch.randn(1, 1, H)
            states = [np.zeros((1, H), np.float32) for _ in range(1 + (name == "LSTM"))]
            arrays: Any = [x.numpy(), states, *(w.detach().numpy() for w in ours.parameters())]
            arrays += [np.empty((1, 1, H), np.float32), [np.empty_like(s) for s in states]]
            for grad in (False, True):
                calls = [
                    lambda m=peer, x=x: m(x),
                    lambda m=ours, x=x: m(x),
                    lambda a=(cell, *arrays, grad): _core.forward(*a),
                ]
                with torch.set_grad_enabled(grad):
                    times = alternate(calls, 0.02, time.process_time)
                before, after, kernels = map(statistics.median, times)
                more = f"{before / after:.1f} | {kernels:.1f} | {after - kernels:.1f}"
                print(f"| {name} {H} | {grad} | {before:.1f} | {after:.1f} | {more} |")


def main() -> None:
    """Print the tables."""
    threads = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    torch.set_num_threads(threads)
    pyrnn.set_num_threads(threads)
    warnings.simplefilter("ignore")
    print(f"PyTorch {torch.__version__}, {threads} threads\n")
    print("| call | torch.nn µs | pyrnn.torch µs | × median | × best |\n|---|---|---|---|---|")
    for name in ("LSTM", "GRU"):
        for T, B, H in ((1, 1, 64), (1, 1, 128), (1, 1, 256), (50, 16, 128), (50, 64, 256)):
            peer = getattr(torch.nn, name)(H, H)
            ours = getattr(pyrnn.torch, name)(H, H)
            ours.load_state_dict(peer.state_dict())
            x = torch.randn(T, B, H)
            torch.testing.assert_close(ours(x), peer(x), rtol=1e-4, atol=1e-5)
            for grad in (False, True):
                with torch.set_grad_enabled(grad):
                    calls = [lambda m=m, x=x: m(x) for m in (peer, ours)]
                    line(f"{name} {T} {B} {H}{' grad' * grad}", alternate(calls))
            calls = [lambda m=m, x=x: gradients(m, m(x)[0].sum()) for m in (peer, ours)]
            line(f"{name} {T} {B} {H} forward + backward", alternate(calls))
    small_calls()
    for kind in MODELS:
        if importlib.util.find_spec(kind.needs) is None:
            print(f"\n{kind.name}: not installed")
            continue
        made = kind()
        model, result = swapped(made)
        print(f"\n{kind.name}: swapped {', '.join(result.swapped)}")
        for mode in ("infer", "train"):
            run = getattr(made, mode)
            torch.testing.assert_close(run(model), run(made.model), rtol=1e-4, atol=1e-5)
            line(
                f"{kind.name}, {mode}", alternate([lambda m=m, r=run: r(m) for m in (made.model, model)], 0.2)
            )


if __name__ == "__main__":
    main()
