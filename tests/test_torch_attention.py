# SPDX-License-Identifier: Apache-2.0
"""Attention and decoder of `pyrnn.torch`: values and gradients are those of `pyrnn`, through PyTorch."""

import copy

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

import pyrnn.torch  # noqa: E402
from pyrnn.torch.attending import ATTEND, PARAM  # noqa: E402

ATTENTIONS = {
    "bahdanau": lambda m: m.BahdanauAttention(5, 6, 8, bias=True, normalize=True, dtype="float64"),
    "coverage": lambda m: m.BahdanauAttention(5, 6, 8, coverage=True, dtype="float64"),
    "general": lambda m: m.LuongAttention(5, 6, score="general", dtype="float64"),
    "concat": lambda m: m.LuongAttention(5, 6, score="concat", units=7, dtype="float64"),
    "local": lambda m: m.LuongAttention(5, 6, score="general", local="p", window=2, dtype="float64"),
    "sparsemax": lambda m: m.LuongAttention(5, 6, score="general", alignment="sparsemax", dtype="float64"),
}


def draw(*shape):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=True)


def plain(module, maker):
    """The NumPy object with the module's parameters."""
    same = maker(pyrnn)
    for name, a in module.named_parameters():
        same.params[name][...] = a.detach().numpy()
    return same


@pytest.mark.parametrize("kind", ATTENTIONS)
def test_attention(kind):
    torch.manual_seed(0)
    attention = ATTENTIONS[kind](pyrnn.torch)
    query, key, value = draw(2, 3, 5), draw(2, 4, 6), draw(2, 4, 7)
    options = {"key_lengths": [4, 2], "mask": torch.rand(2, 3, 4) > 0.2}
    context, weights = attention(query, key, value, return_weights=True, **options)
    peer = plain(attention, ATTENTIONS[kind])
    arrays = [a.detach().numpy() for a in (query, key, value)]
    expected = peer.forward(*arrays, key_lengths=[4, 2], mask=options["mask"].numpy())
    assert (context.detach().numpy() == expected[0]).all() and (weights.detach().numpy() == expected[1]).all()
    dcontext, dweights = torch.randn_like(context), torch.randn_like(weights)
    grads = torch.autograd.grad(
        [context, weights], [query, key, value, *attention.parameters()], [dcontext, dweights]
    )
    result = peer.backward(expected[2], dcontext.numpy(), dweights.numpy())
    wanted = [result.query, result.key, result.value]
    wanted += [result.params[name] for name, _ in attention.named_parameters()]
    for a, e in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), e, rtol=1e-12, atol=1e-14)
    if kind not in ("local", "sparsemax"):
        assert torch.autograd.gradcheck(lambda q, k, v: attention(q, k, v, **options), (query, key, value))
    single = attention(query[:, 0], key, key_lengths=[4, 2])
    torch.testing.assert_close(single, attention(query[:, :1], key, key_lengths=[4, 2])[:, 0])


@pytest.mark.parametrize("query", ["current", "previous"])
@pytest.mark.parametrize("cell", pyrnn.cells())
def test_decoder(cell, query):
    torch.manual_seed(0)
    options = {"query": query, "attention_layer": 7, "dtype": "float64"}
    attention = ATTENTIONS["bahdanau"](pyrnn.torch)
    decoder = pyrnn.torch.AttentionDecoder(cell, 3, 5, attention, **options)
    x, memory = draw(2, 4, 3), draw(2, 6, 6)
    state = tuple(draw(2, 5) for _ in range(pyrnn._core.cells()[cell]["states"]))
    given = state if len(state) > 1 else state[0]
    outputs, final, weights = decoder(x, memory, [6, 3], given)
    peer = pyrnn.AttentionDecoder(cell, 3, 5, plain(attention, ATTENTIONS["bahdanau"]), **options)
    for name in peer.params:
        peer.params[name][...] = getattr(decoder, name).detach().numpy()
    arrays = tuple(s.detach().numpy() for s in state)
    expected = peer.forward(
        x.detach().numpy(), memory.detach().numpy(), [6, 3], arrays if len(state) > 1 else arrays[0]
    )
    assert (outputs.detach().numpy() == expected[0]).all() and (weights.detach().numpy() == expected[2]).all()
    finals = final if len(state) > 1 else (final,)
    dys = [torch.randn_like(a) for a in (outputs, weights, *finals)]
    grads = torch.autograd.grad([outputs, weights, *finals], [x, memory, *state, *decoder.parameters()], dys)
    dstate = tuple(a.numpy() for a in dys[2:])
    result = peer.backward(
        expected[3], dys[0].numpy(), dstate if len(state) > 1 else dstate[0], dys[1].numpy()
    )
    first = result.state if len(state) > 1 else (result.state,)
    wanted = [result.x, result.memory, *first]
    names = [name for name, _ in decoder.named_parameters()]
    by_name = result.params | {f"attention.{n}": a for n, a in result.attention.items()}
    wanted += [by_name[name] for name in names]
    for a, e in zip(grads, wanted, strict=True):
        np.testing.assert_allclose(a.numpy(), e, rtol=1e-11, atol=1e-14)


