"""The tensors of checkpoint files: which layout they have, and whose parameters they hold."""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.files import parse_json
from maskora.models.names import Names
from maskora.streaming.header import LENGTH_BYTES, SIZES, Place, Stored, read_header, read_metadata

# What may stand before all names of a file.
PREFIXES = ("", "model.diffusion_model.", "model.model.", "vision_model.")
DIFFUSERS = r"(single_)?(transformer_)?blocks\.\d+\.attn\d?\.to_q\..*|(en|de)coder\.conv_in\..*"
LORA = r".*[._]lora[._]?(A|B|up|down)\b.*"
# How files in scaled float8 call a weight's factors, and what else they hold beside the weights.
FACTORS = (".scale_weight", ".weight_scale")
NOTES = (".scale_input", ".input_scale", ".comfy_quant")
MARKER = "scaled_fp8"
METADATA = "_quantization_metadata"
FORMATS = {"float8_e4m3fn", "float8_e5m2"}
PRECISIONS = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8", "F8_E5M2": "float8",
}  # fmt: skip
ZIP, PICKLE, GGUF = b"PK\x03\x04", b"\x80", b"GGUF"
INSTEAD = "name a .safetensors file of the same model (bf16, fp16 or scaled fp8)"


@dataclass(frozen=True)
class Weights:
    """The tensors of some files.

    Attributes:
        stored: every tensor, by its name in the files.
        names: those that may be a model's own, by their names in the files.
        scales: weight -> the tensor of its factors.
        description: where they come from, for people.
    """

    stored: Mapping[str, Stored]
    names: tuple[str, ...]
    scales: Mapping[str, str]
    description: str

    @property
    def precision(self) -> str:
        """The type in which most of the values are stored, for people."""
        if self.scales:
            return "scaled float8"
        counts: Counter[str] = Counter()
        for name in self.names:
            counts[self.stored[name].kind] += prod(self.stored[name].shape)
        ((most, _),) = counts.most_common(1) or [("", 0)]
        return PRECISIONS.get(most, most)


def read_weights(paths: Collection[Path], description: str) -> Weights:
    """Read the headers of files. Raises UserError where they are damaged or of another format."""
    stored = {name: one for path in paths for name, one in _read(path).items()}
    _check_formats(paths, stored)
    scales = dict(_scaled(name, stored) for name in stored if name.endswith(FACTORS))
    companions = set(scales.values())
    names = tuple(
        name
        for name in stored
        if not (name in companions or name.endswith(NOTES) or name.split(".")[-1] == MARKER)
    )
    return Weights(stored, names, scales, description)


def read_small(stored: Stored, count: int) -> bytes:
    """The first `count` bytes of a tensor. Raises UserError where the file is shorter."""
    with stored.path.open("rb") as file:
        file.seek(stored.offset)
        content = file.read(count)
    if len(content) < count:
        raise UserError(f"{stored.path} is cut off: download it again")
    return content


def _read(path: Path) -> dict[str, Stored]:
    """The place of each tensor of a file, by name. Raises UserError."""
    if path.suffix == ".ckpt":
        raise UserError(f"{path} is a pickled checkpoint, which may run code: {INSTEAD}")
    start = _start(path)
    if start.startswith(GGUF):
        raise UserError(f"{path} is a GGUF file, whose compressed weights are not read: {INSTEAD}")
    if start.startswith((ZIP, PICKLE)) and not _is_safetensors(path):
        from maskora.streaming.tensor_files import read_pickled

        return read_pickled(path)
    return read_header(path)


def _is_safetensors(path: Path) -> bool:
    """A file begins as the format does: the length of a JSON object, and the object."""
    return _start(path)[LENGTH_BYTES:] == b"{"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(LENGTH_BYTES + 1)


def _refuse_packed(name: str, stored: Stored) -> None:
    """A weight must be stored as plain numbers. Raises UserError."""
    if stored.kind not in PRECISIONS:
        raise UserError(
            f"{stored.path}: {name} is packed ({stored.kind}), which is not read: {INSTEAD}"
        )


