"""The results of benchmarks/memory.py as Markdown; needs no torch."""

import statistics
from typing import Any

GIB, GB = 2**30, 1e9
COLUMNS = (
    "case", "placement", "outcome", "peak VRAM", "planned", "reserved", "peak RAM", "planned",
    "s/step", "GB/step", "resident s/step", "ratio",
)  # fmt: skip


def markdown(results: dict[str, Any]) -> str:
    """A document with the machine, one row per case, and one table of phases per case."""
    machine, settings = results["machine"], results["settings"]
    bandwidth = machine["bandwidth"] or machine["staged_bandwidth"]
    lines = [
        "# Memory and speed",
        "",
        f"- machine: {_machine(machine)}",
        f"- host to device: {_bandwidths(machine)}",
        f"- transformer: {results['model']['layers']} blocks, "
        f"{results['model']['stored_bytes'] / GB:.2f} GB on disk",
        f"- {settings['size'][0]}x{settings['size'][1]} pixels, {settings['dtype']}, LoRA rank "
        f"{settings['rank']}, median of {settings['steps']} steps after a warm-up, "
        + (f"held to a GPU of {settings['cap_gb']} GB" if settings["cap_gb"] else "no cap"),
        "",
        *_table(COLUMNS, [_row(case, bandwidth) for case in results["cases"]]),
        "",
        "Memory is in GB of 2^30 bytes, what is moved in GB of 10^9.",
    ]
    for case in results["cases"]:
        lines += ["", f"## {case['case']}, {_placement(case)}", ""]
        lines += _table(
            ("phase", "seconds", "peak VRAM", "reserved", "RAM before", "peak RAM"),
            [
                (
                    phase["name"], f"{phase['seconds']:.2f}", _gib(phase["peak_allocated"]),
                    _gib(phase["peak_reserved"]), _gib(phase["host_before"]),
                    _gib(phase["peak_host"]),
                )
                for phase in case["phases"]
            ],
        )  # fmt: skip
        if case["plan"]:
            lines += ["", f"Plan: {case['plan']['reason']}."]
        if case["resident"]:
            lines += ["", f"Resident: {case['resident']['blocks']}: {case['resident']['outcome']}."]
    return "\n".join(lines) + "\n"


def ratio(case: dict[str, Any], bandwidth: float | None) -> float | None:
    """A step's seconds over the least that it could take: the resident step, or the copying.

    None where there is nothing to compare with.
    """
    resident = (case["resident"] or {}).get("step_seconds")
    if not resident or not case["step_seconds"]:
        return None
    copying = statistics.median(case["step_bytes"]) / bandwidth if bandwidth else 0.0
    return statistics.median(case["step_seconds"]) / max(statistics.median(resident), copying)


def _row(case: dict[str, Any], bandwidth: float | None) -> tuple[str, ...]:
    resident = (case["resident"] or {}).get("step_seconds")
    against = ratio(case, bandwidth)
    moved, plan = case["step_bytes"], case["plan"] or {}
    return (
        case["case"] if case["case"] == "load" else f"{case['case']} ({case['frames']} frames)",
        _placement(case),
        case["outcome"],
        _gib(_peak(case, "peak_allocated")),
        _gib(plan.get("allocated_bytes")),
        _gib(_peak(case, "peak_reserved")),
        _gib(_peak(case, "peak_host")),
        _gib(plan.get("ram_bytes")),
        _seconds(case["step_seconds"]),
        f"{statistics.median(moved) / GB:.2f}" if moved else "–",
        _seconds(resident or []),
        "–" if against is None else f"{against:.2f}",
    )


def _peak(case: dict[str, Any], key: str) -> int | None:
    peaks = [phase[key] for phase in case["phases"] if phase[key] is not None]
    return max(peaks, default=None)


def _placement(case: dict[str, Any]) -> str:
    placement = case["placement"]
    if placement is None:
        return str(case["storage"])
    parts = [f"{placement['blocks_to_swap']} swapped"]
    if placement["blocks_to_swap"]:
        parts.append(placement["weights"])
    parts.append(placement["storage"])
    parts += [name.replace("_", " ") for name, value in placement.items() if value is True]
    parts += ["recompute layer"] if placement["recompute"] == "layer" else []
    parts += [f"VAE tile {placement['vae_tile']}"] if placement["vae_tile"] else []
    return ", ".join(parts)


def _machine(machine: dict[str, Any]) -> str:
    gpu = machine["gpu"]
    if machine["gpu_bytes"]:
        gpu += f" ({machine['gpu_bytes'] / GIB:.0f} GB)"
    versions = f"torch {machine['torch']}" + (
        f", CUDA {machine['cuda']}" if machine["cuda"] else ""
    )
    return f"{gpu}, {machine['cores']} cores, {machine['ram_bytes'] / GIB:.0f} GB RAM, {versions}"


def _bandwidths(machine: dict[str, Any]) -> str:
    pinned, staged = machine["bandwidth"], machine["staged_bandwidth"]
    if not staged:
        return "no device"
    speed = f"{pinned / GB:.1f} GB/s from pinned memory" if pinned else "no memory can be pinned"
    return f"{speed}, {staged / GB:.1f} GB/s through staging"


def _gib(nbytes: int | None) -> str:
    return "–" if nbytes is None else f"{nbytes / GIB:.2f}"


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}" if values else "–"


def _table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> list[str]:
    return [
        "| " + " | ".join(header) + " |",
        "|" + "---|" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