@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
def test_compiled_exported_and_checked():
    torch.manual_seed(0)
    decoder = pyrnn.torch.AttentionDecoder(
        "lstm", 3, 5, pyrnn.torch.LuongAttention(5, 6, score="general", window=(2, 1))
    )
    x, memory = torch.randn(2, 4, 3), torch.randn(2, 6, 6, requires_grad=True)
    expected = decoder(x, memory)
    compiled = torch.compile(decoder, fullgraph=True, backend="aot_eager")(x, memory)
    torch.testing.assert_close(compiled, expected)
    grads = [torch.autograd.grad(r[0].sum(), [memory, *decoder.parameters()]) for r in (compiled, expected)]
    torch.testing.assert_close(*grads)
    exported = torch.export.export(decoder, (x, memory))
    torch.testing.assert_close(exported.module()(x, memory), expected)
    query, key = draw(2, 3, 5), draw(2, 4, 6)
    attention = ATTENTIONS["general"](pyrnn.torch)
    inputs = [query, key, attention.weight]
    arguments = (inputs, ["query", "key", PARAM + "weight"], '{"score": "general"}', True, 1, True)
    assert set(torch.library.opcheck(ATTEND, arguments).values()) == {"SUCCESS"}
    both = torch.stack([query, 2 * query]).detach()
    many = torch.func.vmap(attention, in_dims=(0, None))(both, key.detach())
    torch.testing.assert_close(many[1], attention(2 * query, key))


