"""Times of frames, and the constant rate that is made of them."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from maskora.video.clock import (
    choose_rate,
    constant_rate_picks,
    is_constant,
    nearest_usual_rate,
)

RATES = st.sampled_from([Fraction(24), Fraction(25), Fraction(30000, 1001), Fraction(60)])
SPACINGS = st.lists(st.floats(0.005, 0.2), min_size=1, max_size=60)


def test_usual_rates() -> None:
    assert nearest_usual_rate(29.9701) == Fraction(30000, 1001)
    assert nearest_usual_rate(29.99) == 30
    assert nearest_usual_rate(7.3) == Fraction(73, 10)


@given(RATES, st.integers(2, 300), st.floats(0, 0.4), st.randoms())
def test_small_jitter_is_still_constant(rate, count, jitter, chance) -> None:  # type: ignore[no-untyped-def]
    step = 1 / float(rate)
    times = [(i + chance.uniform(-jitter, jitter) / 2) * step for i in range(count)]
    assert is_constant(times, rate)
    assert choose_rate(times, [rate]) == (rate, False)


def test_milliseconds_do_not_make_a_rate_variable() -> None:
    rate = Fraction(30000, 1001)
    times = [round(i / float(rate), 3) for i in range(5000)]
    assert choose_rate(times, [rate]) == (rate, False)
    assert choose_rate(times, []) == (rate, False), "measured, where the header names none"


def test_bursts_are_not_a_rate() -> None:
    """Three frames at once, ten times a second."""
    times = [burst / 10 + frame * 0.003 for burst in range(20) for frame in range(3)]
    assert choose_rate(times, []) == (30, True)
    assert choose_rate([i / 90000 for i in range(5)], [Fraction(90000)])[0] <= 1000


def test_held_frames_keep_the_rate_that_the_header_names() -> None:
    times = [i / 25 for i in range(100) if i % 5 or i > 80]
    assert choose_rate(times, [Fraction(25)]) == (25, True)
    one_is_missing = [i / 25 for i in range(100) if i != 40]
    assert choose_rate(one_is_missing, [Fraction(25)]) == (25, True)
    assert choose_rate([i / 25 for i in range(100)], [Fraction(50)]) == (25, False)
    assert choose_rate([i / 25 for i in range(100) if i != 50], [Fraction(50)])[0] < 26


def test_a_wrong_header_is_not_believed() -> None:
    times = [i / 24 for i in range(100)]
    assert choose_rate(times, [Fraction(600), Fraction(30)]) == (24, False)


@given(SPACINGS, RATES)
def test_picks_follow_the_clock(spacings: list[float], rate: Fraction) -> None:
    times = np.concatenate([[0.5], 0.5 + np.cumsum(spacings)])
    end = times[-1] + 1 / float(rate)
    picks = np.asarray(constant_rate_picks(times.tolist(), float(end), rate))
    assert picks[0] == 0 or times[picks[0]] - times[0] <= 0.5 / float(rate) + 1e-9
    assert (np.diff(picks) >= 0).all(), "the order never changes"
    late = times[0] + (np.arange(len(picks)) + 0.5) / float(rate)
    following = np.append(times, np.inf)[picks + 1]
    assert (following >= late - 1e-9).all(), "no frame after the next one's time"
    ticks = times[0] + np.arange(len(picks)) / float(rate)
    assert (times[picks] <= ticks + 0.5 / float(rate) + 1e-9).all(), "no frame before its time"
    assert abs(len(picks) / float(rate) - (end - times[0])) <= 0.51 / float(rate)


@given(RATES, st.integers(1, 200))
def test_a_constant_clip_is_left_as_it_is(rate: Fraction, count: int) -> None:
    times = [float(i / rate) for i in range(count)]
    assert constant_rate_picks(times, float(count / rate), rate) == tuple(range(count))
