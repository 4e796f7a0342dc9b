"""The doctor's page as text and as JSON, with what the machine can do by the planner's answer."""

import getpass
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskora import devices
from maskora.app import timings
from maskora.app.doctor.facts import Facts, Folder, Tool
from maskora.app.doctor.outcomes import Outcome
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config
from maskora.devices import BFLOAT16, Capability, Gpu
from maskora.errors import UserError
from maskora.memory.machine import Machine
from maskora.memory.plan import Plan, lacking_ram, memory_demand
from maskora.memory.profile import Published, published
from maskora.streaming.placement import gb

LABEL = 14  # columns
FLOAT8 = (8, 9)  # the compute capability from which on a GPU computes in it
# Settings that need less memory, as for --set, the cheapest first.
FLOAT8_WEIGHTS, MAPPED = "model.transformer_dtype=float8", "memory.weights=mapped"
LIGHTER = ((), (FLOAT8_WEIGHTS,), (MAPPED,), (FLOAT8_WEIGHTS, MAPPED))


def render_facts(facts: Facts) -> str:
    """The machine, and what maskora uses of it."""
    several = len(facts.gpus) > 1
    rows = [
        ("system", facts.system),
        ("Python", f"{facts.python}; maskora {facts.maskora}"),
        ("torch", facts.torch_build),
        ("processor", facts.processor),
        ("RAM", f"{gb(facts.ram.available)} of {gb(facts.ram.installed)} GB are available"),
        *(
            (f"GPU {index}" if several else "GPU", render_gpu(gpu))
            for index, gpu in enumerate(facts.gpus)
        ),
        *([] if facts.gpus else [("GPU", "none that NVIDIA's driver shows")]),
        ("cache", _render_folder(facts.cache)),
        ("hub cache", _render_folder(facts.hub)),
        *((tool.name, _render_tool(tool)) for tool in facts.tools),
    ]
    return "\n".join(["This machine", *(f"  {name:<{LABEL}}{text}" for name, text in rows)])


def render_gpu(gpu: Gpu) -> str:
    """A GPU in a line, and what keeps torch from using it in another."""
    memory = "its memory is not known"
    if gpu.free is not None and gpu.total is not None:
        memory = f"{gb(gpu.free)} of {gb(gpu.total)} GB are free"
    parts = [memory, f"driver {gpu.driver}"]
    if gpu.capability is not None:
        bfloat16 = "bfloat16" if gpu.capability >= BFLOAT16 else "no bfloat16"
        float8 = "float8" if gpu.capability >= FLOAT8 else "float8 only to store weights in"
        parts += [f"compute capability {devices.dotted(gpu.capability)}: {bfloat16}, {float8}"]
    lines = [f"{gpu.name}: {', '.join(parts)}"]
    if obstacle := devices.obstacle(gpu, devices.torch_build()):
        lines.append(f"{'':<{LABEL + 2}}BROKEN: {obstacle}")
    return "\n".join(lines)


def _render_folder(folder: Folder) -> str:
    return f"{folder.path}: {gb(folder.held)} GB; {gb(folder.free)} GB are free on its disk"


def _render_tool(tool: Tool) -> str:
    if tool.state == "broken":
        return f"BROKEN: {tool.message}\n{'':<{LABEL + 2}}what to do: {tool.advice}"
    return f"{tool.message} ({tool.advice})" if tool.state == "missing" else tool.message


def render_outcome(outcome: Outcome) -> str:
    """The outcome of a check, to stand behind its name."""
    state = outcome.state.upper() if outcome.state == "broken" else outcome.state
    seconds = "" if outcome.state == "skipped" else f" ({outcome.seconds:.1f} s)"
    lines = [f"{state}{seconds}: {outcome.message}"]
    lines += [f"    note: {note}" for note in outcome.notes]
    if outcome.advice:
        lines.append(f"    what to do: {outcome.advice}")
    return "\n".join(lines)


