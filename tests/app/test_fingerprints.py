"""What a trained LoRA depends on: what has to train again for which change, and what has not."""

from dataclasses import replace
from typing import Any, Literal

import pytest

from maskora.app.edits import Clip, Edit, EditedFrame
from maskora.app.fingerprints import (
    Fingerprint,
    appearance_fingerprint,
    changed_inputs,
    motion_fingerprint,
)
from maskora.app.workspace import ShotRecord
from maskora.config import Config
from maskora.models.registry import VideoModel
from tests.app.small import CAPTION, configured, edited_frame, picture, small_clip, small_edit

Changed = Literal["both", "appearance", "neither"]

# Every setting of these tables with another value, and which stages have to train again for it.
SETTINGS: list[tuple[str, str, object, Changed]] = [
    ("adapter", "rank", 4, "both"),
    ("adapter", "alpha", 8.0, "both"),
    ("adapter", "targets", "attention+ffn", "both"),
    ("optimizer", "type", "adamw", "both"),
    ("optimizer", "lr", 2e-4, "both"),
    ("optimizer", "weight_decay", 0.1, "both"),
    ("motion", "steps", 7, "neither"),
    ("motion", "window", 5, "both"),
    ("motion", "stride", 2, "both"),
    ("motion", "conditioning", "first-frame", "both"),
    ("motion", "augment", "colour", "both"),
    ("motion", "masking", "grid", "both"),
    ("motion", "grid_share", 0.3, "neither"),
    ("motion", "task", "remove", "both"),
    ("motion", "task", "add", "both"),
    ("motion", "mask_shapes", ["hull"], "both"),
    ("appearance", "steps", 7, "neither"),
    ("appearance", "motion_share", 0.5, "appearance"),
    ("appearance", "conditioning", "first-frame", "appearance"),
    ("appearance", "conditioning", "anchored", "appearance"),
    ("appearance", "reference", "source", "appearance"),
    ("appearance", "reference", "masked", "appearance"),
    ("appearance", "spill", "keep", "appearance"),
    ("training", "seed", 1, "both"),
    ("training", "timestep_sample_method", "logit_normal", "both"),
    ("training", "shift", 3.0, "both"),
    ("training", "inside_weight", 2.0, "both"),
    ("training", "gradient_clipping", 0.5, "both"),
    ("training", "gradient_accumulation_steps", 2, "both"),
    ("training", "checkpoint_every", 5, "neither"),
    ("training", "preview_every", 5, "neither"),
    ("inference", "steps", 4, "neither"),
    ("inference", "guidance", 1.0, "neither"),
    ("inference", "shift", 1.0, "neither"),
    ("inference", "seed", 1, "neither"),
    ("inference", "lock", "latent", "neither"),
    ("inference", "feather", 2.0, "neither"),
    ("inference", "lossless", True, "neither"),
    ("inference", "conditioning", "first-frame", "neither"),
    ("inference", "segment", 13, "neither"),
    ("inference", "overlap", 4, "neither"),
    ("inference", "anchor", False, "neither"),
    ("inference", "lora", "none", "neither"),
    ("transfer", "start", "inverted", "neither"),
    ("transfer", "start_level", 0.5, "neither"),
    ("transfer", "inversion_passes", 2, "neither"),
    ("transfer", "attention", "qk", "neither"),
    ("transfer", "attention_share", 0.5, "neither"),
    ("transfer", "attention_blocks", [0.2, 0.8], "neither"),
    ("transfer", "threshold", 0.5, "neither"),
    ("transfer", "features_share", 0.5, "neither"),
    ("transfer", "features_blocks", [0.2, 0.8], "neither"),
    ("transfer", "smooth_noise", 0.1, "neither"),
    ("inference", "loras", [{"path": "other.safetensors"}], "neither"),
    ("acceleration", "attention", "flash", "neither"),
    ("acceleration", "cache", "taylor", "neither"),
    ("acceleration", "cache_threshold", 0.1, "neither"),
    ("acceleration", "cache_interval", 5, "neither"),
    ("acceleration", "compile", True, "neither"),
    ("prompt", "token", "other", "both"),
    ("prompt", "caption", "unread here", "neither"),
    ("prompt", "edited_caption", "unread here", "neither"),
    ("prompt", "negative", "ugly", "neither"),
]


# What runs of earlier versions have recorded of the defaults and the small clip. Whoever changes
# one of these has people train again what they have trained.
RECORDED = {
    "[adapter]": "1991b09bddbf9e6927a0",
    "[optimizer]": "e54d7e16942472b3b547",
    "[training]": "cc7f330dc6e6fb4d9273",
    "source frames": "e292a7ab8bfc0a37b11d",
    "masks": "3a17e8ba5510c68fabe4",
    "caption": "dcacf9518fbcd315d10b",
    "[motion]": "bacb20aef5f3534c5c17",
    "motion LoRA": "one",
    "keyframes": "34a54ad80bdaae79d2a0",
    "keyframe captions": "4d108068045a461cd88d",
    "[appearance]": "36983e83a9ecaad73d25",
    "edited first frame": "acedafff932907eb1534",
}


