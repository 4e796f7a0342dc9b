"""Latent frames that do not follow one another stand at their own times in every base."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskora import lora
from maskora.models.times import at_times
from maskora.streaming.placement import RESIDENT, Placement
from maskora.training.loop import sample_loss
from tests.models import bases
from tests.models.bases import HUNYUAN as FULL
from tests.models.bases import HUNYUAN15 as NEWER
from tests.models.bases import WAN, WAN22
from tests.models.conftest import Tiny
from tests.streaming.driving import answer, opened
from tests.test_sampling import SHAPE, noisy_sample

ROWS, COLUMNS = 4, 6


def rows_of(table: Tensor, frames: int) -> Tensor:
    """A table's rows, (frames, tokens of one, D)."""
    return table.reshape(frames, -1, table.shape[-1])


@pytest.mark.parametrize("family", [WAN, WAN22, FULL, NEWER])
def test_frames_have_the_places_that_they_have_in_the_whole_clip(tiny: Tiny, family: str) -> None:
    transformer = bases.opened(tiny(family)).load_transformer()
    channels = transformer.config.in_channels

    def tables(frames: int) -> list[Tensor]:
        made = transformer.rope(torch.randn(1, channels, frames, ROWS, COLUMNS))
        return [rows_of(table, frames) for table in made]

    whole, three = tables(8), tables(3)
    with at_times(transformer, (0, 4, 7)):
        apart = tables(3)
    for all_of_it, some in zip(whole, apart, strict=True):
        assert torch.equal(some, all_of_it[[0, 4, 7]])
        assert not torch.equal(some[1], all_of_it[1])
    assert all(map(torch.equal, three, tables(3))), "afterwards frames follow one another again"
    transformer.streamed.close()


def test_an_answer_depends_on_how_far_frames_are_apart(tiny_model: Path) -> None:
    model = opened(tiny_model, RESIDENT)
    transformer = model.load_transformer()
    plain = answer(model, transformer)
    for times, same in [(None, True), ((0, 1, 2), True), ((0, 1, 5), False), ((0, 4, 5), False)]:
        with at_times(transformer, times):
            assert torch.equal(answer(model, transformer), plain) == same


def test_times_hold_through_streamed_and_repeated_blocks(deep_model: Path) -> None:
    sample = replace(noisy_sample(), target_CTHW=torch.randn(SHAPE), times=(0, 3, 9))
    noise, level = torch.randn(SHAPE), torch.tensor([0.5])
    found = []
    for placement, times in [(RESIDENT, (0, 3, 9)), (Placement(5), (0, 3, 9)), (RESIDENT, None)]:
        model = opened(deep_model, placement)
        transformer = model.load_transformer()
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), 0)
        if placement is not RESIDENT:
            transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
            transformer.train()
        loss = sample_loss(model, transformer, replace(sample, times=times), noise, level, 1.0)
        loss.backward()
        found.append([loss, *(each.grad for each in lora.trainable(transformer))])
    resident, streamed, adjacent = found
    assert all(map(torch.equal, resident, streamed))
    assert not torch.equal(resident[0], adjacent[0])
