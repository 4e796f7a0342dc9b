"""Our parts, put together as plain image-to-video, give what diffusers' own pipeline gives."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKLHunyuanVideo15,
    ClassifierFreeGuidance,
    HunyuanVideo15ImageToVideoPipeline,
)
from PIL import Image
from safetensors.torch import load_file, save_file

from maskora.config.tables import Inference
from maskora.errors import UserError
from maskora.latents import TensorCache, encode_cues, encode_samples
from maskora.method.conditioning import Sample, inference_sample, to_unit
from maskora.models.hunyuan15.encoders import INSTRUCTION
from maskora.models.registry import Cue, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.plan import Placement
from tests.models import tiny_hunyuan15

FAMILY = "hunyuan-video-1.5-i2v"
FRAMES, HEIGHT, WIDTH = 9, 48, 80
QUOTED, PLAIN = 'p3rs0n  a café & a sign "Open \u201cdaily\u201d"', "a man walks"
TOLERANCE, EXACT = 1e-4, 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hunyuan15.write(tmp_path_factory.mktemp("models") / "hunyuan15")


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(3).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> HunyuanVideo15ImageToVideoPipeline:
    pipe = HunyuanVideo15ImageToVideoPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def plain_sample(clip: np.ndarray, prompt: str) -> Sample:
    video, keep = to_unit(torch.from_numpy(clip)), torch.zeros(FRAMES, HEIGHT, WIDTH)
    return inference_sample(video, keep, video[:, 0], "first-frame", prompt)


@pytest.mark.parametrize("guidance", [1.0, 6.0])
@pytest.mark.parametrize(("prompt", "negative"), [(QUOTED, PLAIN), (PLAIN, "")])
def test_plain_image_to_video_equals_the_pipeline(
    folder: Path,
    tmp_path: Path,
    clip: np.ndarray,
    pipeline: HunyuanVideo15ImageToVideoPipeline,
    guidance: float,
    prompt: str,
    negative: str,
) -> None:
    model, cache = open_model(FAMILY, folder, "float32", "cpu"), TensorCache(tmp_path)
    plain = plain_sample(clip, prompt)
    (sample,) = encode_samples([plain], model, cache)
    cue = model.unwanted(Cue(prompt, plain.reference_CHW), negative)
    (unwanted,) = encode_cues([cue], model, cache)
    noise = draw_noise((32, *sample.condition_CTHW.shape[1:]), seed=7)
    denoising = Denoising(model, sample, unwanted, noise, Inference(steps=4, guidance=guidance))
    denoising.advance(model.load_transformer())
    with model.vae() as vae:
        ours = (vae.decode(denoising.result()) / 2 + 0.5).clamp(0, 1)
    pipeline.guider = ClassifierFreeGuidance(guidance_scale=guidance)
    theirs = pipeline(
        Image.fromarray(clip[0]), prompt=prompt, negative_prompt=negative, num_frames=FRAMES,
        num_inference_steps=4, generator=torch.Generator().manual_seed(7), output_type="pt",
    ).frames[0]  # fmt: skip
    assert ours.shape == (3, FRAMES, HEIGHT, WIDTH)
    assert theirs.std() > 0.05, "the comparison must be about a picture"
    assert (ours.transpose(0, 1) - theirs).abs().max() <= TOLERANCE


def test_every_encoder_gives_what_the_pipeline_attends_to(
    folder: Path, tmp_path: Path, clip: np.ndarray, pipeline: HunyuanVideo15ImageToVideoPipeline
) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu")
    picture = plain_sample(clip, "").reference_CHW
    cues = [Cue(prompt, picture) for prompt in (QUOTED, PLAIN, "")]
    contexts = encode_cues(cues, model, TensorCache(tmp_path))
    image = pipeline.encode_image(Image.fromarray(clip[0]), 1, torch.device("cpu"), torch.float32)
    for cue, context in zip(cues, contexts, strict=True):
        text, text_mask, glyphs, glyphs_mask = pipeline.encode_prompt(cue.prompt)
        assert context["text"].shape == (1000, tiny_hunyuan15.TEXT_DIM)
        assert context["glyphs"].shape == (256, tiny_hunyuan15.GLYPH_DIM)
        assert torch.equal(context["text_mask"], text_mask[0].bool())
        assert torch.equal(context["glyphs_mask"], glyphs_mask[0].bool())
        assert context["glyphs_mask"].any() == ("“" in cue.prompt)
        for ours, theirs, mask in (
            (context["text"], text[0], context["text_mask"]),
            (context["glyphs"], glyphs[0], context["glyphs_mask"]),
        ):
            assert (mask[:, None] * (ours - theirs)).abs().max() <= EXACT
            assert not ours[~mask].any()
        assert (context["image"] - image[0]).abs().max() <= EXACT
    assert pipeline.system_message == INSTRUCTION


def test_what_a_prompt_becomes_does_not_depend_on_its_company(
    folder: Path, tmp_path: Path, clip: np.ndarray
) -> None:
    model, picture = (
        open_model(FAMILY, folder, "float32", "cpu"),
        plain_sample(clip, "").reference_CHW,
    )
    cues = [Cue(prompt, picture) for prompt in (PLAIN, QUOTED, "a third one")]
    together = encode_cues(cues, model, TensorCache(tmp_path / "together"))
    alone = encode_cues(cues[1:2], model, TensorCache(tmp_path / "alone"))
    assert together[1].keys() == alone[0].keys()
    assert all(torch.equal(tensor, alone[0][name]) for name, tensor in together[1].items())


def test_names_and_settings_of_older_files_are_understood(
    folder: Path, tmp_path: Path, clip: np.ndarray
) -> None:
    """As transformers 4 wrote them."""
    older = tmp_path / "older"
    shutil.copytree(folder, older)
    rename(older / "image_encoder", lambda name: f"vision_model.{name}")
    rename(older / "text_encoder_2", lambda name: name.replace("shared.", "encoder.embed_tokens."))
    config = older / "text_encoder" / "config.json"
    settings = json.loads(config.read_text())
    rope = settings.pop("rope_parameters")
    settings["rope_theta"] = rope.pop("rope_theta")
    settings["rope_scaling"] = {**rope, "type": rope["rope_type"]}
    config.write_text(json.dumps(settings))
    cue = Cue(QUOTED, plain_sample(clip, "").reference_CHW)
    new, old = (
        encode_cues([cue], open_model(FAMILY, path, "float32", "cpu"), TensorCache(tmp_path / name))
        for path, name in ((folder, "new"), (older, "old"))
    )
    assert all(torch.equal(tensor, old[0][name]) for name, tensor in new[0].items())


def rename(part: Path, name: Callable[[str], str]) -> None:
    (file,) = part.glob("*.safetensors")
    save_file(
        {name(own): tensor for own, tensor in load_file(file).items()}, file, {"format": "pt"}
    )


def test_a_whole_condition_is_packed_with_one_mask_channel(folder: Path) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu")
    keep, latents = torch.ones(9, 48, 80), torch.randn(32, 3, 3, 5)
    keep[6, 20, 33] = 0  # one pixel of one of the four frames that latent frame 2 covers
    assert model.shown(torch.zeros(3, 9, 48, 80), keep).shape[1] == 9
    packed = model.pack_condition(keep, latents)
    assert packed.shape == (33, 3, 3, 5)
    assert torch.equal(packed[:32], latents)
    generated = (packed[32] == 0).nonzero().tolist()
    assert generated == [[2, 1, 2]]


def test_of_a_first_frame_nothing_else_is_encoded_and_zeros_follow(folder: Path) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu")
    keep, latents = torch.zeros(9, 48, 80), torch.randn(32, 1, 3, 5)
    keep[0] = 1
    assert model.shown(torch.zeros(3, 9, 48, 80), keep).shape[1] == 1
    packed = model.pack_condition(keep, latents)
    assert torch.equal(packed[:32, :1], latents)
    assert not packed[:, 1:].any()
    assert packed[32, 0].all()


@pytest.mark.parametrize("tile", [None, 64])
def test_the_vae_loaded_by_halves_is_diffusers_own(folder: Path, tile: int | None) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu", Placement(0, vae_tile=tile))
    video, own = torch.rand(3, 5, 80, 112) * 2 - 1, load_vae(folder)
    if tile is not None:
        own.enable_tiling(tile, tile, tile // 16, tile // 16, 0.25)
    with torch.no_grad(), model.vae() as vae:
        scale = own.config.scaling_factor
        for _ in range(2):  # each half takes the place of the other, and back
            latents = vae.encode(video)
            assert latents.shape == (32, 2, 5, 7)
            assert torch.equal(latents, own.encode(video[None]).latent_dist.mode()[0] * scale)
            assert torch.equal(vae.decode(latents), own.decode(latents[None] / scale).sample[0])


def test_of_the_vae_one_half_is_loaded(folder: Path) -> None:
    model, halves = open_model(FAMILY, folder, "float32", "cpu"), load_vae(folder)
    with model.vae() as vae:
        for half, use in (("decoder", vae.decode), ("encoder", vae.encode)):
            use(torch.zeros(32, 1, 3, 3) if half == "decoder" else torch.zeros(3, 1, 48, 48))
            loaded = sum(p.numel() for p in vae._vae.parameters() if not p.is_meta)
            assert loaded == sum(p.numel() for p in getattr(halves, half).parameters())


def load_vae(folder: Path) -> AutoencoderKLHunyuanVideo15:
    return AutoencoderKLHunyuanVideo15.from_pretrained(folder / "vae")


def test_a_damaged_vae_is_told_before_it_is_used(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (file,) = (other / "vae").glob("*.safetensors")
    tensors = load_file(file)
    del tensors["decoder.conv_in.conv.weight"]
    save_file(tensors, file, {"format": "pt"})
    with (
        pytest.raises(UserError, match=r"decoder\.conv_in\.conv\.weight"),
        open_model(FAMILY, other, "float32", "cpu").vae(),
    ):
        pass


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"task_type": "t2v"}, "text-to-video"),
        ({"use_meanflow": True}, "use_meanflow is set"),
        ({"in_channels": 32}, "takes 32 input channels, .* takes 65"),
    ],
)
def test_a_checkpoint_of_another_kind_is_refused_with_what_to_use(
    folder: Path, tmp_path: Path, changes: dict[str, object], told: str
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder / "transformer", other / "transformer")
    config = other / "transformer" / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **changes}))
    with pytest.raises(UserError, match=rf"{told}.*use HunyuanVideo-1\.5-Diffusers-480p_i2v"):
        open_model(FAMILY, other, "float32", "cpu")


def test_a_tokenizer_without_its_chat_template_is_told(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "tokenizer" / "chat_template.jinja").unlink()
    model = open_model(FAMILY, other, "float32", "cpu")
    cue = Cue(PLAIN, torch.zeros(3, HEIGHT, WIDTH))
    with pytest.raises(UserError, match=r"tokenizer has no chat template.*chat_template\.jinja"):
        encode_cues([cue], model, TensorCache(tmp_path))