def render_problems(problems: Sequence[str]) -> str:
    """The end of the page."""
    return "\n  ".join(["To fix first", *problems]) if problems else "All is well."


# Bytes per second at which weights arrive, as far as measured: "bus" and "staged" from RAM to the
# GPU, out of pinned memory and out of other memory; "disk_read".
Speeds = Mapping[str, float]


@dataclass(frozen=True)
class Verdict:
    """The planner's answer for a base: does it fit the machine, and what does it take."""

    base: str
    fits: bool
    message: str


def render_verdicts(verdicts: Iterable[Verdict]) -> str:
    """The verdicts, a line or two each."""
    lines = ["What it can do"]
    for verdict in verdicts:
        first, *more = verdict.message.splitlines()
        lines += [f"  {verdict.base}: {first}", *(f"      {line}" for line in more)]
    return "\n".join(lines)


def verdicts(machine: Machine, speeds: Speeds) -> list[Verdict]:
    """The verdict on every published base."""
    return [verdict(name, base, machine, speeds) for name, base in published().items()]


def verdict(name: str, base: Published, machine: Machine, speeds: Speeds) -> Verdict:
    """By the first settings with which the base fits GPU and RAM, else by what is in the way."""
    refused, lacking = "", []
    old = machine.capability is not None and machine.capability < BFLOAT16
    precision = ["model.dtype=float16"] if old else []
    for changes in ([*precision, *lighter] for lighter in LIGHTER):
        try:
            train, infer = _plans(base, machine, changes)
        except UserError as error:
            refused = refused or re.split(r"\n|\. What would", str(error))[0]
            continue
        larger = max(train, infer, key=lambda plan: plan.ram_bytes)
        too_much = lacking_ram(larger)
        if too_much is None:
            return Verdict(name, True, _render_plans(train, infer, changes, speeds))
        lacking.append((larger.ram_bytes, too_much.partition(":")[0], changes))
    if not lacking:
        return Verdict(name, False, f"no: {refused}")
    _, least, changes = min(lacking)
    return Verdict(name, False, f"no: {least}{_with(changes)}")


def _plans(base: Published, machine: Machine, changes: list[str]) -> tuple[Plan, Plan]:
    """Of training and of inference. Raises UserError where one does not fit."""
    config, nowhere = build_config(base.settings, changes), Workspace(Path())
    train = plan_for(config, nowhere, None, base.profile, machine, "train")
    return train, plan_for(config, nowhere, None, base.profile, machine, "infer")


def _render_plans(train: Plan, infer: Plan, changes: list[str], speeds: Speeds) -> str:
    job = train.job
    return (
        f"{job.window} frames at {job.width}x{job.height} in {_memory(train)}{_with(changes)}: "
        f"{'yes' if train.machine.gpu else 'it fits, though there is no GPU'}; "
        f"{_seconds(train, job.window, speeds)}\n"
        f"then {job.frames} frames in {_memory(infer)}; {_seconds(infer, job.frames, speeds)}"
    )


def _with(changes: list[str]) -> str:
    return f" with {', '.join(changes)}" if changes else ""


def _memory(plan: Plan) -> str:
    on_gpu = f"{gb(plan.vram_bytes)} GB of VRAM and " if plan.machine.gpu is not None else ""
    return f"{on_gpu}{gb(plan.ram_bytes)} GB of RAM"


def _seconds(plan: Plan, frames: int, speeds: Speeds) -> str:
    """Of a step: as it was measured here, else at least what its weights take to arrive."""
    key = plan.step_key(frames)
    measured = timings.lookup(key)
    if measured is None and (near := timings.neighbour(key)) is not None:
        measured = near[0]  # with nearly as many blocks swapped
    if measured is not None:
        return f"about {measured:.1f} s a step, as measured before"
    speed, placement = _slowest(plan, speeds), plan.placement
    blocks = memory_demand(plan.base, plan.job).blocks
    moved = blocks.moved(placement.blocks_to_swap, placement.ring) * plan.job.accumulation
    if plan.machine.gpu is None or not moved or speed is None:
        return "seconds a step: unknown until the first"
    return f"at least {moved / speed:.1f} s a step, which its weights take to arrive"


