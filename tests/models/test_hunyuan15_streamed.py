"""Two streams through streamed blocks give the resident model's bits, and padding costs nothing.

The reference is diffusers' own transformer, loaded by `from_pretrained` and checkpointed by torch.
"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import HunyuanVideo15Transformer3DModel
from safetensors.torch import load_file
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference, Optimizer, Training
from maskora.latents import EncodedSample, TensorCache, encode_samples
from maskora.method.conditioning import motion_sample
from maskora.models.hunyuan15.model import UnpaddedAttention
from maskora.models.registry import ModelInputs, Transformer, VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.plan import Placement
from maskora.training.checkpoint import RunFolder
from maskora.training.loop import StageRun, choose_uniformly, sample_loss, train
from maskora.training.report import read_metrics
from tests.models import tiny_hunyuan15

FAMILY, BLOCKS, EXACT = "hunyuan-video-1.5-i2v", 5, 1e-5
PLAN = StageRun("motion", 8, Training(seed=3, checkpoint_every=8), Optimizer(type="adamw", lr=1e-2))
CASES = [
    Placement(0),
    Placement(5, "pinned", ring=2, activation_offload=True),
    Placement(3, "pageable", ring=3),
    Placement(4, "mapped", ring=2, activation_offload=True, recompute="layer"),
    Placement(2, "pinned", recompute="layer"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_hunyuan15.write(tmp_path_factory.mktemp("models") / "deep", layers=BLOCKS)


@pytest.fixture(scope="module")
def windows(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[EncodedSample]:
    video = torch.rand(3, 9, 48, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(9, 48, 64)
    keep[:, 16:32, 16:48] = 0
    model = open_model(FAMILY, folder, "float32", "cpu")
    samples = [motion_sample(video, keep, s, 5, "masked", 'a sign "Open"') for s in (0, 4)]
    return encode_samples(samples, model, TensorCache(tmp_path_factory.mktemp("cache")))


def diffusers_own(folder: Path) -> Transformer:
    """The model as diffusers loads it, its weights aligned as ours are."""
    transformer = HunyuanVideo15Transformer3DModel.from_pretrained(folder / "transformer")
    for parameter in transformer.requires_grad_(False).parameters():
        parameter.data = parameter.data.clone()
    transformer.supply = SimpleNamespace(checkpoint=None)  # torch's own checkpointing
    return transformer


def unpadded(transformer: Transformer) -> Transformer:
    for block in transformer.transformer_blocks:
        block.attn.set_processor(UnpaddedAttention())
    return transformer


def trained(
    model: VideoModel, transformer: Transformer, windows: list[EncodedSample], folder: Path
) -> tuple[list[float], dict[str, Tensor]]:
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), PLAN.seed)
    run = RunFolder(folder)
    train(model, transformer, choose_uniformly(windows), PLAN, run, {}, {})
    losses = [entry.loss for entry in read_metrics(run.metrics)]
    return losses, load_file(run.adapter(PLAN.steps))


def generated(
    model: VideoModel, transformer: Transformer, window: EncodedSample, adapter: Path
) -> Tensor:
    """Four guided steps; the unwanted text is shorter, so one branch is padded."""
    lora.stack(transformer, [(adapter, 1.0)], model.names)
    noise = draw_noise((32, *window.condition_CTHW.shape[1:]), seed=1)
    mask = window.context["text_mask"].clone()
    mask[40:] = False
    unwanted = {**window.context, "text": -window.context["text"], "text_mask": mask}
    clip = Denoising(model, window, unwanted, noise, Inference(steps=4, guidance=6.0))
    clip.advance(transformer)
    return clip.result()


@pytest.fixture(scope="module")
def reference(
    folder: Path, windows: list[EncodedSample], tmp_path_factory: pytest.TempPathFactory
) -> SimpleNamespace:
    model, runs = open_model(FAMILY, folder, "float32", "cpu"), tmp_path_factory.mktemp("reference")
    losses, tensors = trained(model, unpadded(diffusers_own(folder)), windows, runs)
    adapter = RunFolder(runs).adapter(PLAN.steps)
    latents = generated(model, unpadded(diffusers_own(folder)), windows[0], adapter)
    assert len(set(losses)) == PLAN.steps
    return SimpleNamespace(losses=losses, tensors=tensors, adapter=adapter, latents=latents)


@pytest.mark.parametrize("placement", CASES, ids=str)
def test_training_and_a_guided_clip_are_the_resident_ones_bit_for_bit(
    placement: Placement,
    folder: Path,
    windows: list[EncodedSample],
    reference: SimpleNamespace,
    tmp_path: Path,
) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu", placement)
    losses, tensors = trained(model, model.load_transformer(), windows, tmp_path)
    assert losses == reference.losses
    assert tensors.keys() == reference.tensors.keys()
    assert all(torch.equal(tensors[name], reference.tensors[name]) for name in tensors)
    latents = generated(model, model.load_transformer(), windows[0], reference.adapter)
    assert torch.equal(latents, reference.latents)


def test_the_guidance_branches_one_after_the_other_give_the_same_clip(
    folder: Path, windows: list[EncodedSample], reference: SimpleNamespace
) -> None:
    model = open_model(FAMILY, folder, "float32", "cpu", Placement(5, split_batch=True))
    transformer = model.load_transformer()
    latents = generated(model, transformer, windows[0], reference.adapter)
    # A matrix product of another height may round otherwise.
    torch.testing.assert_close(latents, reference.latents, rtol=1e-4, atol=1e-4)
    assert transformer.supply.streamer.traffic.loads == 4 * BLOCKS + 1


def padded_velocity(transformer: Transformer, noisy: Tensor, inputs: ModelInputs) -> Tensor:
    """As diffusers' pipeline asks: every token, those of the padding too."""
    velocity: Tensor = transformer(
        hidden_states=torch.cat([noisy, inputs.condition_BCTHW], dim=1),
        timestep=torch.full((len(noisy),), 437.0),
        encoder_hidden_states=inputs.context["text"],
        encoder_attention_mask=inputs.context["text_mask"].float(),
        encoder_hidden_states_2=inputs.context["glyphs"],
        encoder_attention_mask_2=inputs.context["glyphs_mask"].float(),
        image_embeds=inputs.context["image"],
        return_dict=False,
    )[0]
    return velocity


