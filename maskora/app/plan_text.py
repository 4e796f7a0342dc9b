"""A plan in words and aligned columns."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from maskora.app import timings
from maskora.app.footprint import Host
from maskora.app.plan import Plan
from maskora.app.shards import NAMES, matrix_type
from maskora.app.workspace import Workspace
from maskora.config import Config
from maskora.files import cache_home
from maskora.models.registry import Source
from maskora.streaming.demand import GIB, Need, gb

LABEL, COLUMN = 34, 10
PHASES = ("train", "generate", "decode")
UNKNOWN = "unknown until the first step"
DEVICE_ROWS: list[tuple[str, Callable[[Need], int]]] = [
    ("weights of blocks that stay", lambda need: need.resident),
    ("ring of streamed blocks", lambda need: need.ring),
    ("other parameters", lambda need: need.others),
    ("LoRA, gradients, optimizer", lambda need: need.adapter),
    ("block inputs", lambda need: need.inputs),
    ("activations", lambda need: need.activations),
    ("held back for the allocator", lambda need: need.reserve),
    ("total", lambda need: need.total),
]
HOST_ROWS: list[tuple[str, Callable[[Host], int]]] = [
    ("computation (no GPU)", lambda part: part.computing),
    ("weights that wait", lambda part: part.weights),
    ("staging", lambda part: part.staging),
    ("block inputs that wait", lambda part: part.inputs),
    ("loading, at its largest", lambda part: part.loading),
    ("frames of the clip", lambda part: part.frames),
    ("Python and its libraries", lambda part: part.program),
    ("total", lambda part: part.total),
]
Part = TypeVar("Part", Need, Host)


def render(plans: Sequence[Plan]) -> str:
    """One or two plans as a table of their phases, and the choice below."""
    first = plans[0]
    lines = [_title(first), ""]
    if first.budget is not None:
        needs = _columns([plan.needs for plan in plans], lambda need: need.total)
        lines += _table(f"VRAM, GB (budget {gb(first.budget.nbytes)})", needs, DEVICE_ROWS)
        lines.append("")
    parts = _columns([plan.host for plan in plans], lambda part: part.total)
    lines += _table("RAM, GB", parts, HOST_ROWS)
    lines += ["", *first.machine.notes, _told_budget(first)]
    lines += [*(f"{plan.job.purpose}: {plan.reason}" for plan in plans), _encoders(first)]
    if too_much := lacking_ram(max(plans, key=lambda plan: plan.ram_bytes)):
        lines.append(f"note: {too_much}")
    return "\n".join(lines)


def _told_budget(plan: Plan) -> str:
    if plan.budget is None:
        return "no GPU: memory.vram_budget_gb is not enforced"
    return f"budget {gb(plan.budget.nbytes)} GB: {plan.budget.told}"


def lacking_ram(plan: Plan) -> str | None:
    """What to do where a plan takes more RAM than can be had; None where it does not."""
    ram, placement = plan.machine.ram, plan.placement
    if plan.ram_bytes <= ram.available:
        return None
    ways = ["end other programs"]
    if placement.weights != "mapped":
        ways.append('set memory.weights = "mapped", which leaves the weights on disk')
    if placement.storage == "same":
        ways.append('set model.transformer_dtype = "float8", which halves them')
    needed, instead = gb(plan.ram_bytes), ", or ".join(ways)
    return f"the plan takes {needed} GB of RAM, and {ram.description}: {instead}"


def _title(plan: Plan) -> str:
    sizes, job = plan.sizes, plan.job
    parameters = sizes.parameters["transformer"] / 1e9
    counted = (
        f"{parameters:.3g} billion" if parameters > 0.1 else f"{parameters * 1000:.3g} million"
    )
    blocks = sizes.block_bytes(job.dtype, job.storage)
    up_to = "up to " if len(set(blocks)) > 1 else ""
    times = f"{sizes.experts} x " if sizes.experts > 1 else ""
    return (
        f"{sizes.name}: {times}{counted} parameters, {len(blocks)} blocks of "
        f"{up_to}{max(blocks) / 2**20:.3g} MB; {job.frames} frames of "
        f"{job.width}x{job.height} ({job.tokens(sizes, job.frames)} tokens), trained in windows "
        f"of {job.window} ({job.tokens(sizes, job.window)} tokens)"
    )


def _columns(phases: Iterable[dict[str, Part]], size: Callable[[Part], int]) -> dict[str, Part]:
    """One column per phase; the encoders come one after another, so their largest stands for all.

    Two plans share the encoders; each phase's largest is shown.
    """
    columns: dict[str, Part] = {}
    for plan in phases:
        for name, part in plan.items():
            column = name if name in PHASES else "encode"
            if column not in columns or size(part) > size(columns[column]):
                columns[column] = part
    return {name: columns[name] for name in ("encode", *PHASES) if name in columns}


def _table(
    title: str, columns: dict[str, Part], rows: Sequence[tuple[str, Callable[[Part], int]]]
) -> list[str]:
    lines = [f"{title:<{LABEL}}" + "".join(f"{name:>{COLUMN}}" for name in columns)]
    for label, value in rows:
        cells = [value(part) for part in columns.values()]
        if any(cells):
            texts = [f"{cell / GIB:.2f}" if cell else "-" for cell in cells]
            lines.append(f"  {label:<{LABEL - 2}}" + "".join(f"{t:>{COLUMN}}" for t in texts))
    return lines


def _encoders(plan: Plan) -> str:
    totals = [
        f"{name} {gb(plan.needs[name].total if plan.budget else plan.host[name].total)}"
        for name in plan.needs
        if name not in PHASES
    ]
    return f"encode: the largest of {', '.join(totals)} GB, one after another"


def tell_disk(config: Config, found: Source, plan: Plan) -> str:
    """The base's files, and the copy that weights = "mapped" makes."""
    files = {path for part in found.parts() for path in found.paths(part)}
    held = sum(path.stat().st_size for path in files)
    lines = [f"disk: {found.where} has {gb(held)} GB"]
    kind, placement = matrix_type(found.paths("transformer")), plan.placement
    as_used = placement.storage == "same" and kind == NAMES[config.model.dtype]
    if kind is None:
        lines.append("the weights are not here yet")
    if placement.weights == "mapped" and placement.blocks_to_swap and not as_used:
        sizes, job = plan.sizes, plan.job
        copy = gb(sizes.experts * sum(sizes.block_bytes(job.dtype, job.storage)))
        unless = "" if kind else f" (none if they come in {config.model.dtype})"
        lines.append(f"a copy as it is used, {copy} GB, goes to {cache_home()}{unless}")
    return "; ".join(lines)


