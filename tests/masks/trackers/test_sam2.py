"""SAM2 by transformers: the real model in a tiny size, on the CPU."""

import importlib.util
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from maskora.config.tables import Tracker
from maskora.errors import UserError
from maskora.masks.markup import Markup
from maskora.masks.prompts import Box, Click
from maskora.masks.trackers import open_tracker
from maskora.masks.trackers.sam2 import Preparation, Sam2Tracker, read_preparation
from tests.masks.trackers.tiny_sam2 import PREPARATION, SIDE, write_tiny_sam2

FRAMES, HEIGHT, WIDTH = 5, 48, 80


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sam2") / "tiny"
    write_tiny_sam2(path)
    return path


@pytest.fixture(scope="module")
def clip() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)


@pytest.fixture
def tracker(folder: Path, clip: np.ndarray) -> Iterator[Sam2Tracker]:
    opened = Sam2Tracker(folder, "tiny", clip)
    yield opened
    opened.close()


def rectangle(left: int, top: int, right: int, bottom: int) -> np.ndarray:
    silhouette_HW = np.zeros((HEIGHT, WIDTH), bool)
    silhouette_HW[top:bottom, left:right] = True
    return silhouette_HW


NOTHING = np.zeros((HEIGHT, WIDTH), np.uint8)
ONE, TWO = rectangle(10, 8, 40, 30), rectangle(50, 20, 76, 44)


def prepared(frame_HWC: np.ndarray) -> torch.Tensor:
    """The processor's documented steps, worked out with Pillow and numpy in another way."""
    image = Image.fromarray(frame_HWC).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
    shares = np.asarray(image, np.float64) * PREPARATION["rescale_factor"]
    values = (shares - PREPARATION["image_mean"]) / PREPARATION["image_std"]
    return torch.from_numpy(values.transpose(2, 0, 1).astype(np.float32))


ONE_GREY = 1 / 255 / min(PREPARATION["image_std"])  # what one of 255 steps is, normalised


def test_frames_are_prepared_by_the_documented_steps(folder: Path, clip: np.ndarray) -> None:
    found_CSS = read_preparation(folder).frame(clip[0])
    assert found_CSS.dtype == torch.float32
    assert found_CSS.shape == (3, SIDE, SIDE)
    off = (found_CSS - prepared(clip[0])).abs()
    assert off.max() < 1.01 * ONE_GREY  # Pillow rounds between its two passes
    assert (off < 1e-5).float().mean() > 0.5


def test_frames_are_prepared_as_by_the_processor(folder: Path, clip: np.ndarray) -> None:
    if importlib.util.find_spec("torchvision") is None:
        pytest.skip("Sam2VideoVideoProcessor needs torchvision, which is not installed")
    from transformers import Sam2VideoVideoProcessor

    processor = Sam2VideoVideoProcessor.from_pretrained(folder)
    expected_TCSS = processor(videos=[list(clip)], return_tensors="pt").pixel_values_videos[0]
    found_TCSS = torch.stack([read_preparation(folder).frame(frame_HWC) for frame_HWC in clip])
    assert (found_TCSS - expected_TCSS).abs().max() < 1.01 * ONE_GREY


def test_a_mask_is_prepared_with_antialias_and_cut_at_one_half() -> None:
    stripes_HW = np.zeros((SIDE, 4 * SIDE), bool)
    stripes_HW[:, ::2] = True  # finer than the model's pixels: half of each is covered
    stripes_HW[:, : 2 * SIDE] = False
    stripes_HW[:, 3 * SIDE :: 4] = False  # and here a quarter
    mask_SS = Preparation(SIDE).mask(stripes_HW)[0, 0]
    assert mask_SS[:, : SIDE // 2 - 1].sum() == 0
    assert mask_SS[:, 3 * SIDE // 4 + 1 :].sum() == 0
    assert set(mask_SS.unique().tolist()) <= {0.0, 1.0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("video_preprocessor_config.json", PREPARATION),
        ("preprocessor_config.json", PREPARATION),
        ("processor_config.json", {"video_processor": PREPARATION, "target_size": SIDE}),
    ],
)
def test_constants_come_from_whichever_file_has_them(
    tmp_path: Path, name: str, content: dict[str, object]
) -> None:
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Sam2VideoProcessor"}')
    (tmp_path / name).write_text(json.dumps(content))
    found = read_preparation(tmp_path)
    assert found.size == SIDE
    assert list(found.mean) == PREPARATION["image_mean"]
    assert list(found.std) == PREPARATION["image_std"]


def watched(tracker: Sam2Tracker) -> list[dict[str, torch.Tensor]]:
    """What the prompt encoder is given, a call each."""
    seen: list[dict[str, torch.Tensor]] = []
    tracker._model.prompt_encoder.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs), with_kwargs=True
    )
    return seen


