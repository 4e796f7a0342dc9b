"""The loss of each stage as a small SVG picture with its legend; nothing of it is loaded."""

import html
from collections.abc import Mapping, Sequence

WIDE, HIGH = 600, 200  # of the drawing, in its own units
LEFT, RIGHT, TOP, BOTTOM = 48, 8, 26, 22  # around the lines
LINES = ("#059669", "#d97706", "#2563eb", "#c026d3")
MOST_POINTS = 400  # of a line
LEGEND = 130  # units per entry
Losses = Mapping[str, Sequence[tuple[int, float]]]  # by stage: steps with their losses


def loss_chart(losses: Losses) -> str:
    """The chart; empty where no stage has two steps yet."""
    lines = {stage: points for stage, points in losses.items() if len(points) > 1}
    if not lines:
        return ""
    first = min(points[0][0] for points in lines.values())
    last = max(points[-1][0] for points in lines.values())
    values = [loss for points in lines.values() for _, loss in points]
    low, high = min(values), max(max(values), min(values) + 1e-9)

    def place(step: int, loss: float) -> str:
        x = LEFT + (WIDE - LEFT - RIGHT) * (step - first) / max(1, last - first)
        y = HIGH - BOTTOM - (HIGH - TOP - BOTTOM) * (loss - low) / (high - low)
        return f"{x:.1f},{y:.1f}"

    parts = [*_axes(first, last, low, high)]
    for number, (stage, points) in enumerate(lines.items()):
        colour, left = LINES[number % len(LINES)], LEFT + LEGEND * number
        shown = points[:: max(1, len(points) // MOST_POINTS)]
        course = " ".join(place(*point) for point in shown)
        parts += [
            f'<polyline points="{course}" fill="none" stroke="{colour}" stroke-width="1.8"/>',
            f'<rect x="{left}" y="6" width="12" height="4" fill="{colour}"/>',
            f'<text x="{left + 17}" y="12">{html.escape(stage)}</text>',
        ]
    label = html.escape(f"loss of {', '.join(lines)}, steps {first} to {last}")
    return (
        f'<svg class="loss" role="img" aria-label="{label}" viewBox="0 0 {WIDE} {HIGH}">'
        f"{''.join(parts)}</svg>"
    )


def _axes(first: int, last: int, low: float, high: float) -> list[str]:
    foot, right = HIGH - BOTTOM, WIDE - RIGHT
    return [
        f'<path d="M{LEFT},{TOP}V{foot}H{right}" fill="none" stroke="currentColor" opacity=".4"/>',
        f'<text x="{LEFT - 5}" y="{TOP + 4}" text-anchor="end">{high:.3g}</text>',
        f'<text x="{LEFT - 5}" y="{foot}" text-anchor="end">{low:.3g}</text>',
        f'<text x="{LEFT}" y="{HIGH - 6}">step {first}</text>',
        f'<text x="{right}" y="{HIGH - 6}" text-anchor="end">{last}</text>',
    ]
