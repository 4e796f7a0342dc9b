"""The planner's arithmetic against the real classes: parameters and bytes exactly, peaks nearly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel
from maskora.models.hunyuan15_sizes import Hunyuan15Sizes
from safetensors import safe_open
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from maskora import lora
from maskora.models.hunyuan15.model import ATTENTION, FEED_FORWARD, UnpaddedAttention
from maskora.models.registry import open_source, read_sizes
from maskora.streaming.blocks import Block, precise
from maskora.streaming.formats import FORMATS
from maskora.streaming.recompute import recompute_layers
from tests.models import published_hunyuan15 as published
from tests.models import tiny_hunyuan15
from tests.models.counting import LiveBytes, make_fake, peak_of

FAMILY = "hunyuan-video-1.5-i2v"
CLOSE = 0.10  # how far a planned peak may be from the counted one
CLOSER = 0.05  # for one block, whose arithmetic is moment by moment
TARGETS = {"attention": ATTENTION, "attention+ffn": f"({ATTENTION}|{FEED_FORWARD})"}
CONTEXT = 1000 + 256 + 729
META = torch.device("meta")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Hunyuan15Sizes:
    """The published base's arithmetic, from its configuration files."""
    folder = published.write_published(tmp_path_factory.mktemp("configs"))
    return Hunyuan15Sizes(FAMILY, open_source(folder))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hunyuan15.write(tmp_path_factory.mktemp("models") / "hunyuan15")


def test_every_part_has_exactly_as_many_parameters_as_the_real_class(
    sizes: Hunyuan15Sizes,
) -> None:
    parts = published.parts()
    halves = parts["vae"].encoder, parts["vae"].decoder
    larger = max(sum(parameter.numel() for parameter in half.parameters()) for half in halves)
    assert sizes.vae_bytes() == larger * 4
    assert sizes.name == f"{FAMILY} 54 x 2048"
    assert sizes.parameters == {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in parts.items()
    }


def test_the_tiny_model_has_exactly_as_many_parameters_as_its_files(folder: Path) -> None:
    for part, expected in read_sizes(FAMILY, folder).parameters.items():
        (file,) = (folder / part).glob("*.safetensors")
        with safe_open(file, "pt") as shard:
            names = list(shard.keys())
            assert sum(shard.get_tensor(name).numel() for name in names) == expected, part


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("storage", ["same", *FORMATS])
def test_a_stored_block_has_exactly_the_size_of_the_engines_buffer(
    sizes: Hunyuan15Sizes, dtype: str, storage: str
) -> None:
    module = published.transformer(1).transformer_blocks[0]
    block = Block(module, "", storage, precise(getattr(torch, dtype)), META)
    assert sizes.block_bytes(dtype, storage) == (block.layout.nbytes,) * 54


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_lies_outside_the_blocks_has_exactly_the_real_bytes(
    sizes: Hunyuan15Sizes, dtype: str
) -> None:
    model, item = published.transformer(1), getattr(torch, dtype).itemsize
    outside = [p for n, p in model.named_parameters() if not n.startswith("transformer_blocks.")]
    counted = sum(p.numel() * item for p in outside) + sum(b.nbytes for b in model.buffers())
    assert sizes.other_bytes(dtype) == counted


@pytest.mark.parametrize("targets", TARGETS)
def test_the_lora_has_exactly_as_many_values_as_peft_makes(
    sizes: Hunyuan15Sizes, targets: str
) -> None:
    model = published.transformer()
    lora.inject(model, rank=8, alpha=8.0, targets=TARGETS[targets], seed=0)
    weights = lora.trainable(model)
    assert len(weights) == 54 * 2 * {"attention": 4, "attention+ffn": 6}[targets]
    assert sizes.lora_parameters(8, targets) == sum(weight.numel() for weight in weights)


def block_peak(way: str, tokens: int, batch: int, dtype: str, targets: str) -> int:
    """Bytes that one block with LoRA of rank 16 takes at most beside its inputs and weights."""
    kind, model, train = getattr(torch, dtype), published.transformer(1), way != "infer"
    lora.inject(model, rank=16, alpha=16.0, targets=TARGETS[targets], seed=0)
    block, mode = model.transformer_blocks[0], FakeTensorMode()
    block.attn.set_processor(UnpaddedAttention())
    if way == "layer":
        recompute_layers(block)
    with mode:
        make_fake(block, lambda n, p: torch.float32 if p.requires_grad else kind)
        streams = [
            torch.empty(batch, length, 2048, dtype=kind, requires_grad=train)
            for length in (tokens, CONTEXT)
        ]
        time, rope = torch.empty(batch, 2048, dtype=kind), [torch.empty(tokens, 128)] * 2
        gradients = [torch.empty_like(stream) for stream in streams]
    given = [*block.parameters(), *streams, time, *rope, *gradients]

    def compute() -> None:
        with torch.set_grad_enabled(train):
            answers = block(*streams, time, None, rope)
            if train:
                torch.autograd.backward(answers, gradients)

    return int(peak_of(given, compute, mode)[1])


