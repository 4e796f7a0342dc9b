"""HunyuanVideo-1.5's encoders and VAE: the planner's arithmetic against the real classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15
from maskora.models.hunyuan15_sizes import Hunyuan15Sizes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    Qwen2_5_VLTextConfig,
    Qwen2_5_VLTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
    T5Config,
    T5EncoderModel,
)

from maskora.models.registry import open_source
from maskora.streaming.blocks import Block, precise
from tests.models.counting import make_fake, on_meta, peak_of
from tests.models.published_hunyuan15 import GLYPHS, IMAGE, TEXT, write_published

CLOSE = 0.10  # how far a planned peak may be from the counted one
SIZE = (832, 480)
META = torch.device("meta")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Hunyuan15Sizes:
    """The published base's arithmetic, from its configuration files."""
    folder = write_published(tmp_path_factory.mktemp("configs"))
    return Hunyuan15Sizes("hunyuan-video-1.5-i2v", open_source(folder))


def test_encoder_layers_have_exactly_the_real_bytes(sizes: Hunyuan15Sizes) -> None:
    def nbytes(layer: nn.Module, dtype: torch.dtype, *wide: str) -> int:
        return Block(layer, "", "same", precise(dtype, wide), META).layout.nbytes

    told = sizes.encoders("bfloat16")
    text = on_meta(lambda: Qwen2_5_VLTextModel(TEXT))
    assert told["text encoder"].layer == nbytes(text.layers[0], torch.bfloat16)
    assert told["text encoder"].others == sum(b.nbytes for b in text.buffers())
    for dtype, wide in (("bfloat16", ()), ("float16", ("wo",))):
        first = on_meta(lambda: T5EncoderModel(GLYPHS)).encoder.block[0]
        told_glyphs = sizes.encoders(dtype)["glyph encoder"]
        assert told_glyphs.layer == nbytes(first, getattr(torch, dtype), *wide)
    image = on_meta(lambda: SiglipVisionModel(IMAGE))
    inside = ("encoder.layers.", "head.")
    outside = [p for n, p in image.named_parameters() if not n.startswith(inside)]
    assert told["image encoder"].others == sum(p.numel() * 4 for p in outside)
    assert told["image encoder"].layer == nbytes(image.encoder.layers[0], torch.float32)


def vae_peak(what: str, frames: int, width: int, height: int, tile: int | None) -> int:
    """Bytes that the published VAE takes at most beside its weights; the clip included."""
    vae, mode = on_meta(AutoencoderKLHunyuanVideo15), FakeTensorMode()
    if tile is not None:
        vae.enable_tiling(tile, tile, tile // 16, tile // 16, 0.25)
    with mode:
        make_fake(vae, lambda n, p: torch.float32)

    def compute() -> Tensor:
        if what == "encode":
            return vae.encode(torch.empty(1, 3, frames, height, width)).latent_dist.mode()
        return vae.decode(torch.empty(1, 32, frames // 4 + 1, height // 16, width // 16)).sample

    with torch.no_grad():
        return int(peak_of(vae.parameters(), compute, mode)[1])


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize(
    ("frames", "size", "tile"),
    [
        (1, SIZE, None),
        (5, (416, 240), None),
        (5, (240, 240), 192),
        pytest.param(9, SIZE, None, marks=pytest.mark.slow),
        pytest.param(49, (416, 240), None, marks=pytest.mark.slow),
        pytest.param(9, SIZE, 256, marks=pytest.mark.slow),
    ],
)
def test_the_vaes_planned_peak_is_near_the_counted_one(
    sizes: Hunyuan15Sizes, what: str, frames: int, size: tuple[int, int], tile: int | None
) -> None:
    planned = sizes.vae_encode_bytes if what == "encode" else sizes.vae_decode_bytes
    counted = vae_peak(what, frames, *size, tile=tile)
    assert planned(frames, *size, tile=tile) == pytest.approx(counted, rel=CLOSE)


@pytest.mark.slow
def test_so_it_is_where_joining_the_tiles_takes_most(sizes: Hunyuan15Sizes) -> None:
    counted = vae_peak("decode", 1, 640, 448, tile=64)
    assert sizes.vae_decode_bytes(1, 640, 448, tile=64) == pytest.approx(counted, rel=CLOSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_text_encoders_planned_peaks_are_near_the_counted_ones(
    sizes: Hunyuan15Sizes, dtype: str
) -> None:
    kind, told = getattr(torch, dtype), sizes.encoders(dtype)
    text = on_meta(
        lambda: Qwen2_5_VLTextModel(
            Qwen2_5_VLTextConfig(
                **{**TEXT.to_dict(), "num_hidden_layers": 2, "layer_types": None, "vocab_size": 9}
            )
        )
    ).eval()
    text.norm = nn.Identity()
    glyphs = on_meta(
        lambda: T5EncoderModel(T5Config(**{**GLYPHS.to_dict(), "num_layers": 2, "vocab_size": 9}))
    ).eval()
    for name, encoder, tokens, width in (
        ("text encoder", text, 1108, 3584),
        ("glyph encoder", glyphs, 256, 1472),
    ):
        counted = encoder_peak(
            encoder,
            kind,
            lambda encoder=encoder, tokens=tokens, width=width: encoder(
                inputs_embeds=torch.empty(1, tokens, width, dtype=kind),
                attention_mask=torch.ones(1, tokens, dtype=torch.int64),
            ),
        )
        assert told[name].activations == pytest.approx(counted, rel=CLOSE)


def test_the_image_encoders_planned_peak_is_near_the_counted_one(sizes: Hunyuan15Sizes) -> None:
    config = SiglipVisionConfig(**{**IMAGE.to_dict(), "vision_use_head": False})
    encoder = on_meta(lambda: SiglipVisionModel(config)).eval()
    counted = encoder_peak(encoder, torch.float32, lambda: encoder(torch.empty(1, 3, 384, 384)))
    told = sizes.encoders("bfloat16")["image encoder"].activations
    assert told == pytest.approx(counted, rel=CLOSE)


def encoder_peak(encoder: nn.Module, dtype: torch.dtype, compute: Callable[[], Any]) -> int:
    """Bytes that an encoder takes at most beside its weights."""
    mode = FakeTensorMode()
    with mode:
        make_fake(encoder, lambda n, p: dtype)
        for name, buffer in list(encoder.named_buffers()):
            owner, _, leaf = name.rpartition(".")
            fake = torch.zeros(buffer.shape, dtype=buffer.dtype)
            encoder.get_submodule(owner)._buffers[leaf] = fake
    with torch.no_grad():
        return int(peak_of([*encoder.parameters(), *encoder.buffers()], compute, mode)[1])