def tell_time(config: Config, workspace: Workspace, train: Plan, infer: Plan) -> str:
    """Seconds per step and for the whole edit, where this machine has measured them before."""
    motion, told_motion = _measured(train, train.job.window)
    anchored = config.appearance.conditioning == "anchored"
    keyframe, _ = _measured(train, 1 + train.sizes.grid.temporal if anchored else 1)
    generate, told_generate = _measured(infer, infer.job.frames)
    has_keyframes = workspace.edits_dir.is_dir() and bool(
        workspace.find_edits(None, train.job.frames).keyframes
    )
    share, appearance = config.appearance.motion_share, config.appearance.steps
    turns = train.sizes.experts
    parts: list[tuple[float, float | None]] = [
        (turns * config.motion.steps, motion),
        (config.inference.steps, generate),
    ]
    if has_keyframes:
        steps = turns * appearance
        parts += [(steps * (1 - share), keyframe), (steps * share, motion)]
    lines = [
        f"time on {train.machine.name}:",
        f"  training step of {train.job.window} frames: {told_motion}",
        f"  denoising step of {infer.job.frames} frames: {told_generate}",
        f"  whole edit: {_whole(parts)}",
    ]
    return "\n".join(lines)


def _measured(plan: Plan, frames: int) -> tuple[float | None, str]:
    """What a step on so many frames took here before, and in words."""
    key = plan.step_key(frames)
    if (seconds := timings.lookup(key)) is not None:
        return seconds, f"{seconds:.1f} s, as measured before"
    if (near := timings.neighbour(key)) is not None:
        return near[0], f"{near[0]:.1f} s, as measured with {near[1]} blocks swapped"
    return None, UNKNOWN


def _whole(parts: Sequence[tuple[float, float | None]]) -> str:
    total = 0.0
    for steps, seconds in parts:
        if seconds is None:
            return UNKNOWN
        total += steps * seconds
    return f"about {total / 60:.0f} minutes, without loading and encoding"
