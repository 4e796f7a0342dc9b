"""The source's motion without training: inversion, and what the edit takes from the source."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import Tensor

from maskora import lora
from maskora.config.tables import Inference, Transfer
from maskora.errors import UserError
from maskora.latents import EncodedSample
from maskora.matching import Matching
from maskora.models.registry import Context, PromptInput, VideoModel
from maskora.sampling import (
    Denoising,
    Inversion,
    Lead,
    SourceBranch,
    draw_noise,
    experts_in_use,
)
from maskora.streaming.placement import RESIDENT, Placement
from tests.models.bases import TINY, WAN, WAN22, opened
from tests.models.conftest import Tiny

STEPS, FRAMES, SIDES = 6, 9, (32, 48)
ALL = Transfer(start="inverted", attention="qk", attention_share=1.0)


def tensors(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Scene:
    """A clip of random latents, its encoded sample, and another first frame for it."""

    def __init__(self, model: VideoModel) -> None:
        grid = model.grid
        self.model = model
        self.shape = (
            model.latent_channels, grid.latent_frames(FRAMES), *(s // grid.cell for s in SIDES)
        )  # fmt: skip
        self.latents = tensors(*self.shape, seed=1)
        self.source, self.edited = self.sample(2), self.sample(3)

    def sample(self, seed: int) -> EncodedSample:
        keep = torch.ones(FRAMES, *SIDES)
        shown = tensors(*self.shape, seed=seed)
        condition = self.model.pack_condition(keep, self.model.condition_frames(shown, keep))
        return EncodedSample("inference", None, condition, keep, self.context(seed))

    def context(self, seed: int) -> Context:
        picture = tensors(3, *SIDES, seed=seed).clamp(-1, 1)
        found: dict[str, Tensor] = {}
        for encoder in self.model.encoders():
            with encoder.load() as encode:
                found.update(next(iter(encode([PromptInput("", picture)]))))
        return found

    def branch(self, settings: Inference, passes: int = 1, level: float = 1.0) -> SourceBranch:
        transfer = Transfer(start="inverted", inversion_passes=passes, start_level=level)
        inversion = Inversion(self.model, self.source, self.latents, settings, transfer)
        for expert in reversed(self.model.experts):
            inversion.advance(self.model.load_transformer(expert), expert)
        return SourceBranch(self.source, inversion.result())

    def denoised(
        self, sample: EncodedSample, settings: Inference, transfer: Transfer, branch: SourceBranch,
        placement: Placement = RESIDENT,
    ) -> Tensor:  # fmt: skip
        """Guidance steers away from the source's own context, so it leaves the source alone."""
        run = Denoising(
            self.model, sample, self.source.context, draw_noise(self.shape, 0), settings, None,
            Lead(transfer, branch),
        )  # fmt: skip
        self.model.placement = placement
        for expert in self.model.experts:
            run.advance(self.model.load_transformer(expert), expert)
        return run.result()


def error(result: Tensor, truth: Tensor) -> float:
    """Of the truth's deviation."""
    return float((result - truth).pow(2).mean().sqrt() / truth.std())


@pytest.fixture(scope="module", params=list(TINY))
def scene(request: pytest.FixtureRequest, tiny: Tiny) -> Scene:
    return Scene(opened(tiny(request.param)))


def returned(scene: Scene, steps: int, passes: int) -> float:
    """How far the source is from itself after it was inverted and denoised."""
    settings, transfer = Inference(steps=steps, guidance=1.0), Transfer(start="inverted")
    branch = scene.branch(settings, passes)
    return error(scene.denoised(scene.source, settings, transfer, branch), scene.latents)


