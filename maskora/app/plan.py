"""plan: what a run will take of VRAM, RAM, disk and time, before anything heavy starts.

Arithmetic on the base's memory profile. Imports no torch, unless the base is a new one that has to
be measured first.
"""

import importlib.util
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from maskora.app import timings
from maskora.app.workspace import Source, Workspace
from maskora.config import Config, parse_size
from maskora.config.tables import Inference, Motion, Transfer
from maskora.devices import BFLOAT16, DeviceKind, dotted
from maskora.errors import UserError
from maskora.files import cache_home
from maskora.memory.machine import Machine, foreseen
from maskora.memory.plan import Plan, PreviewClip, Purpose, Workload, plan_run
from maskora.memory.profile import Profile, read_profile
from maskora.memory.report import render
from maskora.method.segments import Segment, plan_segments, whole
from maskora.models.files.model_files import resolve_base
from maskora.models.registry import ModelFiles
from maskora.streaming.header import read_header
from maskora.streaming.placement import gb

CONFIGS = ["model_index.json", "config.json", "*/config.json"]
COLOURINGS = 6  # orders of three channels, with motion.augment
PURPOSES: tuple[Purpose, ...] = ("train", "infer")
TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}  # as safetensors call them
UNKNOWN = "unknown until the first step"
PREVIEW_STEPS = 12  # half as many lose much, twice as many gain little (docs/transfer.md)
SMALLEST = 12  # tokens along the shorter side of a preview: 192 pixels, on most bases
PREVIEW_SCALE = 0.5  # of the workspace's sides
LONG = 1000  # frames of a clip that has not been looked at, and is taken whole


@dataclass(frozen=True)
class TimePart:
    """Steps of one kind that an edit takes.

    Attributes:
        task: motion, appearance, preview or denoise.
        steps: how many.
        seconds: that one takes here; None where that was never measured.
    """

    task: str
    steps: float
    seconds: float | None


def plan_for(
    config: Config,
    workspace: Workspace,
    source: Source | None,
    found: ModelFiles | Profile,
    machine: Machine,
    purpose: Purpose,
) -> Plan:
    """How a run will lie in memory.

    Args:
        source: the prepared clip; None plans with [video].
        found: the base's parts, of which only the configuration files are read, or its profile.
        machine: where it runs; without a GPU no budget is enforced.

    Raises:
        UserError: it does not fit the budget (and what would), more blocks are to be swapped than
            there are, or the GPU has no kernels for the precision.
    """
    check_precision(config, machine)
    check_transfer(config)
    base = found
    if not isinstance(base, Profile):
        base = read_profile(config.model.family, base, config.model.dtype, config.adapter.targets)
    check_blocks(config.transfer, len(base.block_bytes(config.model.dtype, config.model.storage)))
    job = workload_of(config, workspace, source, purpose, machine.kind, base)
    return plan_run(base, job, machine, config.memory)


def check_transfer(config: Config) -> None:
    """What skips or has compiled blocks lets nothing be taken in them. Raises UserError."""
    asked = config.acceleration
    if config.transfer.takes and (asked.cache != "none" or asked.compile):
        key = "compile" if asked.compile else "cache"
        raise UserError(
            f"[acceleration] {key} cannot be used while [transfer] takes attention or features of "
            f"the source in some steps: turn one of them off"
        )


def check_blocks(transfer: Transfer, count: int) -> None:
    """Raises UserError where [transfer] chooses none of a base's blocks."""
    chosen = {
        "attention_blocks": transfer.attention_blocks if transfer.attention != "none" else (0, 1),
        "features_blocks": transfer.features_blocks if transfer.features_share else (0, 1),
    }
    for key, (first, last) in chosen.items():
        if round(first * count) == round(last * count):
            raise UserError(
                f"[transfer] {key}: {first:g} to {last:g} of the depth is none of this base's "
                f"{count} blocks: choose more of them"
            )


def check_precision(config: Config, machine: Machine) -> None:
    """Raises UserError where a GPU has no attention kernels for model.dtype."""
    known = machine.capability
    if config.model.dtype == "bfloat16" and known is not None and known < BFLOAT16:
        raise UserError(
            f"{machine.name} has compute capability {dotted(known)}, and bfloat16 needs "
            f"{dotted(BFLOAT16)}: below that, bfloat16 leaves PyTorch only the math attention, "
            f"which keeps gigabytes of scores. What would do:\n"
            f'  model.dtype = "float16" (training then scales its loss by a fixed factor)\n'
            f"  a newer GPU: GeForce RTX 30, say"
        )


