"""The planner's arithmetic against the real classes: parameters and bytes exactly, peaks nearly."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from maskora.models.wan21_sizes import WanSizes
from maskora.models.wan21_transformer_sizes import Transformer
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPVisionModel, UMT5Config, UMT5EncoderModel

from maskora import lora
from maskora.models.registry import open_source, read_sizes
from maskora.models.wan.checks import WanTransformer as Settings
from maskora.models.wan.model import ATTENTION, FEED_FORWARD
from maskora.streaming.blocks import Block, precise
from maskora.streaming.formats import FORMATS
from maskora.streaming.recompute import recompute_layers
from tests.models import published
from tests.models.counting import LiveBytes, make_fake, norms_in_one_piece, on_meta, peak_of

BIG, SMALL, TWO = published.SHAPES
CLOSE = 0.10  # how far a planned peak may be from the counted one
CLOSER = 0.05  # for one block, whose arithmetic is moment by moment
TARGETS = {"attention": ATTENTION, "attention+ffn": f"({ATTENTION}|{FEED_FORWARD})"}
WIDE = tuple(WanTransformer3DModel._keep_in_fp32_modules)
SIZE = (832, 480)


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], WanSizes]:
    """A published base's arithmetic, from its configuration files."""

    def read(name: str) -> WanSizes:
        folder = tmp_path_factory.mktemp("configs")
        return WanSizes("wan2.1-i2v", open_source(published.write_published(folder, name)))

    return read


@pytest.mark.parametrize("name", [BIG, SMALL, TWO])
def test_every_part_has_exactly_as_many_parameters_as_the_real_class(
    sizes: Callable[[str], WanSizes], name: str
) -> None:
    counted = {
        part: sum(parameter.numel() for parameter in module.parameters())
        for part, module in published.parts(name).items()
    }
    assert sizes(name).parameters == counted


def test_the_tiny_model_has_exactly_as_many_parameters_as_its_files(tiny_model: Path) -> None:
    from safetensors import safe_open

    told = read_sizes("wan2.1-i2v", tiny_model).parameters
    for part, expected in told.items():
        count = 0
        for file in (tiny_model / part).glob("*.safetensors"):
            with safe_open(file, "pt") as shard:
                names = list(shard.keys())
                count += sum(shard.get_tensor(name).numel() for name in names)
        assert count == expected, part


@pytest.mark.parametrize("name", [BIG, SMALL, TWO])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
@pytest.mark.parametrize("storage", ["same", *FORMATS])
def test_a_stored_block_has_exactly_the_size_of_the_engines_buffer(
    sizes: Callable[[str], WanSizes], name: str, dtype: str, storage: str
) -> None:
    module = published.transformer(name, layers=1).blocks[0]
    precision = precise(getattr(torch, dtype), WIDE)
    block = Block(module, "blocks.0.", storage, precision, torch.device("meta"))
    assert sizes(name).block_bytes(dtype, storage)[0] == block.layout.nbytes


@pytest.mark.parametrize("name", [BIG, SMALL, TWO])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_what_lies_outside_the_blocks_has_exactly_the_real_bytes(
    sizes: Callable[[str], WanSizes], name: str, dtype: str
) -> None:
    model, precision = published.transformer(name, layers=1), precise(getattr(torch, dtype), WIDE)
    outside = {n: p for n, p in model.named_parameters() if not n.startswith("blocks.")}
    counted = sum(parameter.numel() * precision(n).itemsize for n, parameter in outside.items())
    counted += sum(buffer.nbytes for buffer in model.buffers())
    assert sizes(name).other_bytes(dtype) == counted


@pytest.mark.parametrize("targets", TARGETS)
def test_the_lora_has_exactly_as_many_values_as_peft_makes(
    sizes: Callable[[str], WanSizes], targets: str
) -> None:
    model = published.transformer(SMALL)
    lora.inject(model, rank=8, alpha=8.0, targets=TARGETS[targets], seed=0)
    counted = sum(parameter.numel() for parameter in lora.trainable(model))
    assert sizes(SMALL).lora_parameters(8, targets) == counted


def test_encoder_layers_have_exactly_the_real_bytes(sizes: Callable[[str], WanSizes]) -> None:
    told, device = sizes(BIG), torch.device("meta")
    text = on_meta(lambda: UMT5EncoderModel(published.TEXT))
    layer = Block(text.encoder.block[0], "", "same", precise(torch.bfloat16), device)
    assert told.encoders("bfloat16")["text encoder"].layer == layer.layout.nbytes
    text = on_meta(lambda: UMT5EncoderModel(published.TEXT))
    layer = Block(text.encoder.block[0], "", "same", precise(torch.float16, ("wo",)), device)
    assert told.encoders("float16")["text encoder"].layer == layer.layout.nbytes
    image = on_meta(lambda: CLIPVisionModel(published.IMAGE))
    outside = sum(
        p.numel() * 4 for n, p in image.named_parameters() if not n.startswith("encoder.layers")
    )
    layer = Block(image.encoder.layers[0], "", "same", precise(torch.float32), device)
    assert told.encoders("bfloat16")["image encoder"].layer == layer.layout.nbytes
    assert told.encoders("bfloat16")["image encoder"].others == outside


