"""The planner's arithmetic against the real classes: parameters and bytes exactly, peaks nearly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from maskora.models.hunyuan_encoder_sizes import TEXT_TOKENS
from maskora.models.hunyuan_sizes import HunyuanSizes
from safetensors import safe_open
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from maskora import lora
from maskora.models.hunyuan.model import ATTENTION, FEED_FORWARD
from maskora.models.registry import open_source, read_sizes
from maskora.streaming.blocks import Block, precise
from maskora.streaming.formats import FORMATS
from maskora.streaming.recompute import recompute_layers
from tests.models import published_hunyuan as published
from tests.models import tiny_hunyuan
from tests.models.counting import make_fake, peak_of

FAMILY = "hunyuan-video-i2v"
CLOSE = 0.10  # how far a planned peak may be from the counted one
CLOSER = 0.05  # for one block, whose arithmetic is moment by moment
TARGETS = {"attention": ATTENTION, "attention+ffn": f"({ATTENTION}|{FEED_FORWARD})"}
SIZE, WIDTH, HEAD = (832, 480), 3072, 128
NOTHING = torch.device("meta")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> HunyuanSizes:
    """The published base's arithmetic, from its configuration files."""
    folder = published.write_published(tmp_path_factory.mktemp("configs"))
    return HunyuanSizes(FAMILY, open_source(folder))


def test_every_part_has_exactly_as_many_parameters_as_the_real_class(sizes: HunyuanSizes) -> None:
    counted = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in published.parts().items()
    }
    assert sizes.parameters == counted
    assert counted["transformer"] == pytest.approx(12.8e9, rel=0.02)
    assert sizes.name == "hunyuan-video-i2v 20+40 x 3072"


@pytest.mark.parametrize("guidance_embeds", [False, True])
def test_the_tiny_model_has_exactly_as_many_parameters_as_its_files(
    tmp_path: Path, guidance_embeds: bool
) -> None:
    folder = tiny_hunyuan.write(tmp_path / "tiny", double=1, guidance_embeds=guidance_embeds)
    told = read_sizes(FAMILY, folder)
    assert told.embeds_guidance == guidance_embeds
    for part, expected in told.parameters.items():
        count = 0
        for file in (folder / part).glob("*.safetensors"):
            with safe_open(file, "pt") as shard:
                names = list(shard.keys())
                count += sum(shard.get_tensor(name).numel() for name in names)
        assert count == expected, part


def block(kind: str) -> nn.Module:
    """A published block: "double" or "single"."""
    model = published.transformer(1, 1)
    blocks = model.transformer_blocks if kind == "double" else model.single_transformer_blocks
    return blocks[0]


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("storage", ["same", *FORMATS])
def test_stored_blocks_have_exactly_the_sizes_of_the_engines_buffers(
    sizes: HunyuanSizes, dtype: str, storage: str
) -> None:
    double, single = (
        Block(block(kind), "", storage, precise(getattr(torch, dtype)), NOTHING).layout.nbytes
        for kind in ("double", "single")
    )
    assert sizes.block_bytes(dtype, storage) == (double,) * 20 + (single,) * 40


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_lies_outside_the_blocks_has_exactly_the_real_bytes(
    sizes: HunyuanSizes, dtype: str
) -> None:
    model, item = published.transformer(1, 1), getattr(torch, dtype).itemsize
    outside = [p for n, p in model.named_parameters() if "transformer_blocks." not in n]
    assert not list(model.buffers())
    assert sizes.other_bytes(dtype) == sum(parameter.numel() for parameter in outside) * item


@pytest.mark.parametrize("targets", TARGETS)
def test_the_lora_has_exactly_as_many_values_as_peft_makes(
    sizes: HunyuanSizes, targets: str
) -> None:
    model = published.transformer()
    lora.inject(model, rank=8, alpha=8.0, targets=TARGETS[targets], seed=0)
    counted = sum(parameter.numel() for parameter in lora.trainable(model))
    assert sizes.lora_parameters(8, targets) == counted


