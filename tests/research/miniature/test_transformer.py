"""What the transformer is shown is what the method shows a base."""

from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLWan

from maskora.method.conditioning import EMPTY, to_unit
from maskora.miniature.world import render
from maskora.models.diffusers_base import grouped_cells
from research.miniature import transformer
from research.miniature.scenes import draw_scene


def test_samples_of_a_clip_are_plain_or_boxed() -> None:
    samples = list(transformer.draw_samples(9, range(20)))
    plain = [s for s in samples if not s.keep_THW[1:].any()]
    assert 4 <= len(plain) <= 16
    for seed, sample in enumerate(samples):
        clip = render(draw_scene(seed))
        video = to_unit(torch.from_numpy(clip.frames_THWC))
        assert torch.equal(sample.target_CTHW, video)
        assert sample.keep_THW[0].all()
        kept = sample.keep_THW.bool().expand(3, -1, -1, -1)
        assert torch.equal(sample.condition_CTHW[kept], video[kept])
        assert (sample.condition_CTHW[~kept] == EMPTY).all()
        sprite = torch.from_numpy(clip.labels_THW == clip.labels_THW.max())[1:]
        assert not sample.keep_THW[1:][sprite].any()


def test_single_frames_are_always_boxed() -> None:
    for sample in transformer.draw_samples(1, range(5)):
        assert sample.target_CTHW.shape == (3, 1, 64, 64)
        assert 0 < sample.keep_THW.mean() < 1


def test_boxes_are_of_many_widths_and_some_lie_on_the_grid() -> None:
    shares, snapped = [], 0
    for seed in range(30):
        clip = render(draw_scene(seed))
        keep = transformer.draw_keep(clip, np.random.default_rng(seed))
        shares.append(1 - keep.mean().item())
        cells = grouped_cells(keep, transformer.GRID)
        same = cells.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)
        snapped += bool(torch.equal(same[1:].flatten(0, 1), keep[1:]))
    assert max(shares) > 2 * min(shares)
    assert 5 <= snapped <= 25


def test_a_set_is_encoded_once_and_packed_as_wan_packs(
    untrained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformer, "BATCH", 2)
    vae = AutoencoderKLWan.from_pretrained(untrained / "vae", torch_dtype=torch.float32).eval()
    share = transformer.BATCH / max(transformer.CLIPS.values())
    found = transformer.encode_set(vae, tmp_path, share)
    assert {frames: tuple(each.target_NCTHW.shape) for frames, each in found.items()} == {
        1: (2, 16, 1, 8, 8), 9: (2, 16, 3, 8, 8), 13: (2, 16, 4, 8, 8), 21: (2, 16, 6, 8, 8),
    }  # fmt: skip
    first = sum(count for frames, count in transformer.CLIPS.items() if frames < 9)
    (sample,) = transformer.draw_samples(9, range(first, first + 1))
    packed = grouped_cells(sample.keep_THW, transformer.GRID).transpose(0, 1)
    assert torch.equal(found[9].condition_NCTHW[0, :4].float(), packed)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = transformer.encode_set(vae, tmp_path, share)
    assert torch.equal(again[9].target_NCTHW, found[9].target_NCTHW)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
