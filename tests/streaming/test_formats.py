"""Stored weights: how far they may be from the original; the Linear that computes from them.

The bounds follow from the formats alone: half a step of the payload, plus the rounding of the
arithmetic in which it is encoded (float32) and of the precision into which it is decoded.
"""

import importlib.util
import itertools
import sys
import weakref
from typing import Any

import pytest
import torch
from diffusers.models.attention import FeedForward
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from maskora.errors import Fault, UserError
from maskora.streaming import formats
from maskora.streaming.formats import FORMATS, StoredLinear

NF4 = pytest.param(
    "nf4",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("bitsandbytes") is None,
        reason="bitsandbytes is not installed (pip install 'maskora[quant]')",
    ),
)
NAMES = ["float8", "int8", NF4]
CPU = torch.device("cpu")
INTO, OUT = 64, 96
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# float16 ends at 65504 and 2**-24, the others at about 2**127 and 2**-126.
EXPONENTS = {torch.float32: (-90, 90), torch.bfloat16: (-90, 90), torch.float16: (-20, 12)}
ENCODING = 2.0**-22  # four roundings to float32
NF4_LOW = [-1, -0.6961928, -0.52507305, -0.3949175, -0.28444138, -0.18477343, -0.09105004, 0]
NF4_HIGH = [0.0795803, 0.1609302, 0.2461123, 0.33791524, 0.44070983, 0.562617, 0.72295684, 1]
LARGEST_GAP = max(high - low for low, high in itertools.pairwise(NF4_LOW + NF4_HIGH))


@st.composite
def weights(draw: st.DrawFn, dtype: torch.dtype) -> Tensor:
    """Matrices with channels of very different size, some of zeros, in any shape."""
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 150))
    exponent = st.none() | st.integers(*EXPONENTS[dtype])
    exponents = draw(st.lists(exponent, min_size=height, max_size=height))
    scales = torch.tensor([0.0 if e is None else 2.0**e for e in exponents], dtype=torch.float64)
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    values = torch.randn(height, width, generator=generator, dtype=torch.float64)
    return (values * scales[:, None]).to(dtype)


def bound(name: str, weight: Tensor, stored: list[Tensor], dtype: torch.dtype) -> Tensor:
    """The largest allowed |decoded - weight| of every weight, in float64."""
    size, scale = weight.abs(), stored[1].double()
    if name == "float8":  # 3 bits of mantissa; below 2**-6, steps of 2**-9
        error = 2.0**-4 * size + 2.0**-10 * scale[:, None] + ENCODING * size
    elif name == "int8":
        error = (scale[:, None] / 2).expand_as(size) + ENCODING * size
    else:
        absmax = scale.repeat_interleave(64)[: size.numel()].view(size.shape)
        error = (LARGEST_GAP / 2 + ENCODING) * absmax
    kind = torch.finfo(dtype)
    return error + kind.eps / 2 * (size + error) + kind.tiny * kind.eps / 2


def matrix(height: int = 5, width: int = 77) -> Tensor:
    return torch.randn(height, width, generator=torch.Generator().manual_seed(7))


def assert_same(stored: list[Tensor], expected: list[Tensor]) -> None:
    for one, other in zip(stored, expected, strict=True):
        assert torch.equal(one.view(torch.uint8), other.view(torch.uint8))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None, max_examples=40)
@given(data=st.data())
def test_decoded_weights_are_within_half_a_step(
    name: str, dtype: torch.dtype, data: st.DataObject
) -> None:
    weight = data.draw(weights(dtype))
    shape = (weight.shape[0], weight.shape[1])
    stored = FORMATS[name].encode(weight)
    decoded = FORMATS[name].decode(stored, shape, dtype)
    assert decoded.dtype == dtype
    assert decoded.shape == weight.shape
    original = weight.double()
    excess = (decoded.double() - original).abs() - bound(name, original, stored, dtype)
    assert excess.max() <= 0
    assert not decoded[(original == 0).all(dim=1)].any()


