"""A doctor's page as JSON for a bug report: nothing in it tells who the person is."""

import getpass
import platform
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskora.app import timings
from maskora.app.doctor.facts import Facts, Folder, Gpu, Tool
from maskora.app.doctor.outcomes import Outcome
from maskora.app.plan import plan_for
from maskora.app.workspace import Workspace
from maskora.config import build_config
from maskora.devices import BFLOAT16
from maskora.errors import UserError
from maskora.memory.machine import Machine
from maskora.memory.plan import Plan, lacking_ram, memory_demand
from maskora.memory.profile import Published, published
from maskora.streaming.placement import gb

# What helps where memory is short, what costs least first.
FLOAT8, MAPPED = "model.transformer_dtype=float8", "memory.weights=mapped"
ROOM = ((), (FLOAT8,), (MAPPED,), (FLOAT8, MAPPED))


@dataclass(frozen=True)
class Speeds:
    """Measured bytes per second by which weights come; None for what was not measured.

    Attributes:
        pinned, staged: from RAM to the GPU.
        disk: from the disk.
    """

    pinned: float | None = None
    staged: float | None = None
    disk: float | None = None


@dataclass(frozen=True)
class Verdict:
    """Whether a base fits a machine, and what it takes, in words."""

    base: str
    fits: bool
    told: str


def verdicts(machine: Machine, speeds: Speeds) -> list[Verdict]:
    """Of every published base."""
    return [verdict(name, base, machine, speeds) for name, base in published().items()]


def verdict(name: str, base: Published, machine: Machine, speeds: Speeds) -> Verdict:
    """The first way to set a base up that fits the GPU and the RAM, else what is in the way."""
    refused, lacking = "", []
    for changes in ways(machine):
        try:
            train, infer = plans(base, machine, changes)
        except UserError as error:
            refused = refused or re.split(r"\n|\. What would", str(error))[0]
            continue
        larger = max(train, infer, key=lambda plan: plan.ram_bytes)
        too_much = lacking_ram(larger)
        if too_much is None:
            return Verdict(name, True, told(train, infer, changes, speeds))
        lacking.append((larger.ram_bytes, too_much.partition(":")[0], changes))
    if not lacking:
        return Verdict(name, False, f"no: {refused}")
    _, least, changes = min(lacking)
    return Verdict(name, False, f"no: {least}{with_(changes)}")


def ways(machine: Machine) -> Iterator[list[str]]:
    """Changes to a configuration, as for --set; none first."""
    old = machine.capability is not None and machine.capability < BFLOAT16
    precision = ["model.dtype=float16"] if old else []
    yield from ([*precision, *room] for room in ROOM)


def plans(base: Published, machine: Machine, changes: list[str]) -> tuple[Plan, Plan]:
    """Of training and of inference. Raises UserError where one does not fit."""
    config, nowhere = build_config(deepcopy(base.settings), changes), Workspace(Path())
    train = plan_for(config, nowhere, None, base.profile, machine, "train")
    return train, plan_for(config, nowhere, None, base.profile, machine, "infer")


def told(train: Plan, infer: Plan, changes: list[str], speeds: Speeds) -> str:
    """Training and inference in two lines."""
    job = train.job
    return (
        f"{job.window} frames at {job.width}x{job.height} in {memory(train)}{with_(changes)}: "
        f"{'yes' if train.machine.gpu else 'it fits, though there is no GPU'}; "
        f"{seconds(train, job.window, speeds)}\n"
        f"then {job.frames} frames in {memory(infer)}; {seconds(infer, job.frames, speeds)}"
    )


def with_(changes: list[str]) -> str:
    """Changes in words."""
    return f" with {', '.join(changes)}" if changes else ""


def memory(plan: Plan) -> str:
    """What a plan takes of it, in words."""
    on_gpu = f"{gb(plan.vram_bytes)} GB of VRAM and " if plan.machine.gpu is not None else ""
    return f"{on_gpu}{gb(plan.ram_bytes)} GB of RAM"


def seconds(plan: Plan, frames: int, speeds: Speeds) -> str:
    """Of a step: as it was measured here, else at least what its weights take to come."""
    key = plan.step_key(frames)
    measured = timings.lookup(key)
    if measured is None and (near := timings.neighbour(key)) is not None:
        measured = near[0]  # with nearly as many blocks swapped
    if measured is not None:
        return f"about {measured:.1f} s a step, as measured before"
    speed, placement = slowest(plan, speeds), plan.placement
    blocks = memory_demand(plan.base, plan.job).blocks
    moved = blocks.moved(placement.blocks_to_swap, placement.ring) * plan.job.accumulation
    if plan.machine.gpu is None or not moved or speed is None:
        return "seconds a step: unknown until the first"
    return f"at least {moved / speed:.1f} s a step, which its weights take to come"


def slowest(plan: Plan, speeds: Speeds) -> float | None:
    """The slowest part of the way that a plan's weights take; None where one was not measured."""
    bus = speeds.staged if speeds.pinned is None else speeds.pinned
    way = {
        "pinned": [bus], "pageable": [speeds.staged], "mapped": [speeds.staged, speeds.disk],
    }[plan.placement.weights]  # fmt: skip
    known = [speed for speed in way if speed is not None]
    return min(known) if len(known) == len(way) else None


LABEL = 14