@pytest.fixture
def one_thread():
    """PyTorch's threads wait for each other at every tiny product, long where others use the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def named(module):
    return dict(module.named_parameters())


SECOND = {
    **{
        kind: ATTENTIONS[kind] for kind in ("bahdanau", "coverage", "general", "concat", "local", "sparsemax")
    },
    "dot": lambda m: m.LuongAttention(6, 6, score="scaled_dot", local="m", window=2, dtype="float64"),
}


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
@pytest.mark.parametrize("kind", SECOND)
def test_derivatives_of_derivatives_and_forward_mode(kind):
    """Each kind in one call with lengths, a mask, and a query that has no key."""
    torch.manual_seed(1)
    attention = SECOND[kind](pyrnn.torch)
    query, key, value = draw(2, 3, attention.aligner.query_size), draw(2, 4, 6), draw(2, 4, 5)
    mask = torch.tensor([[1, 1, 0, 1], [1, 1, 1, 1], [0, 0, 0, 0]], dtype=torch.bool).expand(2, 3, 4)
    options = {"key_lengths": torch.tensor([4, 2]), "mask": mask, "return_weights": True}
    tensors = (query, key, value, *attention.parameters())

    def call(query, key, value, *parameters):
        given = dict(zip(named(attention), parameters, strict=True))
        return torch.func.functional_call(attention, given, (query, key, value), options)

    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)
    tangents = tuple(torch.randn_like(a) for a in tensors)
    plain_values, along = torch.func.jvp(call, tuple(a.detach() for a in tensors), tangents)
    results = call(*tensors)
    torch.testing.assert_close(plain_values, tuple(a.detach() for a in results), rtol=1e-12, atol=1e-12)
    dys = [torch.randn_like(a) for a in results]
    grads = torch.autograd.grad(results, tensors, dys)
    forward = sum((a * d).sum() for a, d in zip(along, dys, strict=True))
    backward = sum((a * t).sum() for a, t in zip(grads, tangents, strict=True))
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


DECODERS = [
    ("lstm", "current", "coverage", {"attention_layer": 4}),
    ("gru", "previous", "general", {}),
    ("lstm_peephole", "current", "concat", {"input_feed": False}),
]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.filterwarnings("ignore")  # PyTorch's, about itself
@pytest.mark.parametrize(("cell", "query", "kind", "options"), DECODERS)
def test_derivatives_of_derivatives_of_a_decoder(cell, query, kind, options):
    torch.manual_seed(1)
    attention = ATTENTIONS[kind](pyrnn.torch)
    decoder = pyrnn.torch.AttentionDecoder(cell, 2, 5, attention, query=query, dtype="float64", **options)
    x, memory = draw(2, 2, 2), draw(2, 3, 6)
    names, lengths = named(decoder), torch.tensor([3, 2])

    def call(x, memory, *parameters):
        given = dict(zip(names, parameters, strict=True))
        outputs, final, weights = torch.func.functional_call(decoder, given, (x, memory, lengths))
        return outputs, weights, *(final if isinstance(final, tuple) else (final,))

    tensors = (x, memory, *names.values())
    assert torch.autograd.gradgradcheck(call, tensors, fast_mode=True)
    fixed = tuple(a.detach() for a in tensors)
    values, _ = torch.func.jvp(call, fixed, fixed)
    torch.testing.assert_close(values, tuple(a.detach() for a in call(*tensors)), rtol=1e-12, atol=1e-12)


def test_gradients_of_every_sample():
    """Padding is NaN, and stays where it is."""
    torch.manual_seed(2)
    attention = ATTENTIONS["bahdanau"](pyrnn.torch)
    parameters = {name: a.detach() for name, a in named(attention).items()}
    query, key = torch.randn(3, 2, 5).double(), torch.randn(3, 4, 6).double()
    lengths = torch.tensor([4, 2, 3])
    key[1, 2:] = key[2, 3:] = torch.nan

    def loss(parameters, query, key, length):
        arguments = (query[None], key[None])
        options = {"key_lengths": length[None]}
        return torch.func.functional_call(attention, parameters, arguments, options).square().sum()

    every = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0, 0))(parameters, query, key, lengths)
    for k in range(3):
        context = attention(query[k : k + 1], key[k : k + 1], key_lengths=lengths[k : k + 1])
        grads = torch.autograd.grad(context.square().sum(), list(attention.parameters()))
        for a, e in zip(every.values(), grads, strict=True):
            torch.testing.assert_close(a[k], e, rtol=1e-10, atol=1e-12)


def test_as_modules():
    torch.manual_seed(3)
    first = pyrnn.torch.BahdanauAttention(5, 6, 8)
    torch.manual_seed(3)
    second = pyrnn.torch.BahdanauAttention(5, 6, 8)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    decoder = pyrnn.torch.AttentionDecoder("gru", 3, 5, first, attention_layer=4)
    names = set(decoder.state_dict())
    assert {"weight_ih", "weight_attention", "attention.weight_score"} <= names
    other = copy.deepcopy(decoder)
    with torch.no_grad():
        other.weight_ih.zero_()
    x, memory = torch.randn(2, 4, 3), torch.randn(2, 6, 6)
    assert not torch.equal(other(x, memory)[0], decoder(x, memory)[0])
    weights = decoder(x, memory)[2]
    with torch.no_grad():
        assert torch.equal(decoder(x, memory)[2], weights)


def test_results_changed_before_the_backward():
    attention = pyrnn.torch.LuongAttention(5, 6, score="general")
    _, weights = attention(torch.randn(2, 3, 5), torch.randn(2, 4, 6), return_weights=True)
    loss = weights.sum()
    weights.data.mul_(2)  # unseen by PyTorch, and by what the backward reads
    with torch.no_grad():
        weights.mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        loss.backward()


def test_wrong_arguments():
    attention = pyrnn.torch.LuongAttention(5, 6, score="general")
    with pytest.raises(ValueError, match="query"):
        attention(torch.randn(2, 3, 4), torch.randn(2, 4, 6))
    with pytest.raises(RuntimeError, match="mask"):
        attention(torch.randn(2, 3, 5), torch.randn(2, 4, 6), mask=torch.zeros(2, 3, 4, requires_grad=True))
    with pytest.raises(TypeError, match=r"attention of pyrnn\.torch"):
        pyrnn.torch.AttentionDecoder("gru", 3, 5, pyrnn.LuongAttention(5, 6, score="general"))
    with pytest.raises(TypeError, match="dtype"):
        attention(torch.randn(2, 3, 5).double(), torch.randn(2, 4, 6).double())