def workload_of(
    config: Config,
    workspace: Workspace,
    source: Source | None,
    purpose: Purpose,
    device: DeviceKind,
    base: Profile,
) -> Workload:
    """The numbers of a run, from the prepared clip or, before that, from [video]."""
    width, height = source.size if source else _planned_size(config, base.grid.multiple)
    clip = frames_of(config, source)
    window = config.motion.window_length(clip)
    windows = -(-(clip - window) // config.motion.stride) + 1
    is_8bit = config.optimizer.type == "adamw8bit" and device == "cuda"
    is_8bit = is_8bit and importlib.util.find_spec("bitsandbytes") is not None
    guided = config.inference.guidance > 1 and not base.embeds_guidance
    further = [workspace.root / Path(lora.path).expanduser() for lora in config.inference.loras]
    frames = min(whole(clip), config.inference.segment_length(clip))
    looks = _looks(config, (width, height), frames, 1 + guided, base)
    return Workload(
        purpose=purpose,
        frames=frames,
        width=width,
        height=height,
        window=window,
        windows=windows * variants(config.motion),
        batch=1 + guided + config.transfer.takes if purpose == "infer" else 1,
        rank=config.adapter.rank,
        targets=config.adapter.targets,
        dtype=config.model.dtype,
        storage=config.model.storage,
        offload=purpose == "train" and device == "cuda" and config.memory.activation_offload,
        optimizer=2 if is_8bit else 8,
        accumulation=config.training.gradient_accumulation_steps if purpose == "train" else 1,
        acceleration=config.acceleration,
        waiting=config.transfer.waiting if purpose == "infer" else 0,
        further_loras=sum(map(adapter_values, further)) if purpose == "infer" else 0,
        look=looks if purpose == "train" else None,
    )


def frames_of(config: Config, source: Source | None) -> int:
    """Of the prepared clip or, before that, as [video] has it: of "all" a segment's."""
    if source is not None:
        return source.frames
    frames = config.video.frames
    return config.inference.segment_length(LONG) if frames == "all" else frames


def variants(motion: Motion) -> int:
    """How many samples are made of each window."""
    return motion.masks_per_window * (1 if motion.augment == "none" else COLOURINGS)


def _planned_size(config: Config, multiple: int) -> tuple[int, int]:
    """[video] size on the base's grid; the area of an automatic one as if it were the size."""
    text = config.video.size
    text = (text.partition(":")[2] or "832x480") if config.video.is_auto else text
    width, height = (max(1, side // multiple) * multiple for side in parse_size(text))
    return width, height


def preview_size(size: tuple[int, int], scale: float, multiple: int) -> tuple[int, int]:
    """A share of a (width, height) on the base's grid; what is small stays as large as it is.

    Args:
        multiple: which both sides are multiples of.
    """
    scale = max(scale, min(1.0, SMALLEST * multiple / min(size)))
    width, height = (round(side * scale / multiple) * multiple for side in size)
    return width, height


def preview_steps(config: Config) -> int:
    """Denoising steps of a preview: few, and no more than are configured."""
    return min(PREVIEW_STEPS, config.inference.steps)


def _looks(
    config: Config, size: tuple[int, int], frames: int, rows: int, base: Profile
) -> PreviewClip | None:
    """What training shows now and then; None where it shows nothing.

    Args:
        frames: of the first segment.
        rows: that denoise together.
    """
    if not config.training.preview_every or base.experts > 1:
        return None
    return PreviewClip(*preview_size(size, PREVIEW_SCALE, base.grid.multiple), frames, rows)


def adapter_values(path: Path) -> int:
    """How many values a LoRA file holds."""
    return sum(prod(tensor.shape) for tensor in read_header(path).values())


def matrix_type(paths: list[Path]) -> str | None:
    """In which type a model part's matrices are stored, as "BF16"; None without safetensors."""
    shard = next((path for path in paths if path.suffix == ".safetensors"), None)
    if shard is None:
        return None
    matrices = [tensor for tensor in read_header(shard).values() if len(tensor.shape) == 2]
    largest = max(matrices, key=lambda tensor: prod(tensor.shape), default=None)
    return None if largest is None else largest.kind


def describe_plan(
    config: Config,
    workspace: Workspace,
    device: str | None,
    vram: float | None = None,
    edit: str | None = None,
) -> Iterator[str]:
    """The plan of training and of inference, for people, line by line.

    Args:
        device, vram: --device and --vram.
        edit: whose edited frames count.

    Raises:
        UserError: either cannot fit.
    """
    machine = foreseen(device, vram)
    source = workspace.read_source() if workspace.source_record.is_file() else None
    found = resolve_base(config.model, workspace.root, CONFIGS)
    plans = _plans(config, workspace, source, found, machine)
    if source is None:
        yield f"{workspace.root} is not prepared yet: planned with [video] of the configuration"
    yield render(plans)
    is_known = source is not None or config.video.frames != "all"
    edited = edited_numbers(workspace, edit, frames_of(config, source)) if is_known else []
    segments = clip_segments(config, source, edited)
    disk = _disk_parts(config, found, plans[0])
    if len(segments) > 1:
        job = plans[-1].job
        size = job.width * job.height * 3 * frames_of(config, source)
        where = f"{workspace.cache_dir} while it is generated"
        disk.append(f"{gb(size)} GB of frames per seed wait in {where}")
    yield f"disk: {'; '.join(disk)}"
    yield from _time_lines(config, plans, edited, len(segments))


def plan_times(
    config: Config, workspace: Workspace, edit: str | None, device: str | None = None
) -> list[TimePart]:
    """How long each part of an edit takes on this machine. Arguments and errors as `describe_plan`.

    Args:
        edit: whose edited frames count.
    """
    source = workspace.read_source()
    found = resolve_base(config.model, workspace.root, CONFIGS)
    plans = _plans(config, workspace, source, found, foreseen(device))
    edited = edited_numbers(workspace, edit, source.frames)
    segments = len(clip_segments(config, source, edited))
    return _time_parts(config, plans, edited, segments)


def planned_ram(config: Config, workspace: Workspace, device: str | None) -> int:
    """Bytes of RAM that a prepared edit takes. Arguments and errors as `describe_plan`."""
    found = resolve_base(config.model, workspace.root, CONFIGS)
    plans = _plans(config, workspace, workspace.read_source(), found, foreseen(device))
    return max(plan.ram_bytes for plan in plans)


def _plans(
    config: Config, workspace: Workspace, source: Source | None, found: ModelFiles, machine: Machine
) -> list[Plan]:
    """The plan of each purpose that the configuration has. Raises UserError with every refusal."""
    plans, refusals = [], []
    purposes = PURPOSES if config.inference.lora == "trained" else ("infer",)
    for purpose in purposes:
        try:
            plans.append(plan_for(config, workspace, source, found, machine, purpose))
        except UserError as error:
            refusals.append(str(error))
    if refusals:
        raise UserError("\n".join(dict.fromkeys(refusals)))
    return plans


def _disk_parts(config: Config, found: ModelFiles, plan: Plan) -> list[str]:
    """The base's files, and the copy that weights = "mapped" makes."""
    files = {path for part in found.parts() for path in found.paths(part)}
    held = sum(path.stat().st_size for path in files)
    lines = [f"{found.where} has {gb(held)} GB"]
    kind, placement = matrix_type(found.paths("transformer")), plan.placement
    as_used = placement.storage == "same" and kind == TYPES[config.model.dtype]
    if kind is None:
        lines.append("the weights are not here yet")
    if placement.weights == "mapped" and placement.blocks_to_swap and not as_used:
        base, job = plan.base, plan.job
        copy = gb(base.experts * sum(base.block_bytes(job.dtype, job.storage)))
        unless = "" if kind else f" (none if they come in {config.model.dtype})"
        lines.append(f"a copy as it is used, {copy} GB, goes to {cache_home()}{unless}")
    return lines


def _time_lines(
    config: Config, plans: list[Plan], edited: Sequence[int], segments: int
) -> list[str]:
    """Seconds per step and for the whole edit, where this machine has measured them before.

    Args:
        plans: of training, where something is trained, and of inference.
        edited: numbers of the edited frames.
        segments: in how many the clip is generated.
    """
    *train, infer = plans
    _, told = _measured(infer.step_key(infer.job.frames))
    lines = list[str]()
    again = f", {segments} segments of {config.inference.steps} steps" if segments > 1 else ""
    for plan in train:
        _, told_motion = _measured(plan.step_key(plan.job.window))
        lines.append(f"  training step of {plan.job.window} frames: {told_motion}")
        if (look := plan.job.look) is not None:
            size = f"{look.frames} frames of {look.width}x{look.height}"
            _, told_look = _measured(plan.look_key(look))
            lines.append(f"  denoising step of a preview, {size}: {told_look}")
    seconds = planned_seconds(config, plans, edited, segments)
    whole = UNKNOWN
    if seconds is not None:
        whole = f"about {seconds / 60:.0f} minutes, without loading and encoding"
    return [
        f"time on {infer.machine.name}:",
        *lines,
        f"  denoising step of {infer.job.frames} frames: {told}{again}",
        f"  whole edit: {whole}",
    ]


def planned_seconds(
    config: Config, plans: Sequence[Plan], edited: Sequence[int], segments: int
) -> float | None:
    """How long the steps of a whole edit take; None where one was not measured here.

    Args:
        plans: of training, where something is trained, and of inference.
        edited: numbers of the edited frames.
        segments: in how many the clip is generated.
    """
    total = 0.0
    for part in _time_parts(config, plans, edited, segments):
        if part.seconds is None and part.steps:
            return None
        total += part.steps * (part.seconds or 0.0)
    return total


def _time_parts(
    config: Config, plans: Sequence[Plan], edited: Sequence[int], segments: int
) -> list[TimePart]:
    """All steps of an edit, in the order in which they are taken. Arguments as `_time_lines`."""
    *train, infer = plans
    generate, _ = _measured(infer.step_key(infer.job.frames))
    steps = segments * config.inference.steps
    denoised = steps * (1 + _inversion(config, infer.job.batch))
    parts = [part for plan in train for part in _training_parts(config, edited, plan)]
    return [*parts, TimePart("denoise", denoised, generate)]


def _training_parts(config: Config, edited: Sequence[int], train: Plan) -> list[TimePart]:
    """The steps of both stages, and of the previews that are made between them."""
    motion, _ = _measured(train.step_key(train.job.window))
    turns, share = train.base.experts, config.appearance.motion_share
    parts = [TimePart("motion", float(turns * config.motion.steps), motion)]
    parts += _look_parts(config, train, config.motion.steps)
    if not any(edited):
        return parts
    anchored = config.appearance.conditioning == "anchored"
    keyframe, _ = _measured(train.step_key(1 + train.base.grid.temporal if anchored else 1))
    steps = turns * config.appearance.steps
    return [
        *parts,
        TimePart("appearance", steps * (1 - share), keyframe),
        TimePart("appearance", steps * share, motion),
        *_look_parts(config, train, config.appearance.steps),
    ]


def _look_parts(config: Config, train: Plan, steps: int) -> list[TimePart]:
    """The previews of a stage of so many steps."""
    if (look := train.job.look) is None:
        return []
    seconds, _ = _measured(train.look_key(look))
    count = steps // config.training.preview_every
    return [TimePart("preview", float(count * preview_steps(config)), seconds)]


def edited_numbers(workspace: Workspace, edit: str | None, frames: int) -> list[int]:
    """The numbers of an edit's frames that are there by now.

    Args:
        frames: how many the clip has.

    Raises:
        UserError: the edit's folder holds what is no frame of the clip.
    """
    from maskora.app.edits import find_edits  # which needs libraries that the doctor looks at

    there = workspace.edit_dir(edit).is_dir()
    return sorted(find_edits(workspace, edit, frames).images) if there else []


def clip_segments(config: Config, source: Source | None, edited: Iterable[int]) -> list[Segment]:
    """The segments of the prepared clip or, before that, of one as [video] has it.

    Args:
        edited: numbers of the frames that are edited by now; the first one will be.
    """
    cuts = source.shot_starts if source else []
    return segments_of(config.inference, frames_of(config, source), {0, *edited}, cuts)


def segments_of(
    inference: Inference, frames: int, edited: Iterable[int], cuts: Iterable[int]
) -> list[Segment]:
    """The segments in which a clip is generated.

    Args:
        frames: how many it has.
        edited: numbers of its edited frames, with 0.
        cuts: numbers of the frames at which its shots begin, but the first.
    """
    return plan_segments(
        frames, edited, cuts, segment=inference.segment_length(frames),
        overlap=inference.shared(frames),
        anchored=inference.anchor,
    )  # fmt: skip


def _inversion(config: Config, rows: int) -> float:
    """How long inverting the source takes, in times of the denoising, which has more rows."""
    return config.transfer.inversion_passes / rows if config.transfer.inverts else 0.0


def _measured(key: str) -> tuple[float | None, str]:
    """What such a step took here before, and in words."""
    if (seconds := timings.lookup(key)) is not None:
        return seconds, f"{seconds:.1f} s, as measured before"
    if (near := timings.neighbour(key)) is not None:
        return near[0], f"{near[0]:.1f} s, as measured with {near[1]} blocks swapped"
    return None, UNKNOWN
