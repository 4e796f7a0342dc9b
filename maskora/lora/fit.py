"""Whether a LoRA file fits a base, in the same words wherever it is asked."""

import logging
from collections.abc import Sequence
from pathlib import Path

from maskora.errors import UserError

log = logging.getLogger("maskora")


def tell_missing(missing: Sequence[str], total: int, path: Path) -> None:
    """Say which of a file's modules the base lacks. Raises UserError where it has none of them."""
    if len(missing) == total:
        raise UserError(f"{path} does not fit this base, which has no {missing[0]}")
    if missing:
        log.warning(
            "note: %s: this base lacks %d of the %d modules in it (%s, …), which are skipped",
            path, len(missing), total, missing[0],
        )  # fmt: skip


def check_shape(own: tuple[int, ...], given: tuple[int, ...], name: str, path: Path) -> None:
    """Raises UserError where a weight has another shape than the one that a file changes."""
    if own != given:
        raise UserError(
            f"{path} does not fit this base: {name} is for a weight of {given}, which has {own}"
        )