def test_prompts_reach_the_prompt_encoder_in_its_own_pixels(tracker: Sam2Tracker) -> None:
    seen = watched(tracker)
    prompts = [Click(1, 40, 12), Click(1, 80, 48, positive=False), Box(1, 20, 6, 40, 24)]
    for pointed in ([Click(1, 10, 30, object_id=2)], prompts):
        tracker.segment(1, pointed, NOTHING)
    x, y = SIDE / WIDTH, SIDE / HEIGHT
    assert [call["input_labels"].tolist() for call in seen] == [[[[1]]], [[[2, 3, 1, 0]]]]
    assert seen[0]["input_points"].tolist() == [[[[10 * x, 30 * y]]]]
    corners_and_clicks = [[20 * x, 6 * y], [60 * x, 30 * y], [40 * x, 12 * y], [80 * x, 48 * y]]
    assert torch.allclose(seen[1]["input_points"], torch.tensor([[corners_and_clicks]]))
    assert [call["input_masks"] for call in seen] == [None, None]
    assert [call["input_boxes"] for call in seen] == [None, None]


def model_and_session(folder: Path, clip: np.ndarray) -> tuple[Sam2VideoModel, object]:
    """The model as transformers documents it, and a session with the clip in it."""
    model = Sam2VideoModel.from_pretrained(folder).eval()
    pixels_TCSS = torch.stack([read_preparation(folder).frame(frame_HWC) for frame_HWC in clip])
    session = Sam2VideoInferenceSession(pixels_TCSS, HEIGHT, WIDTH, dtype=torch.float32)
    return model, session


def enlarged(logits_11ss: torch.Tensor) -> np.ndarray:
    full = torch.nn.functional.interpolate(logits_11ss, (HEIGHT, WIDTH), mode="bilinear")
    return (full[0, 0] > 0).numpy()


def test_a_click_and_a_box_give_what_the_model_gives_by_itself(
    tracker: Sam2Tracker, folder: Path, clip: np.ndarray
) -> None:
    model, session = model_and_session(folder, clip)
    points = torch.tensor([[10.0, 10.0], [50.0, 40.0], [30.0, 20.0]]) * torch.tensor(
        [SIDE / WIDTH, SIDE / HEIGHT]
    )
    inputs = {"point_coords": points[None, None], "point_labels": torch.tensor([[[2, 3, 1]]])}
    session.add_point_inputs(session.obj_id_to_idx(1), 3, inputs)
    session.obj_with_new_inputs = [1]
    expected_HW = enlarged(model(session, frame_idx=3).pred_masks)
    found_HW = tracker.segment(3, [Box(3, 10, 10, 40, 30), Click(3, 30, 20)], NOTHING)
    assert expected_HW.any()
    assert not expected_HW.all()
    assert (found_HW == expected_HW).all()