def _scaled(factors: str, stored: Mapping[str, Stored]) -> tuple[str, str]:
    """The weight that some factors belong to, and they. Raises UserError where there is none."""
    weight = factors.rpartition(".")[0] + ".weight"
    path, shape = stored[factors].path, stored[factors].shape
    if weight not in stored:
        raise UserError(f"{path} has {factors} without {weight}: it is damaged")
    _refuse_packed(weight, stored[weight])
    rows = stored[weight].shape[:1]
    is_one, is_one_per_row = prod(shape) == 1, shape in (rows, (*rows, 1))
    if not (is_one or is_one_per_row) or stored[factors].kind not in PRECISIONS:
        raise UserError(
            f"{path}: {factors} has the shape {shape} for {weight} of {stored[weight].shape}; only "
            f"one factor, or one for each row, is read: {INSTEAD}"
        )
    return weight, factors


def _check_formats(paths: Iterable[Path], stored: Mapping[str, Stored]) -> None:
    """Raises UserError where a file's notes name a quantisation that is not read."""
    notes: list[tuple[Path, bytes | str]] = [
        (one.path, read_small(one, prod(one.shape) * SIZES[one.kind]))
        for name, one in stored.items()
        if name.endswith(".comfy_quant")
    ]
    metadata = ((path, read_metadata(path)) for path in paths if _is_safetensors(path))
    notes += [(path, noted[METADATA]) for path, noted in metadata if METADATA in noted]
    for path, note in notes:
        if other := sorted(_formats(path, note) - FORMATS):
            raise UserError(
                f"{path} is compressed as {', '.join(other)}, which is not read: {INSTEAD}"
            )


def _formats(path: Path, note: bytes | str) -> set[str]:
    """The formats that a note names: of one layer, or of all."""
    try:
        content = parse_json(note)
        layers = content["layers"].values() if "layers" in content else [content]
        return {str(layer["format"]) for layer in layers}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its notes on quantisation are damaged ({error!r})") from None


@dataclass(frozen=True)
class Translation:
    """The parameters of a module among the tensors of some files.

    Attributes:
        places: parameter -> where it lies.
        unknown: stored tensors that are no parameter's.
        shapes: of the parameters, as stored.
        prefix: what all the files' names begin with.
        names: the table; None where files and module have the same names.
        description: where the tensors come from, for people.
    """

    places: Mapping[str, Place]
    unknown: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    names: Names | None
    description: str

    def name_in_file(self, parameter: str) -> str:
        """The name that a parameter would have in the files."""
        theirs = _published(self.names, parameter) if self.names else None
        return self.prefix + (theirs or parameter)

    def has(self, beginning: str) -> bool:
        """There are parameters whose names begin so."""
        return any(name.startswith(beginning) for name in self.shapes)

    def length(self, *places: tuple[str, int]) -> int:
        """A length that the shapes of several parameters show, by the majority of them.

        Args:
            places: a parameter, in which `{}` stands for any number, and an axis of its shape.

        Raises:
            UserError: the first parameter is missing, or no shape has such an axis.
        """
        found: Counter[int] = Counter()
        for template, axis in places:
            expression = re.compile(re.escape(template).replace(r"\{\}", r"\d+"))
            shapes = (s for name, s in self.shapes.items() if expression.fullmatch(name))
            found.update(s[axis] for s in shapes if -len(s) <= axis < len(s) and s[axis] > 0)
        if not found:
            first = self.name_in_file(places[0][0].format(0))
            raise UserError(f"{self.description} lacks the tensor {first}, or it is damaged")
        return found.most_common(1)[0][0]

    def count(self, beginning: str) -> int:
        """The number of blocks whose names begin so, by the highest number that follows."""
        rest = (n.removeprefix(beginning) for n in self.shapes if n.startswith(beginning))
        numbers = (int(number) for name in rest if (number := name.partition(".")[0]).isdecimal())
        return max(numbers, default=-1) + 1


@dataclass(frozen=True)
class CheckpointLayout:
    """One way in which the weights of a part are laid out.

    Attributes:
        marks: regular expressions; a file of this layout has a tensor for each.
        names: the table of names, which may depend on the tensors' names; None for none.
        config: the configuration of diffusers' or transformers' class, from the shapes.
        describe: the configuration in words.
        instead: what to use where a file holds a related model.
        ignore: regular expressions of tensors that are not read.
        others: regular expressions of tensors of related models that do not serve -> what they are.
        other: which such model a configuration is; None where it serves.
    """

    marks: tuple[str, ...]
    names: Callable[[Collection[str]], Names] | Names | None
    config: Callable[[Translation], dict[str, Any]]
    describe: Callable[[dict[str, Any]], str]
    instead: str
    ignore: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    other: Callable[[dict[str, Any]], str | None] = lambda config: None


