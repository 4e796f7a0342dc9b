"""Which stored tensor, and which rows of it, each parameter of a module is."""

import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from maskora.errors import UserError
from maskora.models.names import Names
from maskora.models.reading.weights import Weights, refuse_packed
from maskora.streaming.places import Place


@dataclass(frozen=True)
class Translation:
    """A file's names put into a module's.

    Attributes:
        places: parameter -> where it lies.
        unknown: stored tensors that the table does not have.
        shapes: of the parameters, as stored.
        prefix: what all the files' names begin with.
        names: the table; None where files and module have the same names.
        told: where the tensors come from.
    """

    places: Mapping[str, Place]
    unknown: tuple[str, ...]
    shapes: Mapping[str, tuple[int, ...]]
    prefix: str
    names: Names | None
    told: str

    def called(self, parameter: str) -> str:
        """What a parameter would be called in the files."""
        home = published(self.names, parameter) if self.names else parameter
        return self.prefix + (home or parameter)

    def has(self, beginning: str) -> bool:
        """Whether there are parameters whose names begin so."""
        return any(name.startswith(beginning) for name in self.shapes)

    def length(self, *places: tuple[str, int]) -> int:
        """A length that several parameters' shapes tell, by most of them.

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
            first = self.called(places[0][0].format(0))
            raise UserError(f"{self.told} lacks the tensor {first}, or it is damaged")
        return found.most_common(1)[0][0]

    def count(self, beginning: str) -> int:
        """How many blocks there are whose names begin so, by the highest number that follows."""
        rest = (n.removeprefix(beginning) for n in self.shapes if n.startswith(beginning))
        numbers = (int(number) for name in rest if (number := name.partition(".")[0]).isdecimal())
        return max(numbers, default=-1) + 1


def translate(
    weights: Weights, names: Names | None, prefix: str = "", ignore: Collection[str] = ()
) -> Translation:
    """Find the place of every parameter that the table knows.

    Args:
        names: the publisher's names; None leaves all as they are.
        prefix: what the publisher's names have before them in these files.
        ignore: regular expressions of tensors that nobody reads.

    Raises:
        UserError: a fused tensor cannot be divided, or a weight is packed.
    """
    places: dict[str, Place] = {}
    unknown, shapes = [], {}
    for full in weights.names:
        bare, scale = full.removeprefix(prefix), weights.scales.get(full)
        members = _members(names, bare) if names else (bare,)
        if any(re.fullmatch(pattern, bare) for pattern in ignore):
            continue
        if members is None or not full.startswith(prefix):
            unknown.append(full)
            continue
        stored = weights.stored[full]
        refuse_packed(full, stored)
        if any(member in places for member in members):
            unknown.append(full)
            continue
        for member, rows in _rows(names, bare, members, stored.shape, f"{stored.path}: {full}"):
            places[member] = Place(full, rows, scale)
            shapes[member] = (places[member].height, *stored.shape[1:])
    return Translation(places, tuple(unknown), shapes, prefix, names, weights.told)


def published(names: Names, parameter: str) -> str | None:
    """What a module's parameter is called by its publisher; None where the table has it not."""
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
    names: Names | None,
    stored: str,
    members: tuple[str, ...],
    shape: tuple[int, ...],
    told: str,
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
        raise UserError(f"{told} has {height} rows, which cannot be divided among {len(members)}")
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    return [
        (member, ((end - count, end),))
        for member, count, end in zip(members, counts, ends, strict=True)
    ]
