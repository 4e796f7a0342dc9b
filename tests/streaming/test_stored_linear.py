"""The Linear without a weight of its own: the same numbers as a plain one, and less memory."""

import importlib.util
import weakref
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maskora.streaming.formats import FORMATS, StoredLinear

CPU = torch.device("cpu")
INTO, OUT = 64, 96
NAMES = [
    "float8",
    "int8",
    pytest.param(
        "nf4",
        marks=pytest.mark.skipif(
            importlib.util.find_spec("bitsandbytes") is None,
            reason="bitsandbytes is not installed (pip install 'maskora[quant]')",
        ),
    ),
]


def pair(
    name: str, dtype: torch.dtype = torch.float32, bias: bool = True
) -> tuple[StoredLinear, nn.Linear]:
    """A stored Linear, and a plain one that holds the decoded weight and the same bias."""
    torch.manual_seed(3)
    plain = nn.Linear(INTO, OUT, bias=bias, dtype=dtype).requires_grad_(False)
    stored = StoredLinear.of(plain, FORMATS[name], dtype, CPU)
    stored.set_stored(FORMATS[name].encode(plain.weight))
    plain.weight.copy_(stored.dense())
    return stored, plain


class Dense(TorchDispatchMode):
    """Counts the storages alive that are as large as a dense weight, and the most at one time."""

    def __init__(self, nbytes: int) -> None:
        super().__init__()
        self.nbytes = nbytes
        self.most = 0
        self._seen: dict[int, weakref.ref[torch.UntypedStorage]] = {}

    @property
    def alive(self) -> int:
        return len({id(storage) for ref in self._seen.values() if (storage := ref()) is not None})

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and result.untyped_storage().nbytes() >= self.nbytes:
            storage = result.untyped_storage()
            self._seen[storage._cdata] = weakref.ref(storage)
        self.most = max(self.most, self.alive)
        return result


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(INTO,), (7, INTO), (2, 5, INTO)])
def test_it_computes_what_a_plain_linear_computes(
    name: str, bias: bool, shape: tuple[int, ...]
) -> None:
    stored, plain = pair(name, bias=bias)
    x = torch.randn(shape)
    outputs, gradients = [], []
    for layer in (stored, plain):
        leaf = x.clone().requires_grad_()
        output = layer(leaf)
        (output**2).sum().backward()
        outputs.append(output)
        gradients.append(leaf.grad)
    assert torch.equal(*outputs)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_it_computes_in_half_precision(name: str, dtype: torch.dtype) -> None:
    stored, plain = pair(name, dtype)
    x = torch.randn(7, INTO, dtype=dtype)
    output = stored(x)
    assert output.dtype == dtype
    assert torch.equal(output, plain(x))


def test_it_computes_without_a_graph() -> None:
    stored, plain = pair("int8")
    x = torch.randn(7, INTO)
    with torch.inference_mode():
        assert torch.equal(stored(x), plain(x))
    assert not stored(x).requires_grad


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_its_own_weight_is_a_placeholder_without_memory(device: str) -> None:
    plain = nn.Linear(INTO, OUT, device=device).requires_grad_(False).eval()
    before = torch.get_rng_state()
    stored = StoredLinear.of(plain, FORMATS["int8"], torch.bfloat16, CPU)
    assert torch.equal(torch.get_rng_state(), before)
    assert (stored.weight.shape, stored.weight.dtype) == (plain.weight.shape, torch.bfloat16)
    assert stored.weight.device == CPU
    assert stored.weight.untyped_storage().nbytes() == 2
    assert stored.weight.isnan().all()
    assert not stored.weight.requires_grad
    assert stored.bias is plain.bias
    assert not stored.training


def test_using_it_while_nothing_is_set_says_which_layer_it_is() -> None:
    stored, _ = pair("float8")
    message = "Linear 64 -> 96 stored as float8 is used while its weight is not here"
    output = stored(torch.randn(2, INTO, requires_grad=True))
    stored.set_stored(None)
    with pytest.raises(AssertionError, match=message):
        stored(torch.randn(2, INTO))
    with pytest.raises(AssertionError, match=message):
        output.sum().backward()


