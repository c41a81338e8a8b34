# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own samples of its recurrent modules, valid and not, run against the subclasses."""

import re

import pytest
from tolerances import TORCH

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
common_modules = pytest.importorskip(
    "torch.testing._internal.common_modules", reason="PyTorch's testing modules need expecttest"
)

import pyrnn.torch  # noqa: E402

KINDS = ("RNN", "GRU", "LSTM", "RNNCell", "GRUCell", "LSTMCell")
INFOS = {
    info.module_cls.__name__: info
    for info in common_modules.module_db
    if info.module_cls.__module__ == "torch.nn.modules.rnn"
}


def flat(value):
    """The tensors in a result."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, torch.nn.utils.rnn.PackedSequence):
        return [value.data]
    return [a for part in value for a in flat(part)]


def gradients(module, results):
    """Of a fixed scalar of the results, with respect to the parameters."""
    torch.manual_seed(1)
    loss = sum((a * torch.randn_like(a)).sum() for a in flat(results))
    return torch.autograd.grad(loss, list(module.parameters()))


def test_every_module_has_samples():
    assert set(INFOS) == set(KINDS)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("name", KINDS)
def test_samples(name, training):
    info, count = INFOS[name], 0
    for sample in info.module_inputs_func(info, "cpu", torch.float64, True, training):
        torch.manual_seed(0)
        made = sample.constructor_input
        peer = info.module_cls(*made.args, **made.kwargs).double().train(training)
        ours = getattr(pyrnn.torch, name)(*made.args, **made.kwargs).double().train(training)
        assert repr(ours) == repr(peer)
        ours.load_state_dict(peer.state_dict())
        given = sample.forward_input
        torch.manual_seed(0)
        expected = peer(*given.args, **given.kwargs)
        torch.manual_seed(0)
        actual = ours(*given.args, **given.kwargs)
        assert type(actual) is type(expected)
        for a, e in zip(flat(actual), flat(expected), strict=True):
            torch.testing.assert_close(a, e, rtol=TORCH, atol=TORCH)
        for a, e in zip(gradients(ours, actual), gradients(peer, expected), strict=True):
            torch.testing.assert_close(a, e, rtol=TORCH, atol=10 * TORCH)
        if sample.reference_fn is not None:
            reference = sample.reference_fn(ours, *given.args, **given.kwargs)
            for a, e in zip(flat(actual), flat(reference), strict=True):
                torch.testing.assert_close(a, e)
        count += 1
    assert count >= 2


@pytest.mark.parametrize("name", KINDS)
def test_wrong_samples_fail_as_the_peer(name):
    info, count = INFOS[name], 0
    for case in info.module_error_inputs_func(info, "cpu", torch.float64, False, True):
        sample = case.module_error_input
        made, given = sample.constructor_input, sample.forward_input
        if case.error_on is common_modules.ModuleErrorEnum.CONSTRUCTION_ERROR:
            with pytest.raises(case.error_type, match=case.error_regex):
                getattr(pyrnn.torch, name)(*made.args, **made.kwargs)
        else:
            module = getattr(pyrnn.torch, name)(*made.args, **made.kwargs)
            with pytest.raises(case.error_type) as error:
                module(*given.args, **given.kwargs)
            assert re.search(case.error_regex, str(error.value))
        count += 1
    assert count >= 4
