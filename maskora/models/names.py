"""The names of a model's modules in its publisher's files, and in the classes used here.

Publishers' files (and ComfyUI's, which mostly keep their names) differ from the modules of
diffusers and transformers in two ways: other names, and fused matrices, whose output rows are those
of several modules one after another (`img_attn_qkv` holds to_q, to_k and to_v). One table per kind
of model tells both; weights and LoRAs are translated with it, in both directions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

SLOT = "{}"


@dataclass(frozen=True, eq=False)
class Names:
    """A kind of model's table. A `{}` stands for a number, the same on both sides.

    Attributes:
        modules: a publisher's module -> the modules whose output rows it holds, in order. A
            parameter that belongs to no module of its own stands under its full name. Where
            files know several names for the same, the publisher's own stands first.
        swapped: publishers' modules whose two halves of output rows are exchanged here.
        shares: in which proportion the members divide the rows, where they are not alike.
        architecture: the name that files' metadata have for this kind of model.
        comfyui: ComfyUI's own table, where it cannot read LoRAs by the publisher's names.
    """

    modules: Mapping[str, tuple[str, ...]]
    swapped: frozenset[str] = frozenset()
    shares: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    architecture: str = ""
    comfyui: Names | None = None

    def published(self, module: str) -> str | None:
        """The publisher's module that holds a module of ours; None where the table has none."""
        found = _find(module, self._by_member)
        return found and found[0].format(*found[1])

    def members(self, published: str) -> tuple[str, ...] | None:
        """Our modules in a publisher's module, in the order of their rows; None if unknown."""
        found = _find(published, self._by_published)
        return found and tuple(member.format(*found[1]) for member in self.modules[found[0]])

    def is_swapped(self, published: str) -> bool:
        """Its two halves are exchanged here."""
        found = _find(published, self._by_published)
        return found is not None and found[0] in self.swapped

    def proportion(self, published: str) -> tuple[int, ...]:
        """The members' shares of a publisher's module's rows."""
        found = _find(published, self._by_published)
        assert found is not None
        return self.shares.get(found[0], (1,) * len(self.modules[found[0]]))

    def divide(self, published: str, rows: int) -> tuple[int, ...] | None:
        """The rows of a publisher's module that each member holds; None if they do not go up."""
        shares = self.proportion(published)
        unit, rest = divmod(rows, sum(shares))
        return None if rest else tuple(share * unit for share in shares)

    @cached_property
    def underscored(self) -> Names:
        """The same table with `_` in place of every dot of the publisher's names."""

        def flat(published: str) -> str:
            return published.replace(".", "_")

        return Names(
            {flat(name): members for name, members in self.modules.items()},
            frozenset(map(flat, self.swapped)),
            {flat(name): shares for name, shares in self.shares.items()},
        )

    @cached_property
    def own_underscored(self) -> Names:
        """Our own names with `_` in place of every dot -> our names."""
        ours = (member for members in self.modules.values() for member in members)
        return Names({member.replace(".", "_"): (member,) for member in ours})

    @cached_property
    def _by_member(self) -> dict[re.Pattern[str], str]:
        first: dict[re.Pattern[str], str] = {}
        for published, members in self.modules.items():
            for member in members:
                first.setdefault(_expression(member), published)
        return first

    @cached_property
    def _by_published(self) -> dict[re.Pattern[str], str]:
        return {_expression(published): published for published in self.modules}


def _expression(template: str) -> re.Pattern[str]:
    return re.compile(r"(\d+)".join(map(re.escape, template.split(SLOT))))


def _find(name: str, table: Mapping[re.Pattern[str], str]) -> tuple[str, tuple[str, ...]] | None:
    """The entry that a name fits, and the numbers in it."""
    for expression, entry in table.items():
        if match := expression.fullmatch(name):
            return entry, match.groups()
    return None