@pytest.mark.parametrize("tokens", [510, 4680, 20280])
@pytest.mark.parametrize(("way", "batch"), [("block", 1), ("layer", 1), ("infer", 1), ("infer", 2)])
def test_a_blocks_planned_peak_is_near_the_counted_one(
    sizes: Hunyuan15Sizes, tokens: int, way: str, batch: int
) -> None:
    counted = block_peak(way, tokens, batch, "bfloat16", "attention")
    planned = sizes.block_peak(way, "bfloat16", tokens, batch, 16, "attention")
    assert planned == pytest.approx(counted, rel=CLOSER)


@pytest.mark.parametrize("way", ["block", "layer", "infer"])
@pytest.mark.parametrize("tokens", [510, 4680, 20280])
@pytest.mark.parametrize(
    ("dtype", "targets"),
    [("float32", "attention"), ("float32", "attention+ffn"), ("bfloat16", "attention+ffn")],
)
def test_so_it_is_in_other_precisions_and_with_more_lora(
    sizes: Hunyuan15Sizes, way: str, tokens: int, dtype: str, targets: str
) -> None:
    counted = block_peak(way, tokens, 1, dtype, targets)
    planned = sizes.block_peak(way, dtype, tokens, 1, 16, targets)
    assert planned == pytest.approx(counted, rel=CLOSER)


@pytest.mark.parametrize("split", [False, True])
def test_a_guided_denoising_steps_planned_peak_is_near_the_counted_one(
    tmp_path: Path, split: bool
) -> None:
    """A narrow transformer of two blocks, from latents to velocity, as the engine visits it.

    Its tensors are real: where the padding lies is read from the masks.
    """
    narrow = {"num_layers": 2, "num_attention_heads": 2, "text_embed_dim": 64,
              "text_embed_2_dim": 64, "image_embed_dim": 64}  # fmt: skip
    model = HunyuanVideo15Transformer3DModel(**narrow).requires_grad_(False)
    for block in model.transformer_blocks:
        block.attn.set_processor(UnpaddedAttention())
        block.forward = one_by_one(block.forward) if split else block.forward
    given: dict[str, Any] = {
        "hidden_states": torch.randn(2, 65, 3, 15, 26),
        "timestep": torch.full((2,), 500.0),
        "encoder_hidden_states": torch.randn(2, 1000, 64),
        "encoder_attention_mask": torch.ones(2, 1000, dtype=torch.bool),
        "encoder_hidden_states_2": torch.randn(2, 256, 64),
        "encoder_attention_mask_2": torch.ones(2, 256, dtype=torch.bool),
        "image_embeds": torch.randn(2, 729, 64),
    }
    with torch.inference_mode(), LiveBytes() as counter:
        counter.mark([*model.parameters(), *given.values()])
        model(**given, return_dict=False)
    told = Hunyuan15Sizes(FAMILY, open_source(published.write_published(tmp_path, **narrow)))
    planned = told.infer_bytes("float32", told.tokens(9, 416, 240), 2, split, "attention")
    assert planned == pytest.approx(counter.grown, rel=CLOSE)


def one_by_one(forward: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, ...]]:
    """A block's forward for a batch of two, one sample after the other."""

    def in_turn(*batched: Any) -> tuple[Tensor, ...]:
        *split, rope = batched
        halves = [forward(*(tensor[i : i + 1] for tensor in split), rope) for i in range(2)]
        return tuple(torch.cat(pair) for pair in zip(*halves, strict=True))

    return in_turn


def test_tokens_follow_the_grid_and_a_blocks_input_has_both_streams(
    sizes: Hunyuan15Sizes,
) -> None:
    assert sizes.tokens(9, 832, 480) == 3 * 30 * 52
    assert sizes.tokens(49, 832, 480) == 20280
    assert sizes.input_bytes("bfloat16", 4680) == (4680 + CONTEXT) * 2048 * 2


def test_reading_the_sizes_needs_no_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import maskora.models as models;"
        f"models.read_sizes({FAMILY!r}, Path({str(folder)!r}));"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
