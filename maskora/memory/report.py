"""A plan in words and aligned columns."""

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from maskora.memory.plan import Host, Plan, lacking_ram
from maskora.memory.solver import Need
from maskora.streaming.placement import GIB, gb

LABEL, COLUMN = 34, 10
PHASES = ("train", "generate", "decode")
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
    lines += ["", *first.machine.notes, _budget(first)]
    lines += [*(f"{plan.job.purpose}: {plan.reason}" for plan in plans), _encoders(first)]
    if too_much := lacking_ram(max(plans, key=lambda plan: plan.ram_bytes)):
        lines.append(f"note: {too_much}")
    return "\n".join(lines)


def _budget(plan: Plan) -> str:
    if plan.budget is None:
        return "no GPU: VRAM limit ignored (memory.vram_budget_gb)"
    return f"budget {gb(plan.budget.nbytes)} GB: {plan.budget.description}"


def _title(plan: Plan) -> str:
    base, job = plan.base, plan.job
    parameters = base.parameters / 1e9
    counted = (
        f"{parameters:.3g} billion" if parameters > 0.1 else f"{parameters * 1000:.3g} million"
    )
    blocks = base.block_bytes(job.dtype, job.storage)
    up_to = "up to " if len(set(blocks)) > 1 else ""
    times = f"{base.experts} x " if base.experts > 1 else ""
    return (
        f"{base.name}: {times}{counted} parameters, {len(blocks)} blocks of "
        f"{up_to}{max(blocks) / 2**20:.3g} MB; {job.frames} frames of "
        f"{job.width}x{job.height} ({job.tokens(base, job.frames)} tokens), trained in windows "
        f"of {job.window} ({job.tokens(base, job.window)} tokens)"
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
