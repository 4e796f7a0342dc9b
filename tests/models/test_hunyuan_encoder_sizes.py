"""The arithmetic of HunyuanVideo-I2V's encoders and VAE against the real classes."""

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo
from maskora.models.hunyuan_encoder_sizes import TEMPLATE_TOKENS
from maskora.models.hunyuan_sizes import HunyuanSizes
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import CLIPTextModel, LlavaModel

from maskora.models.registry import open_source
from maskora.streaming.blocks import Block, precise
from tests.models import published_hunyuan as published
from tests.models.counting import make_fake, on_meta, peak_of

CLOSE = 0.10  # how far a planned peak may be from the counted one
SIZE = (832, 480)
NOTHING = torch.device("meta")


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> HunyuanSizes:
    """The published base's arithmetic, from its configuration files."""
    folder = published.write_published(tmp_path_factory.mktemp("configs"))
    return HunyuanSizes("hunyuan-video-i2v", open_source(folder))


def test_encoder_layers_have_exactly_the_real_bytes(sizes: HunyuanSizes) -> None:
    dtype = precise(torch.bfloat16)
    llava = on_meta(lambda: LlavaModel(published.llava_config(1)))
    outside = sum(
        p.numel() * 2
        for n, p in llava.named_parameters()
        if not n.startswith(("vision_tower.encoder.layers", "language_model"))
    )
    layer = Block(llava.language_model.layers[0], "", "same", dtype, NOTHING)
    told = sizes.encoders("bfloat16")["text encoder"]
    assert (told.layer, told.others) == (layer.layout.nbytes, outside)
    clip = on_meta(lambda: CLIPTextModel(published.POOLED))
    outside = sum(
        p.numel() * 2 for n, p in clip.named_parameters() if not n.startswith("encoder.layers")
    )
    layer = Block(clip.encoder.layers[0], "", "same", dtype, NOTHING)
    told = sizes.encoders("bfloat16")["second text encoder"]
    assert (told.layer, told.others) == (layer.layout.nbytes, outside)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_text_encoders_planned_peak_is_near_the_counted_one(
    sizes: HunyuanSizes, dtype: str
) -> None:
    """The language model; the vision tower before it takes less."""
    kind, mode = getattr(torch, dtype), FakeTensorMode()
    llava = on_meta(lambda: LlavaModel(published.llava_config(2))).eval()
    llava.language_model.norm = nn.Identity()
    with mode:
        make_fake(llava, lambda n, p: kind)
        llava.language_model.rotary_emb.inv_freq = torch.empty(64)
        llava.vision_tower.embeddings.position_ids = torch.zeros(1, 577, dtype=torch.int64)
        words = torch.empty(1, TEMPLATE_TOKENS, 4096, dtype=kind)
        mask = torch.ones(1, TEMPLATE_TOKENS, dtype=torch.bool)
        pixels = torch.empty(1, 3, 336, 336, dtype=kind)

    def language() -> Tensor:
        return llava.language_model(
            inputs_embeds=words, attention_mask=mask, position_ids=mask.cumsum(-1), use_cache=False
        ).last_hidden_state

    def picture() -> list[Tensor]:
        return llava.get_image_features(pixels).pooler_output

    with torch.no_grad():
        given = [*llava.parameters(), words, mask, pixels]
        counted = [peak_of(given, compute, mode)[1] for compute in (language, picture)]
    told = sizes.encoders(dtype)["text encoder"].activations
    assert told == pytest.approx(max(counted), rel=CLOSE)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_second_text_encoders_planned_peak_is_near_the_counted_one(
    sizes: HunyuanSizes, dtype: str
) -> None:
    encoder, mode = on_meta(lambda: CLIPTextModel(published.POOLED)).eval(), FakeTensorMode()
    with mode:
        make_fake(encoder, lambda n, p: getattr(torch, dtype))
        encoder.embeddings.position_ids = torch.zeros(1, 77, dtype=torch.int64)
        tokens = torch.ones(1, 77, dtype=torch.int64)
    with torch.no_grad():
        _, counted = peak_of(encoder.parameters(), lambda: encoder(tokens), mode)
    told = sizes.encoders(dtype)["second text encoder"].activations
    assert told == pytest.approx(counted, rel=CLOSE)


def vae_peak(what: str, frames: int, width: int, height: int, tile: int | None) -> int:
    """Bytes that the published VAE takes at most beside its weights; the clip included."""
    vae, mode = on_meta(AutoencoderKLHunyuanVideo), FakeTensorMode()
    if tile is not None:
        stride = tile * 3 // 4
        vae.enable_tiling(
            tile_sample_min_height=tile,
            tile_sample_min_width=tile,
            tile_sample_stride_height=stride,
            tile_sample_stride_width=stride,
        )
    with mode:
        make_fake(vae, lambda n, p: torch.float32)

    def compute() -> Tensor:
        if what == "encode":
            return vae.encode(torch.empty(1, 3, frames, height, width)).latent_dist.mode()
        return vae.decode(torch.empty(1, 16, frames // 4 + 1, height // 8, width // 8)).sample

    with torch.no_grad():
        return int(peak_of(vae.parameters(), compute, mode)[1])


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize(
    ("frames", "size", "tile"),
    [
        (1, SIZE, None),
        (9, SIZE, None),
        (49, SIZE, None),
        (49, (2048, 2048), None),  # the mask of the attention takes most
        (9, (416, 240), 192),
        (9, SIZE, 256),
        pytest.param(49, SIZE, 256, marks=pytest.mark.slow),
        pytest.param(25, SIZE, 128, marks=pytest.mark.slow),
        pytest.param(81, SIZE, 128, marks=pytest.mark.slow),
    ],
)
def test_the_vaes_planned_peak_is_near_the_counted_one(
    sizes: HunyuanSizes, what: str, frames: int, size: tuple[int, int], tile: int | None
) -> None:
    arithmetic = sizes.vae_encode_bytes if what == "encode" else sizes.vae_decode_bytes
    counted = vae_peak(what, frames, *size, tile=tile)
    assert arithmetic(frames, *size, tile=tile) == pytest.approx(counted, rel=CLOSE)