def test_the_inverted_source_is_denoised_into_the_source(scene: Scene) -> None:
    once, often = returned(scene, STEPS, 1), returned(scene, STEPS, 8)
    finer = returned(scene, 4 * STEPS, 8)
    print(scene.model.family, f"{once:.4f} {often:.4f} {finer:.4f}")
    assert often < once, "more passes are more exact"
    if scene.model.scheduler(STEPS, None).config["_class_name"].startswith("FlowMatchEuler"):
        assert often < 0.005, "the same steps there and back: what is left is half precision"
    else:
        assert finer < often / 2, "another solver comes back by another way, which steps narrow"


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_an_unedited_frame_with_the_sources_attention_gives_the_source(
    scene: Scene, guidance: float
) -> None:
    settings = Inference(steps=STEPS, guidance=guidance)
    branch = scene.branch(settings, 8)
    plain = scene.denoised(scene.source, settings, Transfer(start="inverted"), branch)
    result = scene.denoised(scene.source, settings, ALL, branch)
    assert error(result, plain) < 1e-3


@pytest.mark.parametrize("attention", ["qk", "difference"])
@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_the_edit_takes_from_the_source_the_same_however_the_base_lies(
    scene: Scene, attention: Literal["qk", "difference"], guidance: float
) -> None:
    settings = Inference(steps=3, guidance=guidance)
    transfer = Transfer(start="inverted", attention=attention, features_share=0.4)
    branch = scene.branch(settings)
    resident = scene.denoised(scene.edited, settings, transfer, branch)
    free = scene.denoised(scene.edited, settings, Transfer(start="inverted"), branch)
    assert error(resident, free) > 1e-4, "it takes something"
    results = {
        placement: scene.denoised(scene.edited, settings, transfer, branch, placement)
        for placement in (
            Placement(2, "mapped", ring=2),
            Placement(0, split_batch=True),
            Placement(2, "pageable", split_batch=True),
        )
    }
    streamed, split, split_and_streamed = results.values()
    assert torch.equal(streamed, resident)
    assert torch.equal(split_and_streamed, split)
    assert torch.allclose(split, resident, atol=1e-4), "rows in turn are rounded otherwise"


def test_nothing_is_left_on_the_transformer(scene: Scene) -> None:
    transformer = scene.model.load_transformer()
    blocks = [block for name in scene.model.block_lists for block in getattr(transformer, name)]
    everything = Transfer(attention="qk", features_share=1.0)
    matching = Matching(blocks, everything, 4, 1)
    hooked = [module for module in transformer.modules() if module._forward_hooks]
    with matching.during(0, 2):
        during = [module for module in transformer.modules() if module._forward_hooks]
        assert len(during) - len(hooked) == 3 * len(blocks), "queries, keys and one feed-forward"
    with matching.during(3, 2):  # past the share of the steps that attention has
        assert len([m for m in transformer.modules() if m._forward_hooks]) == len(blocks) + len(
            hooked
        )
    assert [module for module in transformer.modules() if module._forward_hooks] == hooked


def test_projections_that_are_one_layer_are_taken_apart(tiny: Tiny) -> None:
    scene = Scene(opened(tiny(WAN)))
    settings = Inference(steps=3, guidance=1.0)
    branch = scene.branch(settings)
    runs = [
        Denoising(
            scene.model, scene.edited, scene.context(7), draw_noise(scene.shape, 0), settings,
            None, Lead(ALL, branch),
        )
        for _ in range(2)
    ]  # fmt: skip
    for run, fused in zip(runs, (False, True), strict=True):
        transformer = scene.model.load_transformer()
        for block in transformer.blocks if fused else ():
            block.attn1.fuse_projections()
        run.advance(transformer)
    assert torch.allclose(runs[0].result(), runs[1].result(), atol=1e-5)


def test_blocks_that_are_none_are_refused(tiny: Tiny) -> None:
    transformer = opened(tiny(WAN)).load_transformer()
    few = Transfer(attention="qk", attention_blocks=(0.0, 0.01))
    with pytest.raises(UserError, match="none of this base's 2 blocks"):
        Matching(list(transformer.blocks), few, 4, 1)


