"""A doctor's page: facts, outcomes and verdicts as a person reads them. Pure functions of them."""

from collections.abc import Iterable, Sequence

from maskora.commands.doctor_bases import Verdict
from maskora.commands.doctor_facts import Facts, Folder, Gpu, Tool
from maskora.commands.doctor_outcomes import Outcome
from maskora.streaming.demand import gb

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
