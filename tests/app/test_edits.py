"""Edited frames as people have them: with transparency, in another size."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from maskora.app.edits import read_edited
from maskora.app.workspace import edit_size
from maskora.errors import UserError
from maskora.video.images import write_png
from tests.app.small import HEIGHT, WIDTH, picture, small_clip

SOURCE = small_clip().source.model_copy(update={"original_size": (2 * WIDTH, 2 * HEIGHT)})
SOURCE = SOURCE.model_copy(update={"region": (0, 0, 2 * WIDTH, 2 * HEIGHT)})


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_the_source_shows_through_where_an_edit_is_transparent(tmp_path: Path, scale: int) -> None:
    """Whatever colour is hidden there, and at every size."""
    path = tmp_path / "00000.png"
    pixels = np.full((scale * HEIGHT, scale * WIDTH, 4), (200, 0, 0, 0), np.uint8)
    pixels[: scale * HEIGHT // 2] = (0, 90, 0, 255)
    Image.fromarray(pixels).save(path)
    source = picture(0)
    given, fitted, notes = read_edited(path, SOURCE, source)
    upper, lower = slice(HEIGHT // 2 - 2), slice(HEIGHT // 2 + 2, None)
    assert (fitted[upper] == (0, 90, 0)).all()
    np.testing.assert_array_equal(fitted[lower], source[lower])
    assert given is fitted
    assert "the source shows through" in notes[0]


def test_opaque_edits_are_taken_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    Image.fromarray(picture(3)).convert("RGBA").save(path)
    given, fitted, notes = read_edited(path, SOURCE, picture(0))
    np.testing.assert_array_equal(given, picture(3))
    np.testing.assert_array_equal(fitted, picture(3))
    assert notes == []


def test_an_edit_of_another_size_and_the_same_shape_is_resized(tmp_path: Path) -> None:
    path = tmp_path / "00000.png"
    write_png(path, np.full((5 * HEIGHT + 1, 5 * WIDTH, 3), (9, 90, 200), np.uint8))
    given, fitted, notes = read_edited(path, SOURCE, picture(0))
    assert given.shape[:2] in ((HEIGHT, WIDTH), (2 * HEIGHT, 2 * WIDTH))
    assert fitted.shape == (HEIGHT, WIDTH, 3)
    assert (fitted == (9, 90, 200)).all()
    assert f"{5 * WIDTH}x{5 * HEIGHT + 1} is resized to" in notes[0]


def test_the_size_at_which_an_edit_is_used() -> None:
    """Of the workspace's shape and the original's, the nearer one; its own where it has one."""
    source = SOURCE.model_copy(update={"original_size": (1920, 1080), "size": (832, 480)})
    path = Path("a.png")
    assert edit_size(path, (832, 480), source) == (832, 480)
    assert edit_size(path, (1920, 1080), source) == (1920, 1080)
    assert edit_size(path, (1280, 720), source) == (1920, 1080)
    assert edit_size(path, (1664, 960), source) == (832, 480)
    assert edit_size(path, (1344, 768), source) == (832, 480)
    for other in ((1024, 1024), (480, 832), (900, 480)):
        with pytest.raises(UserError, match=r"of the workspace's 832x480 or .* 1920x1080"):
            edit_size(path, other, source)
