"""Read and write the whole configuration; every mistake is reported at once.

TOML is read by the standard library and written by tomlkit, which keeps comments (the `toml`
package is unmaintained and drops them).
"""

import difflib
import re
import tomllib
from collections.abc import Iterable
from copy import deepcopy
from pathlib import Path
from typing import Any

import tomlkit
from pydantic import ValidationError

from maskora.config import tables
from maskora.errors import UserError
from maskora.files import read_text, write_text

# Keys that hold a number or one word.
WORDS = {
    "inference.shift": " or 'model'",
    "memory.blocks_to_swap": " or 'auto'",
    "memory.vram_budget_gb": " or 'auto'",
    "motion.window": " or 'full'",
}
BACKSLASH = "in \"…\" a backslash begins an escape: write a path with / or between '…'"
MISSING = "a {} is missing: text begins and ends with one"
# What people write in TOML that is none: the complaint, the line with \0 where the reader gave up,
# and a cure. Only what stands at that place counts: there may be an apostrophe in a comment.
CURES = (
    (r".*", r".*\0[“”„«»`\u2018\u2019]", "write straight quotes, as in path = \"…\""),
    (r".*(Unescaped|hex value|escaped character)", r".*", BACKSLASH),
    (r"Illegal character '\\n'|Unterminated string", r".*", MISSING.format('"')),
    (r"Expected \"'+\"|Found invalid character '\\n'", r".*", MISSING.format("'")),
    (r".*", r".*=\s*\0(True|False|TRUE|FALSE)\b", "write true or false"),
    (r".*", r".*=\s*[-+]?\d*\0,\d", "a number has a point: 0.5"),
    (r".*", r".*=\s*[-+]?\d*\0[-+]?\.(\d|\s|$)", "a number has digits before and after its point"),
    (r"Invalid value", r".*=\s*\0(#|$)", "a value is missing after ="),
    (r"Invalid value", r".*[=\[,]\s*\0[^\s\"'\[{\d+-]", "text stands between quotes: key = '…'"),
    (r".*", r".*([\"'])(\s*\0\w.*\1|\0\1)", "between quotes of one kind, use those of the other"),
    (r"Expected newline", r".*=\s*[\d+-][^=\"'#]*\0", "is it text? Text stands between quotes"),
    (r"Expected '='", r"\s*[\w.-]+\s*\0:", "between a key and its value stands ="),
    (r".*", r"\s*\0?(//|;|--)", "a comment begins with #"),
    (r".*(twice|overwrite)", r".*", "it stands there twice: keep one"),
    (r"Exceeds the limit", r".*", "a number has thousands of digits"),
    (r"Unclosed array", r".*", "a [ has no ], or a , is missing between two values"),
)  # fmt: skip
PRESETS = Path(__file__).parents[2] / "configs" / "presets"
# What is told at the end of the text only begins with the last of these quotes.
OPENED = {'Expected "\'"': "'", "Expected \"'''\"": "'''", "Unterminated string": '"""'}
SHOWN = 100  # characters of a line or a value in a message


class Config(tables.Table):
    """One edit's whole configuration, as in its edit.toml."""

    model: tables.Model = tables.Model()
    video: tables.Video = tables.Video()
    mask: tables.Mask = tables.Mask()
    tracker: tables.Tracker = tables.Tracker()
    prompt: tables.Prompt = tables.Prompt()
    caption: tables.Caption = tables.Caption()
    editor: tables.Editor = tables.Editor()
    adapter: tables.Adapter = tables.Adapter()
    optimizer: tables.Optimizer = tables.Optimizer()
    motion: tables.Motion = tables.Motion()
    appearance: tables.Appearance = tables.Appearance()
    training: tables.Training = tables.Training()
    memory: tables.Memory = tables.Memory()
    acceleration: tables.Acceleration = tables.Acceleration()
    deepspeed: tables.DeepSpeed = tables.DeepSpeed()
    inference: tables.Inference = tables.Inference()
    preview: tables.Preview = tables.Preview()
    transfer: tables.Transfer = tables.Transfer()