@dataclass(frozen=True)
class Kind:
    """A recognised part: its tensors by the module's names, its configuration, both in words."""

    translation: Translation
    config: dict[str, Any]
    description: str


def recognise(weights: Weights, layouts: Collection[CheckpointLayout], what: str) -> Kind:
    """Find the layout of some weights.

    Args:
        layouts: those that the part may have.
        what: what the part should be, for people.

    Raises:
        UserError: they are none of these, or of a related model that does not serve.
    """
    for prefix in PREFIXES:
        bare = [name.removeprefix(prefix) for name in weights.names if name.startswith(prefix)]
        for layout in layouts:
            if all(_any(mark, bare) for mark in layout.marks):
                return _kind(weights, layout, prefix, bare)
    found = weights.description
    if _any(LORA, weights.names):
        raise UserError(f"{found} is a LoRA, not {what}: name it in [inference] loras")
    if _any(DIFFUSERS, weights.names):
        raise UserError(
            f"{found} has diffusers' names: name the folder that it belongs to as [model] path"
        )
    raise UserError(
        f"{found} is not {what}: is it another part, or another model? (Of HunyuanVideo only the "
        f"transformer may be a single file.)"
    )


def _kind(weights: Weights, layout: CheckpointLayout, prefix: str, bare: list[str]) -> Kind:
    for pattern, related in layout.others.items():
        if _any(pattern, bare):
            raise UserError(f"{weights.description} is {related}: {layout.instead}")
    names = layout.names(bare) if callable(layout.names) else layout.names
    translation = _translate(weights, names, prefix, layout.ignore)
    config = layout.config(translation)
    if other := layout.other(config):
        raise UserError(f"{weights.description} is {other}: {layout.instead}")
    return Kind(translation, config, f"{weights.precision}, {layout.describe(config)}")


def _any(pattern: str, names: Iterable[str]) -> bool:
    expression = re.compile(pattern)
    return any(expression.fullmatch(name) for name in names)


def _translate(
    weights: Weights, names: Names | None, prefix: str, ignore: Collection[str]
) -> Translation:
    """Find the place of every parameter. Raises UserError where a weight cannot be read."""
    places: dict[str, Place] = {}
    unknown, shapes = [], {}
    for full in weights.names:
        bare, stored = full.removeprefix(prefix), weights.stored[full]
        if any(re.fullmatch(pattern, bare) for pattern in ignore):
            continue
        members = _members(names, bare) if names else (bare,)
        if members is None or not full.startswith(prefix):
            unknown.append(full)
            continue
        _refuse_packed(full, stored)
        if any(member in places for member in members):
            unknown.append(full)
            continue
        for member, rows in _rows(names, bare, members, stored.shape, f"{stored.path}: {full}"):
            places[member] = Place(full, rows, weights.scales.get(full))
            shapes[member] = (places[member].height, *stored.shape[1:])
    return Translation(places, tuple(unknown), shapes, prefix, names, weights.description)


def _published(names: Names, parameter: str) -> str | None:
    """A parameter's name at its publisher's; None where the table lacks it."""
    if name := names.published(parameter):  # it belongs to no module of its own
        return name
    module, _, leaf = parameter.rpartition(".")
    home = names.published(module)
    return home and f"{home}.{leaf}"


def _members(names: Names, stored: str) -> tuple[str, ...] | None:
    """The parameters in a stored tensor, in the order of their rows; None for an unknown one."""
    if members := names.members(stored):
        return members
    module, _, leaf = stored.rpartition(".")
    found = names.members(module) if leaf in ("weight", "bias", "gamma") else None
    return found and tuple(f"{member}.{leaf}" for member in found)


def _rows(
    names: Names | None, stored: str, members: tuple[str, ...], shape: tuple[int, ...], where: str
) -> list[tuple[str, tuple[tuple[int, int], ...]]]:
    """Each member with the ranges of rows that are its own. Raises UserError."""
    height = shape[0] if shape else 1
    entry = stored if names is None or names.members(stored) else stored.rpartition(".")[0]
    if names and names.is_swapped(entry):
        half = height // 2
        return [(members[0], ((half, height), (0, half)))]
    if len(members) == 1:
        return [(members[0], ((0, height),))]
    counts = names.divide(entry, height) if names else None
    if counts is None:
        raise UserError(f"{where} has {height} rows, which cannot be divided among {len(members)}")
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [
        (member, ((end - count, end),))
        for member, count, end in zip(members, counts, ends, strict=True)
    ]