def _slowest(plan: Plan, speeds: Speeds) -> float | None:
    """The slowest part of the way that a plan's weights take; None where one was not measured."""
    bus = "bus" if "bus" in speeds else "staged"
    parts = {"pinned": [bus], "pageable": ["staged"], "mapped": ["staged", "disk_read"]}
    needed = parts[plan.placement.weights]
    return min(speeds[part] for part in needed) if speeds.keys() >= set(needed) else None


# A path of Linux and macOS, or of Windows, where a folder's name with spaces is known by the
# backslash behind it; not an address (https://...), nor an id of the hub.
WORD = r"[^\s'\"<>|:;,()\\/]+"
PATH = re.compile(
    rf"(?<![\w/])(?:~|[A-Za-z]:)?(?:\\+|/)(?!/)(?:{WORD}(?: {WORD})*\\+|{WORD}[\\/]*)+"
)


def report(
    facts: Facts, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Everything on the page and more numbers, for a bug report: without names and paths."""
    machine = asdict(facts) | {
        "gpus": [_gpu_entry(gpu) for gpu in facts.gpus],
        "tools": [_entry(tool) for tool in facts.tools],
    }
    for folder in ("cache", "hub"):
        del machine[folder]["path"]
    content: dict[str, Any] = scrubbed(
        {
            "machine": machine,
            "checks": [_entry(outcome) for outcome in outcomes],
            "bases": [_entry(verdict) for verdict in verdicts],
        },
        _own_folders(),
        _own_names(),
    )
    return content


def _entry(thing: Tool | Outcome | Verdict) -> dict[str, Any]:
    """Its fields; a message is called "told" in reports."""
    return {"told" if name == "message" else name: it for name, it in asdict(thing).items()}


def _gpu_entry(gpu: Gpu) -> dict[str, Any]:
    def reaches(least: Capability) -> bool | None:
        return None if gpu.capability is None else gpu.capability >= least

    return {
        "name": gpu.name,
        "total": gpu.total,
        "free": gpu.free,
        "capability": None if gpu.capability is None else devices.dotted(gpu.capability),
        "bfloat16": reaches(BFLOAT16),
        "float8": reaches(FLOAT8),
        "driver": gpu.driver,
        "obstacle": devices.obstacle(gpu, devices.torch_build()) or "",
    }


def _own_folders() -> list[str]:
    """Folders that a message may name, the longest first."""
    places = [Path.home(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir())]
    texts = {text for place in places for text in (str(place), str(place.resolve()))}
    anchors = {place.anchor for place in places}
    return sorted(texts - anchors, key=len, reverse=True)


def _own_names() -> list[str]:
    """The names of the person and of the machine."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError, ImportError):  # a number without a name, as in some containers
        user = ""
    return [name for name in (user, Path.home().name, platform.node()) if name]


def scrubbed(content: Any, folders: Sequence[str], names: Sequence[str]) -> Any:
    """The same lists, dicts and numbers, with texts that hold no folder, no path and no name."""
    if isinstance(content, dict):
        return {key: scrubbed(value, folders, names) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [scrubbed(value, folders, names) for value in content]
    if not isinstance(content, str):
        return content
    for folder in folders:  # also with what a pattern cannot know, as a space
        # With either slash, with doubled ones as Python quotes them, in capitals or not.
        parts = (re.escape(part) for part in re.split(r"[\\/]+", folder))
        content = re.sub(r"[\\/]+".join(parts), "/folder", content, flags=re.IGNORECASE)
    content = PATH.sub("<path>", content)
    for name in names:
        content = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", content)
    return content
