"""Frame times to a constant rate: pure functions over a clip's sorted presentation times."""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

_USUAL_RATES = tuple(
    [Fraction(n * 1000, 1001) for n in (24, 30, 48, 60, 120)]
    + [Fraction(n) for n in (8, 10, 12, 15, 16, 20, 24, 25, 30, 48, 50, 60, 100, 120, 240)]
)


def nearest_usual_rate(rate: float, tolerance: float = 0.03) -> Fraction:
    """The usual frame rate within ``tolerance`` (relative) of ``rate``; else ``rate`` itself."""
    best = min(_USUAL_RATES, key=lambda usual: abs(float(usual) - rate))
    if abs(float(best) - rate) <= tolerance * rate:
        return best
    return Fraction(rate).limit_denominator(1001)


def is_constant(times: Sequence[float], rate: Fraction) -> bool:
    """Whether every frame lies within half a frame of its place at a constant ``rate``."""
    drift = np.asarray(times) * float(rate) - np.arange(len(times))
    return bool(np.all(np.abs(drift - np.median(drift)) < 0.5))


def choose_rate(times: Sequence[float], named: Sequence[Fraction]) -> tuple[Fraction, bool]:
    """The constant rate for a clip.

    Args:
        times: presentation times in seconds, sorted, of every frame.
        named: the rates the file's header names, best first.

    Returns:
        The rate, and whether the clip is variable. A variable clip gets the rate of its faster
        stretches (the lower quartile of the frame spacing), so that motion is not dropped.
    """
    if len(times) < 2 or times[-1] <= times[0]:
        return (named[0] if named else Fraction(25)), False
    measured = (len(times) - 1) / (times[-1] - times[0])
    for rate in (*named, nearest_usual_rate(measured, tolerance=0.002)):
        if is_constant(times, rate):
            return rate, False
    spacing = np.diff(np.asarray(times))
    fast = float(np.quantile(spacing[spacing > 0], 0.25))
    return nearest_usual_rate(1 / fast), True


def constant_rate_picks(times: Sequence[float], end: float, rate: Fraction) -> tuple[int, ...]:
    """Which frame is shown at each tick of a constant rate.

    Args:
        times: presentation times in seconds, sorted, of every frame.
        end: when the last frame stops being shown, in seconds.
        rate: ticks per second; tick j is at ``times[0] + j / rate``.

    Returns:
        One index into ``times`` per tick: the last frame that begins before the middle of the
        tick. Frames are repeated or left out as needed; the order never changes, and the whole
        lasts as long as before, to half a tick.
    """
    ticks = np.floor((np.asarray(times) - times[0]) * float(rate) + 0.5).astype(np.int64)
    count = max(1, int(np.floor((end - times[0]) * float(rate) + 0.5)))
    return tuple(int(i) for i in np.searchsorted(ticks, np.arange(count), side="right") - 1)
