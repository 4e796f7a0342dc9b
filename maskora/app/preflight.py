"""Checks before a model is loaded: everything that is wrong, and settings that have no effect.

Imports no torch.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from maskora.app.captions import foresee_caption
from maskora.app.deepspeed_file import read_deepspeed_file
from maskora.app.edits import EditFiles, find_edits
from maskora.app.masking import check_frames, load_masks
from maskora.app.plan import check_transfer, clip_segments
from maskora.app.shot_notes import describe_shots, unedited_shots_note
from maskora.app.workspace import (
    Source,
    Workspace,
    check_origin,
    check_video_settings,
    edit_size,
)
from maskora.config import Config
from maskora.config.tables import Acceleration, Table
from maskora.errors import UserError
from maskora.files import lies_in
from maskora.hub import find_file, find_local, is_hub_id
from maskora.memory.plan import Purpose
from maskora.models.acceleration import NO_BACKWARD, NO_MASK, WARM_UP
from maskora.models.files.model_files import resolve_base, resolve_files
from maskora.models.registry import check_files, open_source, read_settings
from maskora.streaming.placement import Placement
from maskora.video.images import image_size
from maskora.video.probe import sound_note


def check_workspace(config: Config, workspace: Workspace, edit: str | None) -> list[str]:
    """Lines about what train and infer would work on; loads no model.

    Raises:
        UserError: with everything that is wrong.
    """
    source = workspace.read_source()
    problems: list[str] = []
    notes: list[str | None] = []

    def attempt(look: Callable[[], object]) -> None:
        try:
            look()
        except UserError as error:
            if str(error) not in problems:
                problems.append(str(error))

    def check_caption(image: Path) -> None:
        attempt(lambda: notes.append(foresee_caption(config, workspace, image)))

    attempt(lambda: check_transfer(config))
    attempt(lambda: read_deepspeed_file(config, workspace.root, None))
    attempt(lambda: check_video_settings(workspace, config, source))
    check_caption(workspace.source_frame(0))
    attempt(lambda: check_origin(source))
    attempt(lambda: _check_frames(workspace, source))
    attempt(lambda: load_masks(workspace, config.mask, source))
    attempt(lambda: _check_loras(config, workspace))
    attempt(lambda: notes.append(_base_line(config, workspace)))
    notes.append(_sound_line(source))
    files = EditFiles(workspace.edits_dir, {})
    try:
        files = find_edits(workspace, edit, source.frames)
    except UserError as error:
        problems.append(str(error))
    for path in files.images.values():
        check_caption(path)
        attempt(lambda path=path: edit_size(path, image_size(path), source))  # type: ignore[misc]
    if note := unedited_shots_note(workspace, source, files.images):
        notes.append(f"note: {note}")
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''}"
        lines = [f"  {problem}" for problem in problems]
        raise UserError("\n".join([f"{workspace.root}: {count}", *lines]))
    elsewhere = describe_elsewhere(config, workspace, source)
    return [*_summary(config, workspace, source, files), *filter(None, notes), *elsewhere]


def _summary(config: Config, workspace: Workspace, source: Source, files: EditFiles) -> list[str]:
    width, height = source.size
    shots = f", {described}" if (described := describe_shots(source)) else ""
    lines = [f"{workspace.root}: {source.frames} frames of {width}x{height}{shots}"]
    if (segments := len(clip_segments(config, source, files.images))) > 1:
        longest = config.inference.segment_length(source.frames)
        lines.append(f"generated in {segments} segments of at most {longest} frames")
    if 0 not in files.images:
        removed = config.motion.task == "remove"
        fate = "infer.py makes it" if removed else "not there yet"
        lines.append(f"edited first frame: {fate} ({files.folder / '00000.png'})")
    stages = "motion, then appearance" if files.keyframes else "motion"
    if config.inference.lora == "none":
        stages = "none, as inference.lora is none"
    keyframes = ", ".join(map(str, files.keyframes)) or "none"
    return [*lines, f"stages: {stages} (keyframes: {keyframes})"]


def _check_frames(workspace: Workspace, source: Source) -> None:
    for number in range(source.frames):
        path = workspace.source_frame(number)
        if image_size(path) != source.size:
            raise UserError(f"{path}: its size is not {source.size[0]}x{source.size[1]}")
    check_frames(workspace, source)


def describe_elsewhere(config: Config, workspace: Workspace, source: Source) -> list[str]:
    """Lines about what a run reads outside of the workspace, and fetches from the hub."""
    outside, fetched, root = [], [], workspace.root
    for name, text in _named_places(config, source):
        found = find_local(text, root) or find_file(text, root)
        if found is None and is_hub_id(text):
            fetched.append(f"{text} ({name})")
        elif not lies_in(found or root / text, root):
            outside.append(f"{found or text} ({name})")
    lines = {"reads outside the workspace": outside, "fetches from the hub, once": fetched}
    return [f"{what}: {', '.join(places)}" for what, places in lines.items() if places]


def _named_places(config: Config, source: Source) -> Iterator[tuple[str, str]]:
    """What names a folder, a file or a hub id that a run uses, and the name."""
    yield "the original video", source.origin
    if config.model.path not in ("", "miniature"):
        yield "model.path", config.model.path
    for part, path in config.model.files.items():
        yield f"model.files.{part}", path
    for item in config.inference.loras:
        yield "inference.loras", item.path
    if config.preview.distilled:
        yield "preview.distilled", config.preview.distilled
    captions = (config.prompt.caption, config.prompt.edited_caption)
    if "auto" in captions and config.caption.model != "none":
        yield "caption.model, for captions that are missing", config.caption.model
    if config.tracker.type == "sam2":
        yield "tracker.checkpoint, for maskora track", config.tracker.checkpoint
    if config.editor.model != "none":
        yield "editor.model, for maskora edit-frame", config.editor.model


def _sound_line(source: Source) -> str | None:
    """What results lack of the original's sound, where that is there and can be read."""
    origin = Path(source.origin)
    note = sound_note(origin) if origin.is_file() else ""
    return f"note: {origin}: {note}" if note else None


