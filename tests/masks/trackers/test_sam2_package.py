"""Original SAM2 checkpoints: recognised, refused, and run where Meta's package is installed."""

import importlib.util
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from maskora.config.tables import Tracker
from maskora.errors import UserError
from maskora.masks.prompts import Box, Click
from maskora.masks.trackers import open_tracker
from maskora.masks.trackers.sam2_package import (
    _as_arguments,
    _write_frames,
    config_name,
    read_checkpoint,
)

CLIP = np.random.default_rng(0).integers(0, 256, (3, 48, 80, 3), np.uint8)

TRUNK = "image_encoder.trunk."
# Width of the first block and blocks per stage, from the package's configurations (b+ has none:
# its stages are the defaults of the package's Hiera).
PUBLISHED = {
    "t": (96, (1, 2, 7, 2)),
    "s": (96, (1, 2, 11, 2)),
    "b+": (112, (2, 3, 16, 3)),
    "l": (144, (2, 6, 36, 4)),
}

needs_no_package = pytest.mark.skipif(
    importlib.util.find_spec("sam2") is not None, reason="the package sam2 is installed"
)


def shapes_of(size: str, version: str) -> dict[str, tuple[int, ...]]:
    """The shapes of some of a published checkpoint's tensors."""
    width, stages = PUBLISHED[size]
    names: dict[str, tuple[int, ...]] = {
        TRUNK + "patch_embed.proj.weight": (width, 3, 7, 7),
        "maskmem_tpos_enc": (7, 1, 1, 64),
        "image_encoder.neck.convs.0.conv.weight": (256, 8 * width, 1, 1),
    }
    block = 0
    for stage, blocks in enumerate(stages):
        for _ in range(blocks):
            dim = width * 2**stage
            names[f"{TRUNK}blocks.{block}.norm2.weight"] = (dim,)
            names[f"{TRUNK}blocks.{block}.attn.proj.weight"] = (dim, dim)
            block += 1
    if version == "sam2.1":
        names |= {"no_obj_embed_spatial": (1, 64), "obj_ptr_tpos_proj.weight": (64, 256)}
    return names


@pytest.mark.parametrize("version", ["sam2", "sam2.1"])
@pytest.mark.parametrize("size", sorted(PUBLISHED))
def test_sizes_and_versions_are_recognised_by_shapes(size: str, version: str) -> None:
    assert config_name(shapes_of(size, version)) == f"configs/{version}/{version}_hiera_{size}.yaml"


def test_other_models_are_not_recognised() -> None:
    shapes = shapes_of("t", "sam2")
    assert config_name({}) is None
    assert config_name({"layer.weight": (96, 3, 7, 7)}) is None
    assert config_name({n: s for n, s in shapes.items() if ".blocks.11." not in n}) is None
    assert config_name(shapes | {TRUNK + "patch_embed.proj.weight": (64, 3, 7, 7)}) is None


REAL = {name: torch.zeros(shape) for name, shape in shapes_of("t", "sam2.1").items()}


def test_a_checkpoint_is_read(tmp_path: Path) -> None:
    torch.save({"model": REAL}, tmp_path / "mine.pt")
    found, config = read_checkpoint(tmp_path / "mine.pt")
    assert config == "configs/sam2.1/sam2.1_hiera_t.yaml"
    assert {name: tuple(value.shape) for name, value in found.items()} == shapes_of("t", "sam2.1")