def test_what_is_there_already_goes_in_as_logits(tracker: Sam2Tracker) -> None:
    seen = watched(tracker)
    before_HW = NOTHING.copy()
    before_HW[ONE] = 1
    one, two = [Click(0, 30, 20)], [Click(0, 60, 30, object_id=2)]
    (afresh_HW, other_HW), (refined_HW, same_HW) = (
        [tracker.segment(0, clicks, labels_HW) for clicks in (one, two)]
        for labels_HW in (NOTHING, before_HW)
    )
    assert [call["input_masks"] is None for call in seen] == [True, True, False, True]
    logits_ss = seen[2]["input_masks"][0, 0]
    low = SIDE // 4
    assert logits_ss.shape == (low, low)
    assert logits_ss[low * 20 // HEIGHT, low * 25 // WIDTH] == 10  # deep inside, and far outside
    assert logits_ss[low * 40 // HEIGHT, low * 70 // WIDTH] == -10
    assert (afresh_HW != refined_HW).any()
    assert (other_HW == same_HW).all()


def propagated_by_hand(
    folder: Path, clip: np.ndarray, anchors: dict[int, np.ndarray], start: int, reverse: bool
) -> dict[int, np.ndarray]:
    """One object through transformers' own iterator, its masks given as the processor does."""
    model, session = model_and_session(folder, clip)
    for frame, silhouette_HW in anchors.items():
        mask = torch.nn.functional.interpolate(
            torch.tensor(silhouette_HW)[None, None].float(),
            size=(SIDE, SIDE),
            align_corners=False,
            mode="bilinear",
            antialias=True,
        )
        session.add_mask_inputs(session.obj_id_to_idx(1), frame, (mask >= 0.5).float())
        session.obj_with_new_inputs = [1]
        model(session, frame_idx=frame)
    outputs = model.propagate_in_video_iterator(session, start_frame_idx=start, reverse=reverse)
    return {output.frame_idx: enlarged(output.pred_masks) for output in outputs}


@pytest.mark.parametrize(("path", "reverse"), [(range(1, FRAMES), False), (range(3, -1, -1), True)])
def test_objects_are_carried_as_by_transformers_own_iterator(
    tracker: Sam2Tracker, folder: Path, clip: np.ndarray, path: range, reverse: bool
) -> None:
    anchors = {path[0]: {1: ONE, 2: TWO}, path[2]: {1: TWO}}
    found = list(tracker.propagate(path, anchors))
    by_hand = {
        1: propagated_by_hand(folder, clip, {path[0]: ONE, path[2]: TWO}, path[0], reverse),
        2: propagated_by_hand(folder, clip, {path[0]: TWO}, path[0], reverse),
    }
    assert len(found) == len(path)
    for frame, silhouettes in zip(path, found, strict=True):
        assert sorted(silhouettes) == [1, 2]
        for number, silhouette_HW in silhouettes.items():
            if number in anchors.get(frame, {}):
                assert (silhouette_HW == anchors[frame][number]).all()
            else:
                assert silhouette_HW.dtype == np.bool_
                assert (silhouette_HW == by_hand[number][frame]).all()
    assert (found[1][1] != found[1][2]).any(), "the two objects are told apart"


def test_objects_come_from_their_first_anchor_on_the_path_on(tracker: Sam2Tracker) -> None:
    anchors = {1: {1: ONE}, 3: {2: TWO}}
    forward = [sorted(silhouettes) for silhouettes in tracker.propagate(range(FRAMES), anchors)]
    assert forward == [[], [1], [1], [1, 2], [1, 2]]
    backward = [sorted(one) for one in tracker.propagate(range(2, -1, -1), anchors)]
    assert backward == [[], [1], [1]]
    for path in (range(1), range(0, -1, -1)):
        (silhouettes,) = tracker.propagate(path, {0: {1: ONE}})
        assert (silhouettes[1] == ONE).all()
    empty_HW = np.zeros((HEIGHT, WIDTH), bool)
    found = list(tracker.propagate(range(3), {0: {1: empty_HW}}))
    assert not found[0][1].any()
    assert [sorted(silhouettes) for silhouettes in found] == [[1]] * 3, "an empty one, too"


def test_an_anchor_ahead_is_remembered(tracker: Sam2Tracker) -> None:
    alone, with_another = (
        list(tracker.propagate(range(3), anchors))
        for anchors in ({0: {1: ONE}}, {0: {1: ONE}, 4: {1: TWO}})
    )
    assert (alone[1][1] != with_another[1][1]).any()


def test_passes_do_not_influence_each_other(tracker: Sam2Tracker) -> None:
    first = list(tracker.propagate(range(FRAMES), {0: {1: ONE}}))
    list(tracker.propagate(range(FRAMES - 1, -1, -1), {4: {1: TWO}}))
    tracker.segment(2, [Click(2, 5, 5)], NOTHING)
    again = list(tracker.propagate(range(FRAMES), {0: {1: ONE}}))
    assert all((one[1] == two[1]).all() for one, two in zip(first, again, strict=True))


def test_features_are_computed_once_per_frame_and_kept_within_bounds(folder: Path) -> None:
    clip = np.zeros((12, HEIGHT, WIDTH, 3), np.uint8)
    tracker = Sam2Tracker(folder, "tiny", clip)
    runs: list[int] = []
    tracker._model.vision_encoder.register_forward_hook(lambda *_: runs.append(1))
    list(tracker.propagate(range(12), {0: {1: ONE, 2: TWO}}))
    assert len(runs) == 12
    tracker.segment(11, [Click(11, 5, 5)], NOTHING)
    assert len(runs) == 12
    assert len(tracker._features._vision_features) == 8
    tracker.close()
    assert not tracker._features._vision_features
    assert tracker._model is None


def test_it_is_opened_by_its_name(folder: Path, clip: np.ndarray) -> None:
    tracker = open_tracker(Tracker(type="sam2", checkpoint="tiny"), clip, relative_to=folder.parent)
    assert tracker.label == "SAM2 (tiny)"
    tracker.close()


def values(name: str, **changes: object) -> Callable[[Path], None]:
    """Other values in a JSON file."""

    def change(folder: Path) -> None:
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | changes))

    return change


