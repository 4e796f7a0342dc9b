"""HunyuanVideo-1.5 as a base: attention without padding, a VAE by halves, what it refuses."""

import json
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo15, HunyuanVideo15Transformer3DModel
from torch import Tensor

from maskora import lora
from maskora.errors import UserError
from maskora.latents import EncodedSample, TensorCache, encode_prompts
from maskora.models.registry import (
    ModelInputs,
    PromptInput,
    Transformer,
    VideoModel,
)
from maskora.sampling import draw_noise
from maskora.streaming.placement import Placement
from maskora.training.loop import sample_loss
from tests.models.bases import HUNYUAN15, copied, opened, renamed, retensored
from tests.models.conftest import Tiny
from tests.models.tiny_hunyuan15 import GLYPH_DIM, IMAGE_DIM, TEXT_DIM

EXACT = 1e-5
SHAPE = (32, 2, 3, 4)
PROMPT = 'a sign "Open"'


@pytest.fixture(scope="module")
def folder(tiny: Tiny) -> Path:
    return tiny(HUNYUAN15)


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return opened(folder)


def inputs(*lengths: tuple[int, int]) -> ModelInputs:
    """A batch of random context with so many text tokens and glyphs."""
    draw, batch = torch.Generator().manual_seed(0), len(lengths)
    context = {"image": torch.randn(batch, 729, IMAGE_DIM, generator=draw)}
    for index, (name, tokens, width) in enumerate(
        (("text", 1000, TEXT_DIM), ("glyphs", 256, GLYPH_DIM))
    ):
        context[name] = torch.randn(batch, tokens, width, generator=draw)
        own = torch.tensor([length[index] for length in lengths])
        context[f"{name}_mask"] = torch.arange(tokens) < own[:, None]
    condition = torch.randn(batch, 33, *SHAPE[1:], generator=draw)
    return ModelInputs(condition, context)


def padded_velocity(transformer: Transformer, noisy: Tensor, given: ModelInputs) -> Tensor:
    """As diffusers' pipeline asks: every token, those of the padding too."""
    velocity: Tensor = transformer(
        hidden_states=torch.cat([noisy, given.condition_BCTHW], dim=1),
        timestep=torch.full((len(noisy),), 437.0),
        encoder_hidden_states=given.context["text"],
        encoder_attention_mask=given.context["text_mask"].float(),
        encoder_hidden_states_2=given.context["glyphs"],
        encoder_attention_mask_2=given.context["glyphs_mask"].float(),
        image_embeds=given.context["image"],
        return_dict=False,
    )[0]
    return velocity


@pytest.mark.parametrize("lengths", [((70, 9), (31, 0)), ((5, 0), (400, 0)), ((12, 200),)])
def test_without_padding_velocity_and_gradients_are_those_of_diffusers_own_attention(
    folder: Path, model: VideoModel, lengths: tuple[tuple[int, int], ...]
) -> None:
    own = HunyuanVideo15Transformer3DModel.from_pretrained(folder / "transformer")
    loaded, given = model.load_transformer(), inputs(*lengths)
    for transformer in (own.requires_grad_(False), loaded):
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
        for weight in lora.trainable(transformer):
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(1))
    noisy = torch.randn(len(lengths), *SHAPE)
    theirs = padded_velocity(own, noisy, given)
    ours = model.predict(loaded, noisy, torch.full((len(noisy),), 437.0), given)
    assert (ours - theirs).abs().max() <= EXACT
    theirs.square().sum().backward()
    ours.square().sum().backward()
    pairs = list(zip(lora.trainable(own), lora.trainable(loaded), strict=True))
    assert len(pairs) == 2 * 6 * 2  # A and B of six layers in two blocks
    for other, mine in pairs:
        assert other.grad.any()
        close = EXACT * float(other.grad.abs().max())
        torch.testing.assert_close(mine.grad, other.grad, rtol=EXACT, atol=close)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("storage", ["same", "float8"])
def test_a_step_in_16_bits_is_near_the_one_in_32(folder: Path, dtype: str, storage: str) -> None:
    given, losses = inputs((70, 9)), {}
    window = EncodedSample(
        name="window",
        target_CTHW=torch.randn(SHAPE, generator=torch.Generator().manual_seed(1)),
        condition_CTHW=given.condition_BCTHW[0],
        keep_THW=torch.ones(5, 48, 64),
        context={name: tensor[0] for name, tensor in given.context.items()},
    )
    for kind, how in (("float32", "same"), (dtype, storage)):
        model = opened(folder, kind, Placement(2, storage=how))
        transformer = model.load_transformer()
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
        transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
        transformer.train()
        noise = draw_noise(SHAPE, seed=2)[0]
        loss = sample_loss(model, transformer, window, noise, torch.tensor([0.5]), 1.0)
        loss.backward()
        assert all(weight.grad.isfinite().all() for weight in lora.trainable(transformer))
        losses[kind] = loss.item()
    assert losses[dtype] == pytest.approx(losses["float32"], rel=0.05)