class Harm:
    """Pickled, it makes a folder when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (self.marker,)


def test_a_harmful_pickle_is_refused_and_does_nothing(tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "harm.pt"
    torch.save({"model": REAL, "more": Harm(marker)}, path)
    with pytest.raises(UserError, match="refused"):
        open_tracker(Tracker(type="sam2", checkpoint=str(path)), CLIP, tmp_path)
    assert not marker.exists()
    torch.load(path, weights_only=False)
    assert marker.is_dir(), "it would have done it"


def test_what_is_no_sam2_is_refused(tmp_path: Path) -> None:
    def refused(words: str) -> None:
        with pytest.raises(UserError, match=words) as error:
            open_tracker(Tracker(type="sam2", checkpoint="it.pt"), CLIP, relative_to=tmp_path)
        assert "it.pt" in str(error.value)
        assert "[tracker] checkpoint" in str(error.value)

    path = tmp_path / "it.pt"
    refused("no file")
    path.write_bytes(b"not a checkpoint")
    refused("no checkpoint of PyTorch")
    torch.save({"model": REAL}, path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    refused("no checkpoint of PyTorch")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "a zip, and nothing of PyTorch")
    refused("cannot be read")
    torch.save({"state": REAL}, path)
    refused("'model'")
    torch.save([1, 2, 3], path)
    refused("'model'")
    torch.save({"model": {"layer.weight": torch.zeros(3), "step": 7}}, path)
    refused("another model")


def test_damage_anywhere_is_a_refusal(tmp_path: Path) -> None:
    path = tmp_path / "it.pt"
    torch.save({"model": {"layer.weight": torch.zeros(3)}}, path)
    whole = path.read_bytes()
    random = np.random.default_rng(0)
    for _ in range(200):
        damaged = bytearray(whole)
        for at in random.integers(0, len(whole), 3):
            damaged[at] = random.integers(0, 256)
        path.write_bytes(damaged)
        with pytest.raises(UserError):
            read_checkpoint(path)


@needs_no_package
def test_without_the_package_both_ways_out_are_named(tmp_path: Path) -> None:
    path = tmp_path / "sam2.1_hiera_tiny.pt"
    torch.save({"model": REAL}, path)
    with pytest.raises(UserError) as error:
        open_tracker(Tracker(type="sam2", checkpoint=str(path)), CLIP, tmp_path)
    assert "github.com/facebookresearch/sam2" in str(error.value)
    assert "facebook/sam2.1-hiera-large" in str(error.value)


def test_frames_are_given_without_loss_under_the_names_that_are_wanted(tmp_path: Path) -> None:
    _write_frames(CLIP, tmp_path)
    files = sorted(tmp_path.iterdir(), key=lambda path: int(path.stem))
    assert [path.name for path in files] == ["00000.jpg", "00001.jpg", "00002.jpg"]
    for path, frame_HWC in zip(files, CLIP, strict=True):
        assert np.array_equal(np.array(Image.open(path).convert("RGB")), frame_HWC)


def test_prompts_become_arguments() -> None:
    given = _as_arguments([Click(0, 1, 2), Box(0, 10, 20, 30, 40), Click(0, 3, 4, positive=False)])
    assert {name: value.tolist() for name, value in given.items()} == {
        "box": [10, 20, 40, 60],
        "points": [[1, 2], [3, 4]],
        "labels": [1, 0],
    }
    assert sorted(_as_arguments([Click(0, 1, 2)])) == ["labels", "points"]
    assert sorted(_as_arguments([Box(0, 1, 2, 3, 4)])) == ["box"]


@pytest.mark.slow
def test_the_package_itself_segments_and_carries(tmp_path: Path) -> None:
    """With random weights: shapes, objects and anchors, not what SAM2 can do."""
    if importlib.util.find_spec("sam2") is None:
        pytest.skip("Meta's package sam2 is not installed")
    from sam2.build_sam import build_sam2_video_predictor

    model = build_sam2_video_predictor("configs/sam2.1/sam2.1_hiera_t.yaml", None, device="cpu")
    torch.save({"model": model.state_dict()}, tmp_path / "random.pt")
    tracker = open_tracker(Tracker(type="sam2", checkpoint="random.pt"), CLIP, tmp_path)
    assert tracker.label == "SAM2 (random)"
    one_HW = np.zeros(CLIP.shape[1:3], bool)
    one_HW[10:30, 20:50] = True
    for prompts in ([Click(1, 30, 20), Box(1, 10, 10, 30, 20)], [Click(1, 60, 20, object_id=2)]):
        assert tracker.segment(1, prompts, one_HW.astype(np.uint8)).shape == (48, 80)
    anchors = {0: {3: one_HW}, 1: {1: one_HW}}
    for path, expected in ((range(3), [[3], [1, 3], [1, 3]]), (range(1, -1, -1), [[1], [1, 3]])):
        carried = list(tracker.propagate(path, anchors))
        assert [sorted(silhouettes) for silhouettes in carried] == expected
        for frame, silhouettes in zip(path, carried, strict=True):
            for number, anchor_HW in anchors.get(frame, {}).items():
                assert (silhouettes[number] == anchor_HW).all()
    (alone,) = tracker.propagate([0], anchors)
    assert (alone[3] == one_HW).all()
    tracker.close()
