"""The memory profiles that ship with the package: measured again, or of a new base.

    python -m benchmarks.profiles                       # all of them, where they lie
    python -m benchmarks.profiles hunyuan-video-i2v     # some of them
    python -m benchmarks.profiles NEW --family FAMILY --base FOLDER --config configs/NEW.toml

A profile is a JSON file in maskora/memory/profiles: what the base's configuration files say
(`parts`), the ready configurations that name this base, and what was measured. It takes a minute,
no weights and no GPU.
"""

import json
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from maskora.config import load_config
from maskora.files import write_text
from maskora.memory.measure import Probe
from maskora.memory.profile import PROFILES, fingerprint, library_versions, measure
from maskora.models.registry import open_source, read_settings

CONFIGS = Path(__file__).parents[1] / "configs"
TARGETS = ("attention", "attention+ffn")
# What of a configuration decides about memory.
KEYS = {
    "model": ("family", "path"),
    "video": ("frames", "size"),
    "motion": ("window",),
    "inference": ("guidance", "segment"),
}


def write_parts(parts: dict[str, dict[str, Any]], folder: Path) -> Path:
    """A model folder of configuration files alone."""
    for part, config in parts.items():
        write_text(folder / part / "config.json", json.dumps(config))
    return folder


def measured(family: str, parts: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """All that is measured of a base, for every precision and kind of LoRA."""
    table: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(write_parts(parts, Path(folder)))
        for dtype in ("bfloat16", "float32"):
            for targets in TARGETS:
                table = measure(family, source, dtype, targets, table)
        half = Probe(family, source, "float16").weights()
        half["steps"] = table["weights"]["bfloat16"]["steps"]  # values of as many bytes
        table["weights"]["float16"] = half
        return {"fingerprint": fingerprint(family, source), **table}


def settings_of(name: str) -> dict[str, dict[str, Any]]:
    """The keys of a ready configuration that decide about memory."""
    tables = load_config(CONFIGS / f"{name}.toml").model_dump(mode="json")
    return {table: {key: tables[table][key] for key in keys} for table, keys in KEYS.items()}


def write_profile(
    name: str, family: str, parts: dict[str, dict[str, Any]], configurations: list[str]
) -> None:
    """Measure a base and write its file."""
    profile = {
        "family": family,
        "parts": parts,
        "configurations": {one: settings_of(one) for one in configurations},
        "libraries": library_versions(),
        **measured(family, parts),
    }
    write_text(PROFILES / f"{name}.json", format_json(profile) + "\n")


def format_json(value: Any, depth: int = 0) -> str:
    """JSON whose short values are on one line."""
    flat = json.dumps(value)
    if not isinstance(value, dict) or len(flat) + 2 * depth < 90:
        return flat
    inner = ",\n".join(
        f"{'  ' * (depth + 1)}{json.dumps(key)}: {format_json(one, depth + 1)}"
        for key, one in value.items()
    )
    return f"{{\n{inner}\n{'  ' * depth}}}"


def main(
    names: Annotated[list[str] | None, typer.Argument(help="of profiles; none for all")] = None,
    family: Annotated[str | None, typer.Option("--family", help="of a new base")] = None,
    base: Annotated[Path | None, typer.Option("--base", help="folder of a new base")] = None,
    configs: Annotated[
        list[str] | None, typer.Option("--config", help="a ready configuration that names it")
    ] = None,
) -> None:
    """Measure what bases take of memory, and write their profiles."""
    if family is not None or base is not None or configs:
        if family is None or base is None or names is None or len(names) != 1:
            raise typer.BadParameter("a new base needs one name, --family and --base")
        source = open_source(base)
        parts = {part: source.config(part) for part in read_settings(family, source)}
        ready = [Path(one).name.removesuffix(".toml") for one in configs or []]
        write_profile(names[0], family, parts, ready)
        return
    known = {path.stem: path for path in sorted(PROFILES.glob("*.json"))}
    if unknown := [name for name in names or () if name not in known]:
        raise typer.BadParameter(f"no such profile: {unknown[0]} (there are {', '.join(known)})")
    for name in names or known:
        table = json.loads(known[name].read_text("utf-8"))
        write_profile(name, table["family"], table["parts"], list(table["configurations"]))
        print(f"{known[name]}: written")


if __name__ == "__main__":
    typer.run(main)
