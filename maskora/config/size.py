"""Sizes as a person writes them."""

LARGEST = 8192


def parse_size(text: str) -> tuple[int, int]:
    """Read "WIDTHxHEIGHT". Raises ValueError when it is none."""
    width, x, height = text.partition("x")
    sides = [int(side) for side in (width, height) if side.isascii() and side.isdecimal()]
    if not (x and len(sides) == 2 and 1 <= min(sides) <= max(sides) <= LARGEST):
        raise ValueError(
            f'{text!r} is not a size: write WIDTHxHEIGHT, as in "832x480", or "auto" '
            f"(sides of up to {LARGEST} pixels)"
        )
    return sides[0], sides[1]
