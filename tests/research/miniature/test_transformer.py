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


def test_a_clip_is_a_plain_and_a_boxed_sample() -> None:
    for seed, samples in enumerate(transformer.draw_samples(9, range(5))):
        clip = render(draw_scene(seed))
        video = to_unit(torch.from_numpy(clip.frames_THWC))
        for sample in samples:
            assert torch.equal(sample.target_CTHW, video)
            assert sample.keep_THW[0].all()
            kept = sample.keep_THW.bool().expand(3, -1, -1, -1)
            assert torch.equal(sample.condition_CTHW[kept], video[kept])
            assert (sample.condition_CTHW[~kept] == EMPTY).all()
        plain, boxed = samples
        assert not plain.keep_THW[1:].any()
        sprite = torch.from_numpy(clip.labels_THW == clip.labels_THW.max())[1:]
        assert boxed.keep_THW[1:].any()
        assert not boxed.keep_THW[1:][sprite].any()


def test_single_frames_are_boxed_too_and_else_shown_whole() -> None:
    for plain, boxed in transformer.draw_samples(1, range(5)):
        assert plain.target_CTHW.shape == boxed.target_CTHW.shape == (3, 1, 64, 64)
        assert plain.keep_THW.all()
        assert 0 < boxed.keep_THW.mean() < 1


def test_a_base_of_first_frames_never_sees_a_box() -> None:
    shape = (40, 16, 3, 2, 2)
    target, plain, boxed = (torch.full(shape, value) for value in (0.0, 1.0, 2.0))
    latents = {frames: transformer.Latents(target, plain, boxed) for frames in transformer.CLIPS}
    generator = torch.Generator().manual_seed(0)
    shown: dict[str, set[float]] = {"first-frame": set(), "boxes": set()}
    for how, seen in shown.items():
        for _ in range(20):
            _, condition = transformer.draw_batch(latents, how, generator)
            seen.update(condition.unique().tolist())
    assert shown == {"first-frame": {1.0}, "boxes": {1.0, 2.0}}


def test_boxes_are_of_many_widths_and_some_lie_on_the_grid() -> None:
    shares, snapped = [], 0
    for seed in range(30):
        clip = render(draw_scene(seed))
        keep = transformer.draw_keep(clip, np.random.default_rng(seed))
        shares.append(1 - keep.mean().item())
        cells = grouped_cells(keep, transformer.GRID)
        same = cells.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
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
        frames: (2, 16, (frames - 1) // 4 + 1, 16, 16) for frames in transformer.CLIPS
    }
    first = sum(count for frames, count in transformer.CLIPS.items() if frames < 9)
    (samples,) = transformer.draw_samples(9, range(first, first + 1))
    for sample, condition in zip(
        samples, (found[9].plain_NCTHW, found[9].boxed_NCTHW), strict=True
    ):
        packed = grouped_cells(sample.keep_THW, transformer.GRID).transpose(0, 1)
        assert torch.equal(condition[0, :4].float(), packed)
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = transformer.encode_set(vae, tmp_path, share)
    assert torch.equal(again[9].target_NCTHW, found[9].target_NCTHW)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