def test_names_and_settings_of_older_files_are_understood(folder: Path, tmp_path: Path) -> None:
    """As transformers 4 wrote them."""
    older = copied(folder, tmp_path / "older")
    renamed(older / "image_encoder", lambda name: f"vision_model.{name}")
    renamed(older / "text_encoder_2", lambda name: name.replace("shared.", "encoder.embed_tokens."))
    config = older / "text_encoder" / "config.json"
    settings = json.loads(config.read_text())
    rope = settings.pop("rope_parameters")
    settings["rope_theta"] = rope.pop("rope_theta")
    settings["rope_scaling"] = {**rope, "type": rope["rope_type"]}
    config.write_text(json.dumps(settings))
    item = PromptInput(PROMPT, torch.rand(3, 48, 80) * 2 - 1)
    (new,) = encode_prompts([item], opened(folder), TensorCache(tmp_path / "new"))
    (old,) = encode_prompts([item], opened(older), TensorCache(tmp_path / "old"))
    assert all(torch.equal(tensor, old[name]) for name, tensor in new.items())


def test_a_whole_condition_is_packed_with_one_mask_channel(model: VideoModel) -> None:
    keep, latents = torch.ones(9, 48, 80), torch.randn(32, 3, 3, 5)
    keep[6, 20, 33] = 0  # one pixel of one of the four frames that latent frame 2 covers
    assert model.condition_frames(torch.zeros(3, 9, 48, 80), keep).shape[1] == 9
    packed = model.pack_condition(keep, latents)
    assert packed.shape == (33, 3, 3, 5)
    assert torch.equal(packed[:32], latents)
    assert (packed[32] == 0).nonzero().tolist() == [[2, 1, 2]]


@pytest.mark.parametrize("tile", [None, 64])
def test_the_vae_loaded_by_halves_is_diffusers_own(folder: Path, tile: int | None) -> None:
    video, own = torch.rand(3, 5, 80, 112) * 2 - 1, diffusers_vae(folder)
    if tile is not None:
        own.enable_tiling(tile, tile, tile // 16, tile // 16, 0.25)
    with torch.no_grad(), opened(folder, placement=Placement(0, vae_tile=tile)).vae() as vae:
        scale = own.config.scaling_factor
        for _ in range(2):  # each half takes the place of the other, and back
            latents = vae.encode(video)
            assert latents.shape == (32, 2, 5, 7)
            assert torch.equal(latents, own.encode(video[None]).latent_dist.mode()[0] * scale)
            assert torch.equal(vae.decode(latents), own.decode(latents[None] / scale).sample[0])


def test_of_the_vae_one_half_is_loaded(folder: Path, model: VideoModel) -> None:
    halves = diffusers_vae(folder)
    with model.vae() as vae:
        for half, use in (("decoder", vae.decode), ("encoder", vae.encode)):
            use(torch.zeros(32, 1, 3, 3) if half == "decoder" else torch.zeros(3, 1, 48, 48))
            loaded = sum(p.numel() for p in vae.module.parameters() if not p.is_meta)
            assert loaded == sum(p.numel() for p in getattr(halves, half).parameters())


def diffusers_vae(folder: Path) -> AutoencoderKLHunyuanVideo15:
    return AutoencoderKLHunyuanVideo15.from_pretrained(folder / "vae")


def test_a_damaged_vae_is_told_before_it_is_used(folder: Path, tmp_path: Path) -> None:
    other, missing = copied(folder, tmp_path), "decoder.conv_in.conv.weight"
    retensored(other / "vae", lambda tensors: {n: t for n, t in tensors.items() if n != missing})
    with pytest.raises(UserError, match=r"decoder\.conv_in\.conv\.weight"), opened(other).vae():
        pass


def test_a_tokenizer_without_its_chat_template_is_told(folder: Path, tmp_path: Path) -> None:
    other = copied(folder, tmp_path)
    (other / "tokenizer" / "chat_template.jinja").unlink()
    item = PromptInput(PROMPT, torch.zeros(3, 48, 80))
    with pytest.raises(UserError, match=r"tokenizer has no chat template.*chat_template\.jinja"):
        encode_prompts([item], opened(other), TensorCache(tmp_path))
