# SPDX-License-Identifier: Apache-2.0
"""Attention on a GPU, against the reference in float64; `benchmarks/gpu/run.sh` runs this."""

import numpy as np
import pytest
from test_cuda_attention import CASES, problem_of
from test_cuda_gpu import missing
from tolerances import FLOAT64, attention_float32_bound, l2_error, max_error

from pyrnn import functional, reference

if missing():
    pytest.skip(missing(), allow_module_level=True)

EVERY_CASE = pytest.mark.parametrize("case", CASES, ids=str)


class Tensors:
    """`attention_forward` and `attention_backward` of NumPy's arrays through CUDA tensors."""

    @staticmethod
    def there(a):
        import torch

        return torch.tensor(a).cuda() if isinstance(a, np.ndarray) else a

    def attention_forward(self, *arrays, params, **options):
        params = {name: self.there(a) for name, a in params.items()}
        options = {name: self.there(a) for name, a in options.items()}
        context, weights, saved = functional.attention_forward(
            *map(self.there, arrays), params=params, **options
        )
        return context.cpu().numpy(), weights.cpu().numpy(), saved

    def attention_backward(self, saved, dcontext, dweights):
        grads = functional.attention_backward(saved, self.there(dcontext), self.there(dweights))
        return grads._replace(
            query=grads.query.cpu().numpy(),
            key=grads.key.cpu().numpy(),
            value=None if grads.value is None else grads.value.cpu().numpy(),
            params={name: a.cpu().numpy() for name, a in grads.params.items()},
        )


@EVERY_CASE
def test_attention_float64(case):
    problem = problem_of(*case, np.float64)
    expected, found = problem.run(reference), problem.run(Tensors())
    for name, a in expected.items():
        assert max_error(found[name], a) <= FLOAT64, name


@EVERY_CASE
def test_attention_float32(case):
    """Twice: the same bits."""
    problem = problem_of(*case, np.float32)
    expected, found, again = problem.exact().run(reference), problem.run(Tensors()), problem.run(Tensors())
    for name, a in expected.items():
        assert l2_error(found[name], a) <= attention_float32_bound(case[2][0]), name
        assert np.array_equal(found[name], again[name]), name