def _base_line(config: Config, workspace: Workspace) -> str:
    """The base's files in a line, checked; what would have to be fetched is not looked at."""
    model, root = config.model, workspace.root
    if is_hub_id(model.path) and find_local(model.path, root) is None:
        files = resolve_files(model, root)
        return f"base: {open_source(None, files).description if files else model.path}"
    found = resolve_base(model, root)
    check_files(model.family, found)
    read_settings(model.family, found)  # its configurations, one by one
    return f"base: {found.description}"


def _check_loras(config: Config, workspace: Workspace) -> None:
    for item in config.inference.loras:
        if not (workspace.root / Path(item.path).expanduser()).is_file():
            raise UserError(f"[inference] loras: {item.path} does not exist")
    distilled = config.preview.distilled
    if distilled and not (workspace.root / Path(distilled).expanduser()).is_file():
        raise UserError(f"[preview] distilled: {distilled} does not exist")


def train_warnings(config: Config, has_keyframes: bool) -> list[str]:
    """Settings that the person has changed and that have no effect in this training run."""
    warnings = []
    if config.motion.window == "full":
        warnings += _unused(config, "motion", ["stride"], 'motion.window is "full"')
    if config.motion.masking != "grid":
        reason = f'motion.masking is "{config.motion.masking}"'
        warnings += _unused(config, "motion", ["grid_share"], reason)
    elif not config.motion.gridded:
        warnings += _unused(config, "motion", ["masking"], 'motion.conditioning is "first-frame"')
    if config.motion.conditioning == "first-frame":
        keys = ["task", "mask_shapes"]
        warnings += _unused(config, "motion", keys, 'motion.conditioning is "first-frame"')
    elif config.mask.shape == "full":
        warnings += _unused(config, "motion", ["mask_shapes"], 'mask.shape is "full"')
    if config.mask.shape in ("tight", "noisy", "full"):
        warnings += _unused(
            config, "mask", ["margin", "smooth"], f'mask.shape is "{config.mask.shape}"'
        )
    if not has_keyframes:
        keys = ["motion_share", "conditioning", "reference"]
        warnings += _unused(config, "appearance", keys, "the appearance stage does not run")
    whole_picture = config.motion.conditioning == "first-frame"
    if whole_picture and not has_keyframes and config.training.inside_weight == 1:
        warnings += _unused(
            config, "mask", ["shape", "margin"], 'motion.conditioning is "first-frame"'
        )
    return warnings