def block_peak(name: str, way: str, tokens: int, batch: int, dtype: str, targets: str) -> int:
    """Bytes that one block with LoRA of rank 16 takes at most beside its inputs and weights."""
    kind, model = getattr(torch, dtype), published.transformer(name, layers=1)
    lora.inject(model, rank=16, alpha=16.0, targets=TARGETS[targets], seed=0)
    block, precision = model.blocks[0], precise(kind, WIDE)
    norms_in_one_piece(block)
    if way == "layer":
        recompute_layers(block)
    mode = FakeTensorMode()
    width, train = model.config.num_attention_heads * 128, way != "infer"
    with mode:
        make_fake(block, lambda n, p: torch.float32 if p.requires_grad else precision(n))
        hidden = torch.empty(batch, tokens, width, dtype=kind, requires_grad=train)
        length = 512 if name in published.NO_PICTURE else 512 + 257
        context = torch.empty(batch, length, width, dtype=kind)
        modulation = torch.empty(batch, 6, width, dtype=kind)
        rope = (torch.empty(1, tokens, 1, 128), torch.empty(1, tokens, 1, 128))
        gradient = torch.empty(batch, tokens, width, dtype=kind)
    given = [*block.parameters(), hidden, context, modulation, gradient, *rope]

    def compute() -> None:
        with torch.set_grad_enabled(train):
            answer = block(hidden, context, modulation, rope)
            if train:
                torch.autograd.backward(answer, gradient)

    return int(peak_of(given, compute, mode)[1])


@pytest.mark.parametrize("name", [BIG, SMALL, TWO])
@pytest.mark.parametrize("tokens", [4680, 20280])
@pytest.mark.parametrize(("way", "batch"), [("block", 1), ("layer", 1), ("infer", 1), ("infer", 2)])
def test_a_blocks_planned_peak_is_near_the_counted_one(
    sizes: Callable[[str], WanSizes], name: str, tokens: int, way: str, batch: int
) -> None:
    counted = block_peak(name, way, tokens, batch, "bfloat16", "attention")
    planned = sizes(name).block_peak(way, "bfloat16", tokens, batch, 16, "attention")
    assert planned == pytest.approx(counted, rel=CLOSER)


@pytest.mark.parametrize("way", ["block", "layer", "infer"])
@pytest.mark.parametrize(
    ("dtype", "targets"),
    [("float32", "attention"), ("float32", "attention+ffn"), ("bfloat16", "attention+ffn")],
)
@pytest.mark.parametrize("name", [BIG, SMALL, TWO])
def test_so_it_is_in_other_precisions_and_with_more_lora(
    sizes: Callable[[str], WanSizes], name: str, way: str, dtype: str, targets: str
) -> None:
    counted = block_peak(name, way, 4680, 1, dtype, targets)
    planned = sizes(name).block_peak(way, dtype, 4680, 1, 16, targets)
    assert planned == pytest.approx(counted, rel=CLOSER)


@pytest.mark.parametrize("split", [False, True])
def test_a_guided_denoising_steps_planned_peak_is_near_the_counted_one(
    sizes: Callable[[str], WanSizes], split: bool
) -> None:
    """The whole transformer of two blocks, from latents to velocity, as the engine visits it."""
    model, mode, kind = published.transformer(BIG, layers=2), FakeTensorMode(), torch.bfloat16
    precision = precise(kind, WIDE)
    with mode:
        make_fake(model, lambda n, p: precision(n))
        for name, buffer in list(model.rope.named_buffers()):
            model.rope._buffers[name] = torch.empty(buffer.shape)
        given = {
            "hidden_states": torch.empty(2, 36, 13, 60, 104, dtype=kind),
            "timestep": torch.empty(2),
            "encoder_hidden_states": torch.empty(2, 512, 4096, dtype=kind),
            "encoder_hidden_states_image": torch.empty(2, 257, 1280, dtype=kind),
        }
    for block in model.blocks if split else ():
        block.forward = one_by_one(block.forward)
    weights = [*model.parameters(), *model.buffers()]
    with torch.no_grad():
        _, counted = peak_of(weights, lambda: model(**given, return_dict=False), mode)
    planned = sizes(BIG).infer_bytes("bfloat16", 20280, 2, split, "attention")
    assert planned == pytest.approx(counted, rel=CLOSE)