def lacking(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({}, folder / "pytorch_model.bin")


def cut_short(folder: Path) -> None:
    content = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(content[: len(content) // 2])


def without_memory(folder: Path) -> None:
    """As SAM2 for single pictures is saved."""
    values("config.json", model_type="sam2")(folder)
    kept = {n: t for n, t in load_file(folder / WEIGHTS).items() if not n.startswith("memory_")}
    save_file(kept, folder / WEIGHTS, {"format": "pt"})


WEIGHTS, PICTURES = "model.safetensors", "video_preprocessor_config.json"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (values("config.json", model_type="vit"), "'vit'"),
        (lacking("config.json"), ".json"),
        (lacking(WEIGHTS), ".safetensors"),
        (lacking(PICTURES), ".json"),
        (pickled, ".safetensors"),
        (cut_short, "cannot be read"),
        (without_memory, "of SAM2's tensors for videos, memory_"),
        (values("config.json", memory_fuser_intermediate_dim=24), "cannot be read"),
        (values(PICTURES, size={"height": 32, "width": 32}), "32 pixels"),
    ],
)
def test_what_is_no_whole_sam2_is_refused(
    folder: Path, tmp_path: Path, clip: np.ndarray, change: Callable[[Path], None], words: str
) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    change(copy)
    with pytest.raises(UserError, match=r"\[tracker\] checkpoint") as error:
        Sam2Tracker(copy, "copy", clip)
    assert str(copy) in str(error.value)
    assert words in str(error.value)


def test_a_checkpoint_that_is_nowhere_is_refused(tmp_path: Path, clip: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"\[tracker\] checkpoint: 'no such folder'"):
        open_tracker(Tracker(type="sam2", checkpoint="no such folder"), clip, tmp_path)


def test_a_painted_keyframe_is_given_as_a_mask(tracker: Sam2Tracker) -> None:
    labels = np.zeros((FRAMES, HEIGHT, WIDTH), np.uint8)
    markup = Markup(labels, labels.copy())
    markup.paint(2, 1, ONE, positive=True)
    list(markup.follow(tracker))
    np.testing.assert_array_equal(markup.shown_THW[2] == 1, ONE)
    forward = list(tracker.propagate(range(2, FRAMES), {2: {1: ONE}}))
    for frame, found in enumerate(forward, 2):
        np.testing.assert_array_equal(markup.shown_THW[frame] == 1, found[1])
