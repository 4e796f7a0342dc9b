"""The loss as a picture: every stage has its line and its name, as soon as it has two steps."""

from xml.etree import ElementTree

from gui_mask.loss_chart import MOST_POINTS, loss_chart


def test_each_stage_has_a_line_and_a_legend() -> None:
    chart = loss_chart({"motion": [(1, 0.4), (2, 0.2)], "appearance <b>": [(1, 0.3), (5, 0.1)]})
    root = ElementTree.fromstring(chart)
    lines = [one for one in root if one.tag == "polyline"]
    assert len({line.get("stroke") for line in lines}) == 2
    assert {"motion", "appearance <b>", "0.4", "0.1"} <= {one.text for one in root}
    (first, second), *_ = ([p.split(",") for p in line.get("points", "").split()] for line in lines)
    assert float(first[0]) < float(second[0]), "later steps are further right"
    assert float(first[1]) < float(second[1]), "a smaller loss is lower"


def test_before_two_steps_there_is_nothing_to_draw() -> None:
    assert loss_chart({}) == loss_chart({"motion": [(1, 0.4)]}) == ""


def test_a_flat_and_a_long_course() -> None:
    chart = loss_chart({"motion": [(step, 0.25) for step in range(10_000)]})
    points = next(
        one.get("points", "") for one in ElementTree.fromstring(chart) if one.tag == "polyline"
    )
    assert MOST_POINTS <= len(points.split()) < 2 * MOST_POINTS
    assert "nan" not in chart