def one_by_one(forward: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """A block's forward for a batch of two, one sample after the other."""

    def in_turn(
        hidden: torch.Tensor,
        context: torch.Tensor,
        modulation: torch.Tensor,
        rope: tuple[torch.Tensor, torch.Tensor],
    ) -> torch.Tensor:
        halves = [forward(hidden[i : i + 1], context[i : i + 1], modulation[i : i + 1], rope)
                  for i in range(2)]  # fmt: skip
        return torch.cat(halves)

    return in_turn


def vae_peak(what: str, frames: int, width: int, height: int, tile: int | None) -> int:
    """Bytes that the published VAE takes at most beside its weights; the clip included."""
    vae, mode = on_meta(AutoencoderKLWan), FakeTensorMode()
    if tile is not None:
        vae.enable_tiling(tile, tile, tile * 3 // 4, tile * 3 // 4)
    with mode:
        make_fake(vae, lambda n, p: torch.float32)

    def compute() -> torch.Tensor:
        if what == "encode":
            return vae.encode(torch.empty(1, 3, frames, height, width)).latent_dist.mode()
        return vae.decode(torch.empty(1, 16, frames // 4 + 1, height // 8, width // 8)).sample

    with torch.no_grad():
        return int(peak_of(vae.parameters(), compute, mode)[1])


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize(
    ("frames", "size", "tile"),
    [
        (9, SIZE, None),
        (49, SIZE, None),
        (9, (416, 240), 192),
        pytest.param(9, SIZE, 256, marks=pytest.mark.slow),
        pytest.param(25, SIZE, 128, marks=pytest.mark.slow),  # joining the tiles takes most
    ],
)
def test_the_vaes_planned_peak_is_near_the_counted_one(
    sizes: Callable[[str], WanSizes],
    what: str,
    frames: int,
    size: tuple[int, int],
    tile: int | None,
) -> None:
    told = sizes(BIG)
    arithmetic = told.vae_encode_bytes if what == "encode" else told.vae_decode_bytes
    counted = vae_peak(what, frames, *size, tile=tile)
    assert arithmetic(frames, *size, tile=tile) == pytest.approx(counted, rel=CLOSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_text_encoders_planned_peak_is_near_the_counted_one(
    sizes: Callable[[str], WanSizes], dtype: str
) -> None:
    config = UMT5Config(**{**published.TEXT.to_dict(), "num_layers": 2, "vocab_size": 100})
    encoder, mode = on_meta(lambda: UMT5EncoderModel(config)).eval(), FakeTensorMode()
    with mode:
        make_fake(encoder, lambda n, p: getattr(torch, dtype))
        tokens, mask = (torch.ones(1, 512, dtype=torch.int64) for _ in range(2))
    with torch.no_grad():
        _, counted = peak_of(encoder.parameters(), lambda: encoder(tokens, mask), mode)
    assert sizes(BIG).encoders(dtype)["text encoder"].activations == pytest.approx(
        counted, rel=CLOSE
    )


def test_the_image_encoders_planned_peak_is_near_the_counted_one(
    sizes: Callable[[str], WanSizes],
) -> None:
    encoder, mode = on_meta(lambda: CLIPVisionModel(published.IMAGE)).eval(), FakeTensorMode()
    with mode:
        make_fake(encoder, lambda n, p: torch.float32)
        encoder.embeddings.position_ids = torch.zeros(1, 257, dtype=torch.int64)
        picture = torch.empty(1, 3, 224, 224)
    with torch.no_grad():
        _, counted = peak_of(
            encoder.parameters(), lambda: encoder(picture, output_hidden_states=True), mode
        )
    assert sizes(BIG).encoders("bfloat16")["image encoder"].activations == pytest.approx(
        counted, rel=CLOSE
    )


def test_live_bytes_rise_and_fall_with_the_tensors() -> None:
    with FakeTensorMode(), LiveBytes() as counter:
        kept = torch.empty(1000)
        counter.mark([kept])
        for _ in range(3):
            kept = (kept + 1).view(10, 100)  # the view shares its storage
    assert counter.grown == 4000
    assert counter.live == 4000


def test_tokens_follow_the_grid(sizes: Callable[[str], WanSizes]) -> None:
    assert sizes(BIG).tokens(9, 832, 480) == 3 * 30 * 52
    assert sizes(BIG).tokens(49, 832, 480) == 20280


def test_importing_the_bases_needs_no_torch(tiny_model: Path) -> None:
    code = (
        "import sys; from pathlib import Path; import maskora.models as models;"
        f"models.read_sizes('wan2.1-i2v', Path({str(tiny_model)!r}));"
        "assert not {'torch', 'diffusers', 'transformers'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_module_of_a_block_is_counted() -> None:
    """A block without image keys has none of their parameters."""
    config = {"num_attention_heads": 2, "attention_head_dim": 24, "ffn_dim": 96, "num_layers": 1}
    model: nn.Module = on_meta(lambda: WanTransformer3DModel(cross_attn_norm=False, **config))
    counted = sum(parameter.numel() for parameter in model.parameters())
    told = Settings(in_channels=16, cross_attn_norm=False, **config)
    assert Transformer.read(told).count() == counted