@pytest.mark.parametrize("name", NAMES)
@settings(deadline=None)
@given(height=st.integers(1, 9), width=st.integers(1, 140))
def test_what_is_stored_is_what_parts_say(name: str, height: int, width: int) -> None:
    assert FORMATS[name].name == name
    parts = FORMATS[name].parts((height, width))
    stored = FORMATS[name].encode(torch.ones(height, width))
    assert [(part.shape, part.dtype) for part in parts] == [(t.shape, t.dtype) for t in stored]
    assert [part.nbytes for part in parts] == [tensor.nbytes for tensor in stored]


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("float8", (5120, 13824), 5120 * 13824 + 4 * 5120),
        ("int8", (5120, 13824), 5120 * 13824 + 4 * 5120),
        ("nf4", (5120, 13824), 5120 * 13824 // 2 + 4 * 5120 * 13824 // 64),
        ("nf4", (5, 13), 2 * 32 + 2 * 4),  # a started block counts as a whole one
    ],
)
def test_the_bytes_follow_the_formulas(name: str, shape: tuple[int, int], expected: int) -> None:
    assert list(FORMATS) == ["float8", "int8", "nf4"]
    assert sum(part.nbytes for part in FORMATS[name].parts(shape)) == expected


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["float8", "int8"])
def test_every_value_of_a_payload_survives(name: str, dtype: torch.dtype) -> None:
    row = torch.arange(-127, 128).float()
    if name == "float8":
        values = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
        row = values[values.isfinite()]
    weight = torch.stack([row, row / 8])
    stored = FORMATS[name].encode(weight)
    assert stored[1].tolist() == [1, 1 / 8]
    decoded = FORMATS[name].decode(stored, (2, len(row)), dtype)
    assert torch.equal(decoded.float(), weight)


