"""The region that is edited, from silhouettes or from one rectangle."""

from typing import get_args

import numpy as np
import pytest

from maskora.errors import UserError
from maskora.masks.shapes import MaskShape, final_masks, object_boxes, static_box_labels

HEIGHT, WIDTH = 64, 96


def walking_objects() -> np.ndarray:
    """Object 1 (a cross) walks right, object 3 (a square) is gone in the last two frames."""
    labels = np.zeros((9, HEIGHT, WIDTH), np.uint8)
    for frame, picture in enumerate(labels):
        x = 20 + 3 * frame + 2 * (frame % 2)
        picture[20:44, x + 4 : x + 8] = picture[28:32, x : x + 12] = 1
        if frame < 7:
            picture[50:60, 4:14] = 3
    return labels


def test_boxes_of_objects_without_specks() -> None:
    labels = walking_objects()
    labels[2, 0, 95] = 1
    boxes, object_ids, notes = object_boxes(labels, min_area=0.001)
    assert object_ids == (1, 3)
    assert notes == ()
    assert boxes.shape == (2, 9, 4)
    assert boxes[0, 2].tolist() == [26, 20, 38, 44]
    assert boxes[1, 6].tolist() == [4, 50, 14, 60]
    assert np.isnan(boxes[1, 7:]).all()


@pytest.mark.parametrize("shape", ["box", "hull"])
@pytest.mark.parametrize("margin", [0.0, 0.1, 0.4])
def test_box_and_hull_cover_the_silhouettes(shape: MaskShape, margin: float) -> None:
    final, notes = final_masks(walking_objects(), shape, margin, smooth=5, min_area=0.0, cell=8)
    assert (final[walking_objects() > 0] > 0).all()
    assert final.shape == walking_objects().shape
    assert final.dtype == np.uint8
    assert notes == ()


def test_the_box_is_made_of_whole_latent_cells() -> None:
    final, _ = final_masks(walking_objects(), "box", 0.1, smooth=5, min_area=0.0005, cell=8)
    cells = (final > 0).reshape(9, HEIGHT // 8, 8, WIDTH // 8, 8)
    np.testing.assert_array_equal(cells.all(axis=(2, 4)), cells.any(axis=(2, 4)))
    assert cells.any()
    assert not cells.all()
    assert set(np.unique(final)) == {0, 1, 3}


def test_the_box_uses_margin_and_smoothing() -> None:
    def area(margin: float, smooth: int) -> int:
        final, _ = final_masks(walking_objects(), "box", margin, smooth, min_area=0, cell=1)
        return int((final > 0).sum())

    assert area(0, 1) < area(0.2, 1) < area(0.2, 5)


def test_tight_is_the_cleaned_silhouette() -> None:
    labels = walking_objects()
    labels[2, 0, 95] = 1
    final, _ = final_masks(labels, "tight", 0.1, smooth=5, min_area=0.001, cell=8)
    np.testing.assert_array_equal(final, walking_objects())


def test_hull_and_noisy_keep_the_object_numbers() -> None:
    shapes: tuple[MaskShape, ...] = ("hull", "noisy")
    for shape in shapes:
        final, _ = final_masks(walking_objects(), shape, 0.0, smooth=5, min_area=0.0, cell=8)
        assert set(np.unique(final)) == {0, 1, 3}
        assert (final != walking_objects()).any()
        assert not (final[7:] == 3).any()


def test_full_is_everything_and_needs_no_note() -> None:
    final, notes = final_masks(walking_objects(), "full", 0.1, smooth=5, min_area=0.0, cell=8)
    assert (final == 1).all()
    assert notes == ()


def test_a_box_over_the_whole_frame_is_told() -> None:
    labels = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    labels[:, 30:34, 40:44] = 1
    labels[1, 4:60, 4:92] = 1
    final, notes = final_masks(labels, "box", 0.0, smooth=1, min_area=0.0, cell=8)
    assert (final[1] == 1).all()
    (note,) = notes
    assert "the box covers the whole frame: nothing is left to keep (frames 1)" in note


@pytest.mark.parametrize("shape", get_args(MaskShape))
def test_every_shape_gives_labels_of_the_same_size(shape: MaskShape) -> None:
    final, _ = final_masks(walking_objects(), shape, 0.1, smooth=4, min_area=0.0005, cell=16)
    assert final.shape == walking_objects().shape
    assert final.any()


def test_the_notes_about_small_objects_come_through() -> None:
    shapes: tuple[MaskShape, ...] = ("box", "tight")
    for shape in shapes:
        _, notes = final_masks(walking_objects(), shape, 0.1, smooth=5, min_area=0.5, cell=8)
        assert len(notes) == 2


def test_a_static_box() -> None:
    labels = static_box_labels((4, 8, 20, 10), frames=3, height=HEIGHT, width=WIDTH)
    expected = np.zeros((3, HEIGHT, WIDTH), np.uint8)
    expected[:, 8:18, 4:24] = 1
    np.testing.assert_array_equal(labels, expected)


def test_a_static_box_is_clipped_and_rounded_outward() -> None:
    labels = static_box_labels((-5, 60.5, 10.2, 100), frames=1, height=HEIGHT, width=WIDTH)
    expected = np.zeros((1, HEIGHT, WIDTH), np.uint8)
    expected[:, 60:, :6] = 1
    np.testing.assert_array_equal(labels, expected)


@pytest.mark.parametrize(
    ("box", "words"),
    [
        ((10, 10, 0, 5), "no size"),
        ((10, 10, 5, -5), "no size"),
        ((96, 10, 5, 5), "outside"),
        ((10, -5, 5, 5), "outside"),
    ],
)
def test_an_impossible_static_box(box: tuple[float, float, float, float], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        static_box_labels(box, frames=3, height=HEIGHT, width=WIDTH)
    assert "96x64" in str(caught.value)
