# SPDX-License-Identifier: Apache-2.0
"""Models that others wrote, with their recurrent layers swapped: the same outputs and gradients."""

import importlib.util

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

torch_models = pytest.importorskip("torch_models", reason="the source distribution has no benchmarks")

import pyrnn.torch  # noqa: E402


@pytest.mark.filterwarnings("ignore")  # other libraries', about themselves
@pytest.mark.parametrize("kind", torch_models.MODELS, ids=lambda kind: kind.needs)
def test_swapped(kind):
    if importlib.util.find_spec(kind.needs) is None:
        pytest.skip(f"{kind.needs} is not installed")
    made = kind()
    model, result = torch_models.swapped(made)
    assert result.swapped and not result.left
    assert any(isinstance(module, pyrnn.torch.LSTM | pyrnn.torch.GRU) for module in model.modules())
    for mode in ("infer", "train"):
        run = getattr(made, mode)
        torch.testing.assert_close(run(model), run(made.model), rtol=1e-4, atol=1e-5)