def load_config(
    path: Path, overrides: list[str] | tuple[str, ...] = (), preset: str | None = None
) -> Config:
    """Read a TOML file, lay a preset and `table.key=value` overrides over it, and check it all.

    Args:
        path: the TOML file; keys that it leaves out take their defaults.
        overrides: as given to `--set`; values are TOML, bare words are text.
        preset: as given to `--preset`.

    Raises:
        UserError: with every mistake, each with its table, the valid names and the nearest one.
    """
    if path.is_dir():
        raise UserError(f"{path} is a folder; name the TOML file in it")
    try:
        content = parse_toml(read_text(path), str(path))
    except FileNotFoundError:
        raise UserError(
            f"{path}: no such file (maskora prepare writes a workspace with its edit.toml)"
        ) from None
    return build_config(with_preset(content, preset), overrides, str(path))


def with_preset(content: dict[str, Any], preset: str | None) -> dict[str, Any]:
    """What was read from TOML, with a preset's keys in place of its own.

    Args:
        preset: a name of configs/presets, or a TOML file; None changes nothing.

    Raises:
        UserError: there is none of this name, or it is wrong.
    """
    if preset is None or not all(isinstance(table, dict) for table in content.values()):
        return content  # a wrong one is told of when it is checked
    overlay = preset_tables(preset)
    tables = {table: content.get(table, {}) | values for table, values in overlay.items()}
    # Of [transfer] a method says all: what another one has set there is not its own.
    return content | tables | {"transfer": overlay.get("transfer", {})}


def preset_tables(preset: str) -> dict[str, Any]:
    """What a preset's file says. Arguments and errors as `with_preset`."""
    file = Path(preset) if preset.endswith(".toml") else PRESETS / f"{preset}.toml"
    try:
        overlay = parse_toml(read_text(file), str(file))
    except FileNotFoundError:
        names = ", ".join(sorted(path.stem for path in PRESETS.glob("*.toml")))
        known = f"there are {names}" if names else f"{PRESETS} is not here (pip install -e ...)"
        raise UserError(
            f"--preset {preset}: no such method; {known}; or name a .toml file"
        ) from None
    build_config(overlay, (), str(file))  # what is wrong in it is said of it
    return overlay


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """What a TOML text says.

    Args:
        where: it came from; it stands before the complaint.

    Raises:
        UserError: with the line that is wrong, and what to write instead where that can be known.
    """
    try:
        return tomllib.loads(f"{text}\n")
    except RecursionError:
        raise UserError(f"{where} is not valid TOML: it is nested too deeply") from None
    except ValueError as error:  # of numbers with thousands of digits too
        reason, _, place = str(error).partition(" (at ")
    number, marked = _locate_mistake(text, reason, place)
    line = marked.replace("\0", "").strip()
    at = f", line {number}" if number else ""
    shown = f" ({line[:SHOWN]})" if line else ""
    cures = (
        cure
        for complaint, written, cure in CURES
        if re.match(complaint, reason) and re.match(written, marked)
    )
    why = f"{reason.partition(';')[0]}; {cure}" if (cure := next(cures, "")) else reason
    raise UserError(f"{where}{at} is not valid TOML{shown}: {why}")


def _locate_mistake(text: str, reason: str, place: str) -> tuple[int | None, str]:
    """The wrong line's number, and the line with \\0 at the place; None and "" if not known."""
    if found := re.match(r"line (\d+), column (\d+)", place):
        number, column = int(found[1]), int(found[2]) - 1
    elif quote := OPENED.get(reason):
        before = text[: text.rindex(quote)]
        number, column = before.count("\n") + 1, len(before) - before.rfind("\n") - 1
    else:
        return None, ""
    line = [*text.split("\n"), ""][number - 1]
    return number, f"{line[:column]}\0{line[column:]}"


def build_config(
    content: dict[str, Any], overrides: list[str] | tuple[str, ...] = (), where: str = "--set"
) -> Config:
    """Check what was read from TOML, with overrides laid over a copy. Raises UserError."""
    try:
        content = deepcopy(content)
        for override in overrides:
            _lay_over(content, override)
        return Config.model_validate(content)
    except RecursionError:
        raise UserError(f"{where}: a value is nested too deeply") from None
    except ValidationError as error:
        # A union tells each of its branches' mistakes; _explain names the literal one itself.
        items = [item for item in error.errors() if not str(item["loc"][-1]).startswith("literal[")]
        lines = [f"  {_explain(item)}" for item in items]
        count = f"{len(lines)} mistake{'s' if len(lines) > 1 else ''}"
        raise UserError("\n".join([f"{where}: {count} in the configuration", *lines])) from None


