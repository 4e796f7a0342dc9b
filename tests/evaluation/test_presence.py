"""Whether the edit is still there, told without a truth."""

import numpy as np
import pytest

from maskora.evaluation.metrics import change_kept, colours_kept, edit_colours
from tests.evaluation.scenes import Scene, draw_scene

LAST = -1


@pytest.fixture(scope="module")
def scene() -> Scene:
    return draw_scene()


def test_the_edited_first_frame_keeps_itself(scene: Scene) -> None:
    given = scene.truth[0], scene.source[0], scene.box[0]
    edit = edit_colours([given])
    assert edit.telling
    assert colours_kept(*given, edit) == 1.0
    assert change_kept(*given, edit) == 1.0


def test_the_true_last_frame_keeps_the_edit(scene: Scene) -> None:
    edit = edit_colours([(scene.truth[0], scene.source[0], scene.box[0])])
    given = scene.truth[LAST], scene.source[LAST], scene.box[LAST]
    assert colours_kept(*given, edit) == pytest.approx(1.0, abs=0.1)
    assert change_kept(*given, edit) == pytest.approx(1.0, abs=0.1)


def test_source_and_empty_scene_keep_nothing_of_it(scene: Scene) -> None:
    edit = edit_colours([(scene.truth[0], scene.source[0], scene.box[0])])
    rest = scene.source[LAST], scene.box[LAST]
    assert colours_kept(scene.source[LAST], *rest, edit) == pytest.approx(0.0, abs=0.05)
    assert change_kept(scene.source[LAST], *rest, edit) == 0.0
    # The object's absence differs from the source as well: there only the colours tell.
    assert colours_kept(scene.background[LAST], *rest, edit) == pytest.approx(0.0, abs=0.05)


def test_the_look_of_a_later_keyframe_is_the_edits_too(scene: Scene) -> None:
    pink = np.where(scene.object[LAST][..., None], (240, 90, 180), scene.truth[LAST])
    given = pink.astype(np.uint8), scene.source[LAST], scene.box[LAST]
    first = scene.truth[0], scene.source[0], scene.box[0]
    alone, both = edit_colours([first]), edit_colours([first, given])
    before, after = colours_kept(*given, alone), colours_kept(*given, both)
    assert before is not None
    assert after is not None
    assert before < 0.2
    assert after > 0.8


def test_an_edit_of_the_shape_alone_cannot_be_told_by_its_colours(scene: Scene) -> None:
    shifted = np.roll(scene.source[0], 4, axis=1)
    given = np.where(scene.box[0][..., None], shifted, scene.source[0])
    edit = edit_colours([(given, scene.source[0], scene.box[0])])
    assert not edit.telling
    assert colours_kept(given, scene.source[0], scene.box[0], edit) is None
    assert change_kept(given, scene.source[0], scene.box[0], edit) == 1.0


def test_a_colour_that_the_source_has_as_well_does_not_count() -> None:
    source = np.full((20, 20, 3), (100, 100, 100), np.uint8)
    source[:, 10:] = (40, 60, 200)
    edited = source.copy()
    edited[:10, :10] = (220, 50, 40)
    edited[:10, 10:] = (100, 100, 100)  # half of the edit is the source's grey
    inside = np.ones((20, 20), bool)
    edit = edit_colours([(edited, source, inside)])
    assert colours_kept(edited, source, inside, edit) == 1.0
    assert colours_kept(source, source, inside, edit) == 0.0


def test_no_edit_and_no_mask_have_no_numbers(scene: Scene) -> None:
    source, nowhere = scene.source[0], np.zeros_like(scene.box[0])
    unedited = edit_colours([(source, source, scene.box[0])])
    assert colours_kept(source, source, scene.box[0], unedited) is None
    assert change_kept(source, source, scene.box[0], unedited) is None
    edit = edit_colours([(scene.truth[0], source, scene.box[0])])
    assert colours_kept(source, source, nowhere, edit) is None
    assert change_kept(source, source, nowhere, edit) is None