def fingerprints(
    model: VideoModel,
    config: Config,
    clip: Clip | None = None,
    caption: str = CAPTION,
    edit: Edit | None = None,
    motion_lora: str = "one",
) -> tuple[Fingerprint, Fingerprint]:
    """What both stages depend on."""
    clip, edit = clip or small_clip(), edit or small_edit()
    motion = motion_fingerprint(clip, caption, config, model)
    return motion, appearance_fingerprint(clip, edit, config, motion, motion_lora)


def changes(
    model: VideoModel, old: Config, new: Config | None = None, **other: Any
) -> tuple[list[str], list[str]]:
    """What both stages find changed with another configuration, or with other content."""
    motion, appearance = fingerprints(model, old)
    new_motion, new_appearance = fingerprints(model, new or old, **other)
    return changed_inputs(motion, new_motion), changed_inputs(appearance, new_appearance)


def test_runs_of_earlier_versions_are_known(model: VideoModel) -> None:
    motion, appearance = fingerprints(model, Config())
    assert changed_inputs(RECORDED, appearance) == ["base"]
    assert appearance.items() >= motion.items()


def test_where_shots_begin_is_trained_again(model: VideoModel) -> None:
    clip = small_clip()
    shot = ShotRecord(kind="cut", frame=5, first=5, last=5)
    cut = replace(clip, source=clip.source.model_copy(update={"shots": (shot,)}))
    assert changes(model, Config(), clip=cut) == (["shots"], ["shots"])


def test_the_table_of_settings_leaves_none_out() -> None:
    tables = {table for table, *_ in SETTINGS}
    every = {(t, key) for t in tables for key in type(getattr(Config(), t)).model_fields}
    assert every == {(table, key) for table, key, *_ in SETTINGS}


@pytest.mark.parametrize(("table", "key", "value", "changed"), SETTINGS)
def test_a_setting_trains_again_exactly_what_it_changes(
    model: VideoModel, table: str, key: str, value: object, changed: Changed
) -> None:
    old, new = configured(), configured(**{table: {key: value}})
    assert old != new
    motion, appearance = changes(model, old, new)
    assert bool(motion) == (changed == "both")
    assert bool(appearance) == (changed != "neither")


def test_the_whole_clip_is_the_same_window_by_number_and_by_name(model: VideoModel) -> None:
    by_number, by_name = (configured(motion={"window": window}) for window in (9, "full"))
    assert fingerprints(model, by_number) == fingerprints(model, by_name)


def changed_clip(frame: int, labels: bool) -> Clip:
    """The small clip with one pixel, or one pixel's label, changed."""
    clip = small_clip()
    (clip.labels_THW if labels else clip.frames_THWC)[frame, 0, 0] ^= 1
    return clip


@pytest.mark.parametrize(
    ("other", "motion_names", "appearance_names"),
    [
        ({"clip": changed_clip(8, labels=False)}, ["source frames"], ["source frames"]),
        ({"clip": changed_clip(8, labels=True)}, ["masks"], ["masks"]),
        ({"caption": "a green ball"}, ["caption"], ["caption"]),
        ({"motion_lora": "two"}, [], ["motion LoRA"]),
    ],
)
def test_changed_content_is_named(
    model: VideoModel, other: dict[str, Any], motion_names: list[str], appearance_names: list[str]
) -> None:
    assert changes(model, configured(), **other) == (motion_names, appearance_names)


@pytest.mark.parametrize(
    ("appearance", "names"),
    [
        ({"reference": "edited-first-frame"}, ["edited first frame"]),
        ({"reference": "source"}, []),
        ({"reference": "masked"}, []),
        ({"reference": "source", "conditioning": "anchored"}, ["edited first frame"]),
    ],
)
def test_the_edited_first_frame_counts_only_where_it_is_seen(
    model: VideoModel, appearance: dict[str, str], names: list[str]
) -> None:
    other = replace(small_edit(), first=edited_frame(picture(7), "another"))
    assert changes(model, configured(appearance=appearance), edit=other) == ([], names)


@pytest.mark.parametrize(
    ("keyframe", "names"),
    [
        ({8: edited_frame(picture(7), "an orange ball, gone")}, ["keyframes"]),
        ({8: edited_frame(picture(108), "another")}, ["keyframe captions"]),
        ({5: edited_frame(picture(105), "a further one")}, ["keyframe captions", "keyframes"]),
    ],
)
def test_keyframes_count_by_place_picture_and_caption(
    model: VideoModel, keyframe: dict[int, EditedFrame], names: list[str]
) -> None:
    edit = small_edit()
    other = replace(edit, keyframes={**edit.keyframes, **keyframe})
    assert changes(model, configured(), edit=other) == ([], names)
