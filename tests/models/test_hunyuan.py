"""HunyuanVideo-I2V as a base: what it shows the transformer, what it refuses, where LoRA sits."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoImageToVideoPipeline,
)
from PIL import Image
from safetensors.torch import load_file

from maskora.errors import UserError
from maskora.latents import TensorCache, encode_prompts, encode_samples
from maskora.method.conditioning import Sample, appearance_sample, inference_sample
from maskora.models.building import as_bytes
from maskora.models.registry import PromptInput, VideoModel
from maskora.streaming.placement import Placement
from tests.models import published_hunyuan
from tests.models.bases import HUNYUAN, copied, opened, renamed, retensored, update
from tests.models.conftest import Tiny
from tests.models.plain import load_pipeline, lora_carriers
from tests.streaming.driving import encoder

FRAMES, HEIGHT, WIDTH = 13, 32, 48


@pytest.fixture(scope="module")
def folder(tiny: Tiny) -> Path:
    return tiny(HUNYUAN)


@pytest.fixture(scope="module")
def model(folder: Path) -> VideoModel:
    return opened(folder)


@pytest.fixture(scope="module")
def video() -> torch.Tensor:
    return torch.rand(3, FRAMES, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_frames_are_shown_up_to_the_last_one_of_which_anything_is_kept(
    model: VideoModel, video: torch.Tensor
) -> None:
    keep = torch.zeros(FRAMES, HEIGHT, WIDTH)
    assert model.condition_frames(video[:, :1], keep[:1]).shape[1] == 1, "masked whole"
    keep[0] = 1
    for last, frames in ((0, 1), (1, 5), (4, 5), (5, 9), (8, 9), (12, 13)):
        keep[last, 0, 0] = 1
        assert torch.equal(model.condition_frames(video, keep), video[:, :frames])


def masked(video: torch.Tensor, conditioning: str) -> Sample:
    """A clip whose box lies on the grid, in all frames but the first."""
    keep = torch.ones(FRAMES, HEIGHT, WIDTH)
    keep[:, 8:24, 16:32] = 0
    return inference_sample(video, keep, video[:, :1], conditioning, "a dog")


def test_a_plain_condition_is_the_first_frame_alone_and_zeros(
    model: VideoModel, video: torch.Tensor, tmp_path: Path
) -> None:
    (sample,) = encode_samples([masked(video, "first-frame")], model, TensorCache(tmp_path))
    with model.vae() as vae:
        alone = vae.encode(video[:, :1])
    latents, mask = sample.condition_CTHW[:16], sample.condition_CTHW[16:]
    assert torch.equal(latents[:, :1], alone)
    assert not latents[:, 1:].any()
    assert mask.shape == (1, 4, 4, 6)
    assert mask[:, 0].all()
    assert not mask[:, 1:].any()


def test_a_masked_condition_is_the_whole_clip_and_the_kept_cells(
    model: VideoModel, video: torch.Tensor, tmp_path: Path
) -> None:
    clip = masked(video, "masked")
    clip.keep_THW[6, 0, 0] = 0  # one pixel of one frame: its cell is not kept
    (sample,) = encode_samples([clip], model, TensorCache(tmp_path))
    with model.vae() as vae:
        whole = vae.encode(clip.condition_CTHW)
    expected = torch.ones(4, 4, 6)
    expected[1:, 1:3, 2:4] = 0
    expected[2, 0, 0] = 0
    assert torch.equal(sample.condition_CTHW[:16], whole)
    assert torch.equal(sample.condition_CTHW[16], expected)


def test_a_keyframe_is_one_latent_frame(
    model: VideoModel, video: torch.Tensor, tmp_path: Path
) -> None:
    keep = torch.ones(HEIGHT, WIDTH)
    keep[8:24, 16:32] = 0
    sample = appearance_sample(3, video[:, 3], video[:, 3], keep, video[:, 0], "masked", "a dog")
    (encoded,) = encode_samples([sample], model, TensorCache(tmp_path))
    assert encoded.condition_CTHW.shape == (17, 1, 4, 6)
    assert encoded.target_CTHW is not None
    assert encoded.target_CTHW.shape == (16, 1, 4, 6)


def test_denoising_starts_from_noise_with_a_trace_of_the_first_frame(model: VideoModel) -> None:
    numbers = torch.Generator().manual_seed(0)
    noise, condition = (torch.randn(1, c, 4, 4, 6, generator=numbers) for c in (16, 17))
    start = model.initial_latents(noise, condition)
    expected = 0.999 * noise + 0.001 * condition[:, :16, :1]
    torch.testing.assert_close(start, expected, rtol=0, atol=1e-6)


def test_timesteps_are_those_of_the_pipeline(model: VideoModel) -> None:
    scheduler = model.scheduler(4, None)
    assert isinstance(scheduler, FlowMatchEulerDiscreteScheduler)
    even = torch.tensor([1.0, 0.75, 0.5, 0.25])
    torch.testing.assert_close(scheduler.sigmas[:4], 7 * even / (1 + 6 * even))
    torch.testing.assert_close(model.scheduler(4, 1.0).sigmas[:4], even)


def test_guidance_steers_away_from_a_black_picture(model: VideoModel) -> None:
    item = model.negative(PromptInput("a dog", torch.rand(3, 8, 8)), "blurred")
    assert item.prompt == "blurred"
    assert torch.equal(item.picture_CHW, torch.full((3, 8, 8), -1.0))


def test_clips_come_back_with_every_frame_also_in_tiles(folder: Path) -> None:
    """Longer than what the VAE takes at a time, and larger than a tile."""
    video = torch.rand(3, 21, 48, 80) * 2 - 1
    tiled = opened(folder, placement=Placement(0, vae_tile=32))
    whole = AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae")
    whole.enable_tiling(32, 32, 16, 24, 24, 12)
    with tiled.vae() as vae, torch.no_grad():
        latents = vae.encode(video)
        theirs = whole.encode(video[None]).latent_dist.mode()[0] * whole.config.scaling_factor
        assert torch.equal(latents, theirs)
        assert vae.decode(latents).shape == (3, 21, 48, 80)


def test_a_missing_part_is_told(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    shutil.rmtree(copy / "image_processor")
    with pytest.raises(UserError, match=r"missing: image_processor/"):
        opened(copy)


def test_another_tokenizer_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = copied(folder, tmp_path)
    # No token begins the text, so the picture's place is another.
    update(copy / "tokenizer" / "tokenizer.json", post_processor=None)
    other = encoder(opened(copy), "text")
    with other as encode, pytest.raises(UserError, match="token 5 is not the pic"):
        encode([PromptInput("a dog", torch.zeros(3, 16, 16))])


def own_names(name: str) -> str:
    """The names of the modules of transformers 5."""
    moved = name.replace("language_model.model.", "language_model.")
    return "lm_head.weight" if "lm_head" in name else f"model.{moved}"


def old_names(name: str) -> str:
    """The names that older versions wrote."""
    return name.replace("vision_tower.", "vision_tower.vision_model.")


@pytest.mark.parametrize("name", [own_names, old_names])
def test_llava_is_read_whichever_version_has_written_it(
    folder: Path, tmp_path: Path, name: Callable[[str], str]
) -> None:
    """The newer names, and the older ones with the configuration of their time."""
    copy = copied(folder, tmp_path)
    renamed(copy / "text_encoder", name)
    (names,) = (load_file(path).keys() for path in (copy / "text_encoder").glob("*.safetensors"))
    assert any("vision_model" in name or name.startswith("model.") for name in names)
    config = copy / "text_encoder" / "config.json"
    text = json.loads(config.read_text())["text_config"] | {"rope_theta": 500.0}
    del text["rope_parameters"]
    update(config, text_config=text)
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0)) * 2 - 1
    item = PromptInput("a man", picture)
    (ours,) = encode_prompts([item], opened(copy), TensorCache(tmp_path / "ours"))
    (other,) = encode_prompts([item], opened(folder), TensorCache(tmp_path / "other"))
    pipe = load_pipeline(HunyuanVideoImageToVideoPipeline, copy)
    shown = Image.fromarray(as_bytes(picture).permute(1, 2, 0).numpy())
    with torch.no_grad():
        theirs = pipe.encode_prompt(shown, "a man")[0][0]
    assert (ours["text"] - theirs).abs().max() <= 1e-4
    assert (ours["text"] - other["text"]).abs().max() > 1e-4, "rope_theta counts"


@pytest.mark.parametrize(
    ("part", "name"),
    [
        ("text_encoder", "language_model.model.layers.1.mlp.up_proj.weight"),
        ("text_encoder", "vision_tower.pre_layrnorm.bias"),
        ("text_encoder_2", "final_layer_norm.weight"),
    ],
)
def test_a_damaged_encoder_is_told_by_the_tensors_name_in_its_file(
    folder: Path, tmp_path: Path, part: str, name: str
) -> None:
    copy = copied(folder, tmp_path)
    retensored(copy / part, lambda tensors: {**tensors, name: torch.zeros(3)})
    broken, kind = opened(copy), "text" if part == "text_encoder" else "pooled"
    with pytest.raises(UserError, match=re.escape(f"{name} is (3,)")), encoder(broken, kind):
        pass


def test_lora_sits_on_the_videos_side(model: VideoModel) -> None:
    attention = 20 * 4 + 40 * 3
    found = lora_carriers(model, published_hunyuan.transformer())
    assert found == (attention, attention + 20 * 2 + 40 * 2)