def branches(window: EncodedSample, *lengths: tuple[int, int]) -> ModelInputs:
    """A batch of random context with so many text tokens and glyphs."""
    draw = torch.Generator().manual_seed(0)
    batch, context = len(lengths), dict(window.inputs("cpu").context)
    context["image"] = context["image"].expand(batch, -1, -1)
    for index, name in enumerate(("text", "glyphs")):
        shape = (batch, *context[name].shape[1:])
        context[name] = torch.randn(shape, generator=draw)
        own = torch.tensor([length[index] for length in lengths])
        context[f"{name}_mask"] = torch.arange(shape[1]) < own[:, None]
    return ModelInputs(window.condition_CTHW.expand(batch, -1, -1, -1, -1), context)


@pytest.mark.parametrize("lengths", [((70, 9), (31, 0)), ((5, 0), (400, 0)), ((12, 200),)])
def test_without_padding_the_velocity_is_what_diffusers_own_attention_gives(
    folder: Path, windows: list[EncodedSample], lengths: tuple[tuple[int, int], ...]
) -> None:
    model, inputs = open_model(FAMILY, folder, "float32", "cpu"), branches(windows[0], *lengths)
    noisy = torch.randn(len(lengths), 32, *windows[0].condition_CTHW.shape[1:])
    with torch.no_grad():
        theirs = padded_velocity(diffusers_own(folder), noisy, inputs)
        times = torch.full((len(noisy),), 437.0)
        ours = model.predict(model.load_transformer(), noisy, times, inputs)
    assert (ours - theirs).abs().max() <= EXACT


def test_so_are_the_gradients(folder: Path, windows: list[EncodedSample]) -> None:
    model, inputs = open_model(FAMILY, folder, "float32", "cpu"), windows[0].inputs("cpu")
    own, loaded = diffusers_own(folder), model.load_transformer()
    noisy = torch.randn(1, 32, *windows[0].condition_CTHW.shape[1:])
    for transformer in (own, loaded):
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
        for weight in lora.trainable(transformer):
            torch.nn.init.normal_(weight, std=0.05, generator=torch.Generator().manual_seed(1))
    padded_velocity(own, noisy, inputs).square().sum().backward()
    model.predict(loaded, noisy, torch.full((1,), 437.0), inputs).square().sum().backward()
    gradients = [[weight.grad for weight in lora.trainable(one)] for one in (own, loaded)]
    assert len(gradients[0]) == BLOCKS * 6 * 2
    for theirs, ours in zip(*gradients, strict=True):
        assert theirs.any()
        torch.testing.assert_close(ours, theirs, rtol=EXACT, atol=EXACT * float(theirs.abs().max()))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("storage", ["same", "float8"])
def test_a_step_in_16_bits_is_near_the_one_in_32(
    folder: Path, windows: list[EncodedSample], dtype: str, storage: str
) -> None:
    losses = {}
    for kind, how in (("float32", "same"), (dtype, storage)):
        model = open_model(FAMILY, folder, kind, "cpu", Placement(5, storage=how))
        transformer = model.load_transformer()
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
        transformer.enable_gradient_checkpointing(transformer.supply.checkpoint)
        transformer.train()
        noise = draw_noise((32, *windows[0].condition_CTHW.shape[1:]), seed=2)[0]
        loss = sample_loss(model, transformer, windows[0], noise, torch.tensor([0.5]), 1.0)
        loss.backward()
        assert all(weight.grad.isfinite().all() for weight in lora.trainable(transformer))
        losses[kind] = loss.item()
    assert losses[dtype] == pytest.approx(losses["float32"], rel=0.05)