@pytest.mark.parametrize("name", ["float8", "int8"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_rounds_only_once(name: str, dtype: torch.dtype) -> None:
    weight = matrix(40, 300) * torch.logspace(-4, 3, 40)[:, None]
    stored = FORMATS[name].encode(weight)
    exact = stored[0].double() * stored[1].double()[:, None]
    assert torch.equal(stored[1].bfloat16().float(), stored[1])
    assert torch.equal(FORMATS[name].decode(stored, (40, 300), dtype), exact.to(dtype))


@pytest.mark.parametrize("name", ["float8", "int8"])
def test_a_channel_of_zeros_has_the_scale_one(name: str) -> None:
    weight = matrix(3, 8)
    weight[1] = 0
    assert FORMATS[name].encode(weight)[1][1] == 1


@pytest.mark.parametrize(("name", "largest"), [("float8", 448), ("int8", 127)])
def test_the_scale_is_rounded_up_by_less_than_a_step_of_bfloat16(name: str, largest: int) -> None:
    weight = matrix(400, 3)
    needed = weight.double().abs().amax(dim=1) / largest
    scale = FORMATS[name].encode(weight)[1].double()
    assert (scale >= needed * (1 - 2**-24)).all()
    assert (scale <= needed * (1 + 2**-7)).all()


@pytest.mark.parametrize("name", [NF4])
def test_the_largest_weight_of_an_nf4_block_survives(name: str) -> None:
    weight = matrix(50, 64)
    decoded = FORMATS[name].decode(FORMATS[name].encode(weight), (50, 64), torch.float32)
    place = weight.abs().argmax(dim=1, keepdim=True)
    assert torch.equal(decoded.gather(1, place), weight.gather(1, place))


@pytest.mark.parametrize("name", ["float8", "int8"])
def test_channels_near_the_end_of_float32_are_stored(name: str) -> None:
    weight = torch.tensor([[3e38, -1.0, 0.0], [1e-44, -1e-45, 0.0]])
    decoded = FORMATS[name].decode(FORMATS[name].encode(weight), (2, 3), torch.float32)
    assert decoded[0, 0].item() == pytest.approx(3e38, rel=2**-4)
    assert decoded[1].abs().max() <= torch.finfo(torch.float32).tiny


@pytest.mark.parametrize("name", NAMES)
def test_weights_that_are_not_finite_are_a_fault(name: str) -> None:
    for place, value in itertools.product([(0, 0), (2, 5), (4, 76)], ["nan", "inf", "-inf"]):
        weight = matrix()
        weight[place] = float(value)
        with pytest.raises(Fault, match=r"^the weights are not finite$"):
            FORMATS[name].encode(weight)


@pytest.mark.parametrize("name", NAMES)
def test_neither_chunks_nor_type_nor_strides_change_what_is_stored(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    encode, weight = FORMATS[name].encode, matrix().bfloat16()
    expected = encode(weight.float())
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        assert_same(encode(weight.to(dtype)), expected)
    assert_same(encode(matrix().t()), encode(matrix().t().contiguous()))
    for chunk in (64, 128, 192):
        monkeypatch.setattr(formats, "CHUNK", chunk)
        assert_same(encode(weight.float()), expected)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@settings(deadline=None, max_examples=20)
@given(shape=st.tuples(st.integers(1, 40), st.integers(1, 200)), start=st.integers(0, 9))
def test_decoding_does_not_depend_on_where_the_bytes_lie(
    name: str, dtype: torch.dtype, shape: tuple[int, int], start: int
) -> None:
    stored = FORMATS[name].encode(matrix(*shape))
    expected = FORMATS[name].decode(stored, shape, dtype)
    buffer = torch.empty(64 * (start + 2) + sum(t.nbytes + 64 for t in stored), dtype=torch.uint8)
    end, views = 64 * start + (-buffer.data_ptr()) % 64, []
    for tensor in stored:
        flat = buffer[end : end + tensor.nbytes]
        flat.copy_(tensor.view(-1).view(torch.uint8))
        views.append(flat.view(tensor.dtype).view(tensor.shape))
        end += -(-tensor.nbytes // 64) * 64
    for _ in range(2):
        assert torch.equal(FORMATS[name].decode(views, shape, dtype), expected)


@pytest.mark.parametrize("name", NAMES)
def test_tensors_of_another_shape_are_refused(name: str) -> None:
    stored = FORMATS[name].encode(matrix(4, 64))
    with pytest.raises(AssertionError, match="weight"):
        FORMATS[name].decode(stored, (4, 128), torch.float32)


def test_nf4_without_bitsandbytes_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    stored = [torch.zeros(32, dtype=torch.uint8), torch.zeros(1)]
    with pytest.raises(UserError, match=r"pip install 'maskora\[quant\]'"):
        FORMATS["nf4"].encode(torch.ones(1, 64))
    with pytest.raises(UserError, match=r"pip install 'maskora\[quant\]'"):
        FORMATS["nf4"].decode(stored, (1, 64), torch.float32)


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
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_it_computes_what_a_plain_linear_computes(
    name: str, bias: bool, dtype: torch.dtype
) -> None:
    layers = pair(name, dtype, bias)
    for shape in ((INTO,), (7, INTO), (2, 5, INTO)):
        x = torch.randn(shape, dtype=dtype)
        outputs, gradients = [], []
        for layer in layers:
            leaf = x.clone().requires_grad_()
            output = layer(leaf)
            (output**2).sum().backward()
            outputs.append(output)
            gradients.append(leaf.grad)
        assert outputs[0].dtype == dtype
        assert torch.equal(*outputs)
        assert torch.equal(*gradients)
        with torch.inference_mode():
            assert torch.equal(layers[0](x), outputs[1])
        assert not layers[0](x).requires_grad


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
        kept = nn.functional.linear(x, layers[0].dense())  # as a plain graph would keep it
        assert (dense.alive, kept.requires_grad) == (1, True)


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