def told_facts(facts: Facts) -> str:
    """The machine, and what maskora uses of it."""
    rows = [
        ("system", facts.system),
        ("Python", f"{facts.python}; maskora {facts.maskora}"),
        ("torch", facts.torch_build),
        ("processor", facts.processor),
        ("RAM", f"{gb(facts.ram.available)} of {gb(facts.ram.installed)} GB are available"),
        *_gpus(facts.gpus),
        ("cache", _folder(facts.cache)),
        ("hub cache", _folder(facts.hub)),
        *((tool.name, told_tool(tool)) for tool in facts.tools),
    ]
    return "\n".join(["This machine", *(f"  {name:<{LABEL}}{told}" for name, told in rows)])


def _gpus(gpus: Sequence[Gpu]) -> list[tuple[str, str]]:
    if not gpus:
        return [("GPU", "none that NVIDIA's driver shows")]
    many = len(gpus) > 1
    return [(f"GPU {index}" if many else "GPU", told_gpu(gpu)) for index, gpu in enumerate(gpus)]


def told_gpu(gpu: Gpu) -> str:
    """A GPU in a line."""
    memory = (
        f"{gb(gpu.free)} of {gb(gpu.total)} GB are free"
        if gpu.free is not None and gpu.total is not None
        else "its memory is not told"
    )
    parts = [memory, f"driver {gpu.driver}"]
    if gpu.capability is not None:
        bfloat16 = "" if gpu.bfloat16 else "no "
        float8 = "float8" if gpu.float8 else "float8 only to store weights in"
        parts += [f"compute capability {gpu.capability}: {bfloat16}bfloat16, {float8}"]
    told = f"{gpu.name}: {', '.join(parts)}"
    return f"{told}\n{'':<{LABEL + 2}}BROKEN: {gpu.obstacle}" if gpu.obstacle else told


def _folder(folder: Folder) -> str:
    return f"{folder.path}: {gb(folder.held)} GB; {gb(folder.free)} GB are free on its disk"


def told_tool(tool: Tool) -> str:
    """A tool in a line or two."""
    if tool.state == "ok":
        return tool.told
    if tool.state == "missing":
        return f"{tool.told} ({tool.advice})"
    return f"BROKEN: {tool.told}\n{'':<{LABEL + 2}}what to do: {tool.advice}"


def told_outcome(outcome: Outcome) -> str:
    """What came of a check, to stand behind its name."""
    seconds = "" if outcome.state == "skipped" else f" ({outcome.seconds:.1f} s)"
    lines = [f"{told_state(outcome)}{seconds}: {outcome.told}"]
    lines += [f"    note: {note}" for note in outcome.notes]
    if outcome.advice:
        lines.append(f"    what to do: {outcome.advice}")
    return "\n".join(lines)


def told_state(outcome: Outcome) -> str:
    """A state as it is shown: what is broken stands out."""
    return outcome.state.upper() if outcome.state == "broken" else outcome.state


def told_verdicts(verdicts: Iterable[Verdict]) -> str:
    """What the machine can do."""
    lines = ["What it can do"]
    for verdict in verdicts:
        first, *more = verdict.told.splitlines()
        lines += [f"  {verdict.base}: {first}", *(f"      {line}" for line in more)]
    return "\n".join(lines)


def told_problems(problems: Sequence[str]) -> str:
    """The end of the page."""
    if not problems:
        return "All is well."
    return "\n".join(["To mend first", *(f"  {problem}" for problem in problems)])


# A path of Linux and macOS, or of Windows, where a folder's name with spaces is known by the
# backslash behind it; not an address (https://...), nor an id of the hub.
WORD = r"[^\s'\"<>|:;,()\\/]+"
PATH = re.compile(
    rf"(?<![\w/])(?:~|[A-Za-z]:)?(?:\\+|/)(?!/)(?:{WORD}(?: {WORD})*\\+|{WORD}[\\/]*)+"
)


def report(
    facts: Facts, outcomes: Sequence[Outcome], verdicts: Sequence[Verdict]
) -> dict[str, Any]:
    """Everything that the page says, and more numbers; without names and paths."""
    machine = asdict(facts)
    for folder in ("cache", "hub"):
        del machine[folder]["path"]
    told: dict[str, Any] = scrubbed(
        {
            "machine": machine,
            "checks": [asdict(outcome) for outcome in outcomes],
            "bases": [asdict(verdict) for verdict in verdicts],
        },
        folders(),
        names(),
    )
    return told


def folders() -> list[str]:
    """Folders of which a message may tell, the longest first."""
    places = [Path.home(), Path.cwd(), Path(sys.prefix), Path(tempfile.gettempdir())]
    texts = {text for place in places for text in (str(place), str(place.resolve()))}
    anchors = {place.anchor for place in places}
    return sorted(texts - anchors, key=len, reverse=True)


def names() -> list[str]:
    """What the person and the machine are called."""
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
        content = _in_any_spelling(folder).sub("/folder", content)
    content = PATH.sub("<path>", content)
    for name in names:
        content = re.sub(rf"(?<!\w){re.escape(name)}(?!\w)", "<name>", content)
    return content


def _in_any_spelling(folder: str) -> re.Pattern[str]:
    """A folder with either slash, with doubled ones as Python quotes them, in capitals or not."""
    parts = (re.escape(part) for part in re.split(r"[\\/]+", folder))
    return re.compile(r"[\\/]+".join(parts), re.IGNORECASE)