def test_backward_reads_the_weight_from_where_it_lies_then() -> None:
    stored, plain = pair("float8")
    x = torch.randn(2, INTO, requires_grad=True)
    output = stored(x)
    assert stored.stored is not None
    first, moved = stored.stored, [tensor.clone() for tensor in stored.stored]
    stored.set_stored(moved)
    first[1].fill_(torch.nan)
    (gradient,) = torch.autograd.grad(output.sum(), x)
    (expected,) = torch.autograd.grad(plain(x).sum(), x)
    assert torch.equal(gradient, expected)


def test_a_bias_that_asks_for_a_gradient_is_refused() -> None:
    stored, _ = pair("int8")
    stored.bias.requires_grad_()
    with pytest.raises(AssertionError, match="must be frozen"):
        stored(torch.randn(2, INTO))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_one_dense_weight_is_alive_at_a_time_and_none_between(
    name: str, dtype: torch.dtype
) -> None:
    layers = [pair(name, dtype)[0] for _ in range(3)]
    x = torch.randn(2, INTO, dtype=dtype, requires_grad=True)
    with Dense(INTO * OUT * dtype.itemsize) as dense:
        outputs = [layer(x) for layer in layers]
        assert (dense.most, dense.alive) == (1, 0)
        dense.most = 0
        torch.stack(outputs).sum().backward()
        assert (dense.most, dense.alive) == (1, 0)


def test_the_count_sees_a_dense_weight_that_a_graph_keeps() -> None:
    stored, plain = pair("int8")
    x = torch.randn(2, INTO, requires_grad=True)
    with Dense(INTO * OUT * 4) as dense:
        output = nn.functional.linear(x, stored.dense(), plain.bias)
        assert dense.alive == 1
        del output
        assert dense.alive == 0


def test_its_graph_does_not_keep_the_input() -> None:
    stored, _ = pair("int8")
    x = torch.randn(2, INTO, requires_grad=True) + 1
    ref = weakref.ref(x)
    output = stored(x)
    del x
    assert ref() is None
    assert output.requires_grad


def feed_forward(name: str, stored: bool) -> nn.Module:
    """A real layer of diffusers with a LoRA: its Linears stored, or plain with decoded weights."""
    torch.manual_seed(11)
    module = FeedForward(INTO, inner_dim=OUT, activation_fn="gelu-approximate")
    module.requires_grad_(False)
    for path in ("net.0.proj", "net.2"):
        plain = module.get_submodule(path)
        replaced = StoredLinear.of(plain, FORMATS[name], torch.float32, CPU)
        replaced.set_stored(FORMATS[name].encode(plain.weight))
        plain.weight.copy_(replaced.dense())
        if stored:
            module.set_submodule(path, replaced)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["net.0.proj", "net.2"])
    inject_adapter_in_model(config, module)
    for parameter in module.parameters():
        if parameter.requires_grad:  # B starts at zero, which would leave A without a gradient
            nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_lora_on_stored_linears_learns_the_same_to_the_bit(name: str) -> None:
    x = torch.randn(2, 5, INTO)
    outputs, gradients = [], []
    for stored in (True, False):
        module = feed_forward(name, stored)
        for path in ("net.0.proj", "net.2"):
            adapted = module.get_submodule(path)
            assert isinstance(adapted, LoraLinear)
            assert isinstance(adapted.base_layer, StoredLinear) == stored
        output = module(x)
        (output**2).mean().backward()
        outputs.append(output)
        gradients.append([p.grad for p in module.parameters() if p.requires_grad])
    assert torch.equal(*outputs)
    assert len(gradients[0]) == 4
    for one, other in zip(*gradients, strict=True):
        assert one.abs().max() > 0
        assert torch.equal(one, other)