def test_the_lower_it_starts_the_more_of_what_was_carried_is_kept(scene: Scene) -> None:
    carried, errors = tensors(*scene.shape, seed=9), []
    for level in (1.0, 0.3):
        run = Denoising(
            scene.model, scene.edited, scene.context(7), draw_noise(scene.shape, 0),
            Inference(steps=STEPS, guidance=1.0), None,
            Lead(Transfer(start="flow", start_level=level), carried_CTHW=carried),
        )  # fmt: skip
        taken = [
            run.advance(scene.model.load_transformer(expert), expert)
            for expert in scene.model.experts
        ]
        levels = scene.model.scheduler(STEPS, None).sigmas[:-1]
        assert sum(taken) == max(1, int((levels <= level).sum()))
        errors.append(error(run.result(), carried))
    assert errors[1] < errors[0]


@pytest.mark.parametrize("storage", ["float8", "int8", "nf4"])
def test_compressed_weights_lead_the_same_streamed_and_resident(tiny: Tiny, storage: str) -> None:
    scene = Scene(opened(tiny(WAN)))
    settings = Inference(steps=3, guidance=1.0)
    branch = scene.branch(settings)
    resident, streamed = (
        scene.denoised(scene.edited, settings, ALL, branch, Placement(count, "mapped", storage))
        for count in (0, 2)
    )
    assert torch.equal(streamed, resident)
    plain = scene.denoised(scene.edited, settings, ALL, branch)
    assert 0 < error(resident, plain) < 0.2


def test_a_lora_changes_what_is_taken_and_its_layers_are_taken_from_once(scene: Scene) -> None:
    transformer = scene.model.load_transformer()
    blocks = [block for name in scene.model.block_lists for block in getattr(transformer, name)]
    lora.inject(transformer, 4, 4, scene.model.lora_targets("attention"), seed=0)
    matching = Matching(blocks, Transfer(attention="qk"), 4, 1)
    before = [module for module in transformer.modules() if module._forward_hooks]
    with matching.during(0, 2):
        hooked = [m for m in transformer.modules() if m._forward_hooks and m not in before]
    assert len(hooked) == 2 * len(blocks)
    assert all(hasattr(module, "lora_A") for module in hooked), "with what the LoRA adds"


def test_shares_are_of_the_steps_that_are_denoised_and_no_more_is_inverted(scene: Scene) -> None:
    settings = Inference(steps=STEPS, guidance=1.0)
    low = 0.9
    levels = scene.model.scheduler(STEPS, None).sigmas
    left = int((levels[:-1] <= low).sum())
    assert 1 < left < STEPS
    branch = scene.branch(settings, level=low)
    assert len(branch.way_SCTHW) == left + 1
    led = Transfer(start="inverted", start_level=low, attention="qk", attention_share=0.1)
    free = Transfer(start="inverted", start_level=low)
    one, other = (scene.denoised(scene.edited, settings, how, branch) for how in (led, free))
    assert error(one, other) > 1e-5, "the first of them, at least"
    every = scene.branch(settings)
    assert torch.equal(branch.way_SCTHW, every.way_SCTHW[-left - 1 :])


def test_a_transformer_that_has_no_step_is_not_in_use(tiny: Tiny) -> None:
    model = opened(tiny(WAN22))
    settings = Inference(steps=STEPS)
    assert experts_in_use(model, settings, Transfer()) == model.experts
    low = Transfer(start="inverted", start_level=0.5)
    assert experts_in_use(model, settings, low) == model.experts[1:]


def test_frames_at_times_of_their_own_are_inverted_and_denoised_there(scene: Scene) -> None:
    """As a segment of a long clip, whose anchor is further away, on every base."""
    settings = Inference(steps=2, guidance=3.0)
    made = []
    for times in (None, (0, 1, 2), (0, 5, 6)):
        scene.source = replace(scene.source, times=times)
        sample = replace(scene.edited, times=times)
        branch = scene.branch(settings)
        made.append([branch.way_SCTHW, scene.denoised(sample, settings, ALL, branch)])
    plain, same, apart = made
    assert all(map(torch.equal, plain, same))
    assert not any(map(torch.equal, plain, apart))
    scene.source = replace(scene.source, times=None)