def block_peak(kind: str, way: str, tokens: int, batch: int, dtype: str, targets: str) -> int:
    """Bytes that one block with LoRA of rank 16 takes at most beside its inputs and weights."""
    model, precision = published.transformer(1, 1), getattr(torch, dtype)
    lora.inject(model, rank=16, alpha=16.0, targets=TARGETS[targets], seed=0)
    one = (model.transformer_blocks if kind == "double" else model.single_transformer_blocks)[0]
    if way == "layer":
        recompute_layers(one)
    mode, train, video = FakeTensorMode(), way != "infer", tokens - TEXT_TOKENS
    with mode:
        make_fake(one, lambda n, p: torch.float32 if p.requires_grad else precision)
        lengths = (video, TEXT_TOKENS)
        streams = [
            torch.empty(batch, n, WIDTH, dtype=precision, requires_grad=train) for n in lengths
        ]
        gradients = [torch.empty(batch, n, WIDTH, dtype=precision) for n in lengths]
        told = torch.empty(batch, WIDTH, dtype=precision)
        mask = torch.empty(batch, 1, 1, tokens, dtype=torch.bool)
        rope = (torch.empty(video, HEAD), torch.empty(video, HEAD))
    given = [*one.parameters(), *streams, *gradients, told, mask, *rope]

    def compute() -> None:
        with torch.set_grad_enabled(train):
            answers = one(*streams, told, mask, rope)
            if train:
                torch.autograd.backward(answers, gradients)

    return int(peak_of(given, compute, mode)[1])


@pytest.mark.parametrize(("way", "batch"), [("block", 1), ("layer", 1), ("infer", 1), ("infer", 2)])
@pytest.mark.parametrize(
    ("video", "dtype", "targets"),
    [
        (4680, "bfloat16", "attention"),
        (20280, "bfloat16", "attention"),
        (4680, "bfloat16", "attention+ffn"),
        (4680, "float32", "attention"),
        (4680, "float32", "attention+ffn"),
    ],
)
def test_a_blocks_planned_peak_is_near_the_counted_one(
    sizes: HunyuanSizes, video: int, way: str, batch: int, dtype: str, targets: str
) -> None:
    tokens = video + TEXT_TOKENS
    planned = sizes.block_peak(way, dtype, tokens, batch, 16, targets)
    single = block_peak("single", way, tokens, batch, dtype, targets)
    assert planned == pytest.approx(single, rel=CLOSER)
    assert block_peak("double", way, tokens, batch, dtype, targets) <= single


@pytest.mark.parametrize("split", [False, True])
def test_a_guided_denoising_steps_planned_peak_is_near_the_counted_one(
    sizes: HunyuanSizes, split: bool
) -> None:
    """The whole transformer of few blocks, from latents to velocity, as the engine visits it."""
    model, mode, kind = published.transformer(1, 2), FakeTensorMode(), torch.bfloat16
    with mode:
        make_fake(model, lambda n, p: kind)
        given = {
            "hidden_states": torch.empty(2, 33, 13, 60, 104, dtype=kind),
            "timestep": torch.empty(2),
            "encoder_hidden_states": torch.empty(2, TEXT_TOKENS, 4096, dtype=kind),
            "encoder_attention_mask": torch.ones(2, TEXT_TOKENS, dtype=kind),
            "pooled_projections": torch.empty(2, 768, dtype=kind),
        }
    blocks = [*model.transformer_blocks, *model.single_transformer_blocks]
    for one in blocks if split else ():
        one.forward = one_by_one(one.forward)
    with torch.no_grad():
        _, counted = peak_of(model.parameters(), lambda: model(**given, return_dict=False), mode)
    planned = sizes.infer_bytes("bfloat16", 20280 + TEXT_TOKENS, 2, split, "attention")
    assert planned == pytest.approx(counted, rel=CLOSE)


def one_by_one(forward: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, ...]]:
    """A block's forward for a batch of two, one sample after the other."""

    def in_turn(*given: object) -> tuple[Tensor, ...]:
        batched, shared = given[:4], given[4:]
        halves = [forward(*(t[i : i + 1] for t in batched), *shared) for i in range(2)]
        return tuple(torch.cat(both) for both in zip(*halves, strict=True))

    return in_turn


def test_tokens_are_those_of_the_video_and_of_the_words(sizes: HunyuanSizes) -> None:
    assert sizes.tokens(9, *SIZE) == 3 * 30 * 52 + 540
    assert sizes.tokens(49, *SIZE) == 20280 + 540


def test_importing_the_base_s_arithmetic_needs_no_torch(tmp_path: Path) -> None:
    folder = published.write_published(tmp_path)
    code = (
        "import sys; from pathlib import Path; import maskora.models as models;"
        f"models.read_sizes({FAMILY!r}, Path({str(folder)!r}));"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