def set_values(path: Path, values: dict[str, Any]) -> None:
    """Change keys ("table.key") of a TOML file, whose comments and order stay. Raises UserError."""
    load_config(path)  # a damaged file is reported as such
    document = tomlkit.parse(read_text(path))
    for name, value in values.items():
        table, _, key = name.partition(".")
        document.setdefault(table, tomlkit.table())[key] = value
    build_config(document.unwrap(), (), str(path))
    write_text(path, tomlkit.dumps(document))


def _lay_over(content: dict[str, Any], override: str) -> None:
    name, equals, text = override.partition("=")
    table, *keys = (part.strip() for part in name.split("."))
    if not (equals and table and keys and all(keys)):
        raise UserError(f"--set {override}: write table.key=value, as in --set motion.steps=200")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    if _is_text(table, keys):
        value = value if isinstance(value, str | list) else text
    target = content
    for inside in (table, *keys[:-1]):
        target = target.setdefault(inside, {})
        if not isinstance(target, dict):
            raise UserError(f"--set {override}: [{inside}] is not a table in the file")
    target[keys[-1]] = value


def _is_text(table: str, keys: list[str]) -> bool:
    """True for a key that holds text, so that `--set prompt.caption=2024` means the word."""
    kinds = {name: type(value) for name, value in Config()}
    field = kinds[table].model_fields.get(keys[0]) if table in kinds else None
    expected = str if len(keys) == 1 else dict[str, str]
    return field is not None and field.annotation == expected


def _explain(item: Any) -> str:
    """One pydantic error as a line for a person."""
    keys, wrong = _locate([str(part) for part in item["loc"]])
    place = f"[{keys[0]}] {'.'.join(keys[1:])}".strip() if keys else ""
    if item["type"] == "extra_forbidden":
        names = list(_fields(keys))
        near = difflib.get_close_matches(wrong, names, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}? " if near else ""
        what = f"{place}: unknown key" if keys else "unknown table"
        return f"{what} {wrong!r}: {hint}valid: {', '.join(names)}"
    if item["type"] == "missing":
        return f"{place}: {wrong!r} is missing"
    if item["type"] == "value_error":
        return f"{place}: {item['ctx']['error']}"
    choices = WORDS.get(".".join(keys), "")
    return f"{place}: {item['msg'].lower()}{choices} (is {_shown(item['input'])})"


def _shown(value: object) -> str:
    """A value in a message: not longer than a line, and some numbers cannot be written at all."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"{type(value).__name__} of great size"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _locate(location: list[str]) -> tuple[list[str], str]:
    """Split pydantic's location into the keys that exist and the first that does not.

    What pydantic adds for the branches of a union ("float", "literal['full']") is left out.
    """
    keys: list[str] = []
    for part in location:
        if not (part in _fields(keys) or (keys == ["inference", "loras"] and part.isdecimal())):
            return keys, part
        keys.append(part)
    return keys[:-1] if len(keys) > 3 else keys, location[-1]


def _fields(keys: list[str]) -> Iterable[str]:
    """The names that may stand below this place of the configuration."""
    if not keys:
        return Config.model_fields
    if keys[:2] == ["inference", "loras"]:
        return tables.LoraFile.model_fields
    table = Config.model_fields[keys[0]].annotation
    return table.model_fields if len(keys) == 1 and table is not None else ()


def render_config(config: Config, header: str) -> str:
    """The configuration as a complete, commented TOML text: one key per line, each explained."""
    document = tomlkit.document()
    for line in header.splitlines():
        document.add(tomlkit.comment(line))
    for table_name in Config.model_fields:
        table: tables.Table = getattr(config, table_name)
        rendered = tomlkit.table()
        rendered.comment(" ".join((type(table).__doc__ or "").split()))
        for key, field in type(table).model_fields.items():
            rendered.add(tomlkit.comment(str(field.description)))
            rendered.add(key, _in_one_line(table.model_dump(mode="json")[key]))
        rendered.add(tomlkit.nl())
        document.add(table_name, rendered)
    return tomlkit.dumps(document)


def _in_one_line(value: Any) -> Any:
    """A value as TOML; a table of tables would end the one that it stands in."""
    if not isinstance(value, dict):
        return value
    table = tomlkit.inline_table()
    table.update(value)
    return table
