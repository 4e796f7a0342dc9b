"""Where a module's parameters lie among stored tensors. Imports no torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a module's parameter lies.

    Attributes:
        name: of the stored tensor.
        rows: the ranges of its rows (first, end) that make the parameter, one after another.
        scale: the stored tensor of factors by which it is multiplied: one for all, or one for each
            row; None for none.
    """

    name: str
    rows: tuple[tuple[int, int], ...]
    scale: str | None = None

    @property
    def height(self) -> int:
        """How many rows the parameter has."""
        return sum(end - first for first, end in self.rows)