def infer_warnings(config: Config) -> list[str]:
    """Settings that have no effect in this inference run, or contradict the training."""
    inference, warnings = config.inference, []
    if inference.lora == "trained" and inference.conditioning != config.motion.conditioning:
        warnings.append(
            f'inference.conditioning is "{inference.conditioning}", but the LoRA is trained with '
            f'motion.conditioning = "{config.motion.conditioning}"'
        )
    if inference.guidance == 1:
        warnings += _unused(config, "prompt", ["negative"], "inference.guidance is 1")
    if inference.lock != "pixel":
        warnings += _unused(
            config, "inference", ["feather"], f'inference.lock is "{inference.lock}"'
        )
    return [*warnings, *_transfer_warnings(config)]


def _transfer_warnings(config: Config) -> list[str]:
    """Settings of [transfer] that have no effect in this inference run."""
    transfer, warnings = config.transfer, list[str]()
    if transfer.start == "noise":
        warnings += _unused(config, "transfer", ["start_level"], 'transfer.start is "noise"')
    if transfer.start == "flow" and transfer.start_level == 1:
        warnings.append(
            'transfer.start = "flow" has no effect here: transfer.start_level is 1, where all is '
            "noise; try 0.8"
        )
    if not transfer.attention_share:
        warnings += _unused(config, "transfer", ["attention"], "transfer.attention_share is 0")
    if transfer.attention == "none":
        keys = ["attention_share", "attention_blocks", "threshold"]
        warnings += _unused(config, "transfer", keys, 'transfer.attention is "none"')
    elif transfer.attention != "difference":
        reason = f'transfer.attention is "{transfer.attention}"'
        warnings += _unused(config, "transfer", ["threshold"], reason)
    if not transfer.features_share:
        keys = ["features_blocks"]
        warnings += _unused(config, "transfer", keys, "transfer.features_share is 0")
    if not transfer.inverts:
        keys = ["inversion_passes", "smooth_noise"]
        warnings += _unused(config, "transfer", keys, "nothing is inverted")
    return warnings


def memory_warnings(config: Config, device: str, placement: Placement) -> list[str]:
    """Settings of [memory] that have no effect on a device ("cpu" or "cuda")."""
    if device == "cpu":
        keys = ["vram_budget_gb", "activation_offload"]
        return _unused(config, "memory", keys, "no GPU computes here")
    if placement.blocks_to_swap == 0:
        return _unused(config, "memory", ["weights"], "every block stays on the GPU")
    return []


def choose_acceleration(
    config: Config, purpose: Purpose, device: str, masked: bool, layered: bool = False
) -> tuple[Acceleration, list[str]]:
    """The speed-ups that a run can use, and what of the settings has no effect in it.

    Args:
        masked: the base's attention is given a mask.
        layered: training recomputes layer by layer, where compiled blocks would share no code.

    Raises:
        UserError: these attention kernels cannot compute this base.
    """
    asked, notes, used = config.acceleration, list[str](), dict[str, object]()

    def ignored(key: str, reason: str) -> None:
        notes.extend(_unused(config, "acceleration", [key], reason))

    if asked.attention != "native" and device == "cpu":
        ignored("attention", "no GPU computes here")
        used["attention"] = "native"
    elif asked.attention in NO_BACKWARD and purpose == "train":
        ignored("attention", "it cannot compute gradients")
        used["attention"] = "native"
    elif asked.attention in NO_MASK and masked:
        raise UserError(
            f'[acceleration] attention: "{asked.attention}" takes no mask, and this base needs '
            f"one: use native, cudnn, xformers or flex"
        )
    if layered and asked.compile:
        ignored("compile", "training recomputes each layer alone")
        used["compile"] = False
    steps = config.inference.steps
    if purpose == "train":
        ignored("cache", "caches serve inference alone")
    elif asked.cache == "taylor" and steps <= WARM_UP:
        ignored("cache", f"inference.steps is {steps}, and it computes the first {WARM_UP}")
    if asked.cache != "first-block":
        ignored("cache_threshold", f'cache is "{asked.cache}"')
    if asked.cache != "taylor":
        ignored("cache_interval", f'cache is "{asked.cache}"')
    return asked.model_copy(update=used), notes


def _unused(config: Config, table: str, keys: list[str], reason: str) -> list[str]:
    """One line per key whose value differs from the default."""
    values: Table = getattr(config, table)
    defaults: Table = type(values)()
    return [
        f"{table}.{key} has no effect here: {reason}"
        for key in keys
        if getattr(values, key) != getattr(defaults, key)
    ]
