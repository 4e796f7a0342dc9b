"""Lazily read frames are the arrays that they stand for, and their digests those of all bytes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from maskora.errors import UserError
from maskora.files import digest
from maskora.frames import LazyFrames, PackedLabels, digest_frames, digest_inside, frames_of_files
from maskora.video.images import read_image, write_png

LABELS = arrays(
    np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=20), elements=st.integers(0, 2)
)
SIZE = (6, 4)


def lazy(frames: np.ndarray) -> LazyFrames:
    return LazyFrames(frames.__getitem__, frames.shape)


@given(LABELS)
def test_digests_are_those_of_all_bytes_and_all_bits(labels_THW: np.ndarray) -> None:
    """By which LoRAs that were trained before are known, and results."""
    for frames in (labels_THW, lazy(labels_THW)):
        assert digest_frames(frames) == digest(labels_THW.tobytes())
        assert digest_inside(frames) == digest(np.packbits(labels_THW > 0).tobytes())


@given(LABELS, st.data())
def test_numbers_and_slices_are_those_of_an_array(
    labels_THW: np.ndarray, data: st.DataObject
) -> None:
    frames, count = lazy(labels_THW), len(labels_THW)
    which = data.draw(st.one_of(st.integers(-count, count - 1), st.slices(count)))
    np.testing.assert_array_equal(frames[which], labels_THW[which])
    np.testing.assert_array_equal(list(frames), labels_THW)
    assert (len(frames), frames.shape) == (count, labels_THW.shape)
    with pytest.raises(IndexError):
        frames[count]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(3)]
    for path in paths:
        write_png(path, rng.integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8))
    return paths


@pytest.mark.parametrize(("kept", "again"), [(0, [1, 2, 1]), (1, [1, 2, 1]), (2, []), (81, [])])
def test_files_are_read_when_they_are_asked_for_but_the_last_ones(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, kept: int, again: list[int]
) -> None:
    monkeypatch.setattr("maskora.frames.KEPT", kept)
    read: list[Path] = []

    def reading(path: Path) -> np.ndarray:
        read.append(path)
        return read_image(path)

    frames = frames_of_files(files, reading, SIZE)
    assert (frames.shape, read) == ((3, 4, 6, 3), files), "each is looked at once"
    np.testing.assert_array_equal(frames[1:], [read_image(path) for path in files[1:]])
    np.testing.assert_array_equal(frames[1], read_image(files[1]))
    assert read == [*files, *(files[number] for number in again)]


def test_a_file_of_another_size_is_found_at_once(files: list[Path]) -> None:
    with pytest.raises(UserError, match=r"0\.png is 6x4; the frames are 4x6"):
        frames_of_files(files, read_image, (4, 6))


def test_a_file_that_has_changed_meanwhile_is_not_taken_for_the_old_one(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskora.frames.KEPT", 0)
    frames = frames_of_files(files, read_image, SIZE)
    write_png(files[1], np.zeros((4, 6, 3), np.uint8))
    files[2].unlink()
    assert frames[0].shape == (4, 6, 3)
    with pytest.raises(UserError, match=r"1\.png was changed while this run went on"):
        frames[1]
    with pytest.raises(UserError, match=r"2\.png: no such file"):
        frames[2]


@given(LABELS, st.data())
def test_packed_labels_are_those_that_were_given_or_put_there(
    labels_THW: np.ndarray, data: st.DataObject
) -> None:
    packed = PackedLabels(labels_THW)
    number = data.draw(st.integers(0, len(labels_THW) - 1))
    other_HW = data.draw(arrays(np.uint8, labels_THW.shape[1:]))
    packed[number] = other_HW
    packed[number][:] = 7  # a copy
    labels_THW[number] = other_HW
    assert packed.shape == labels_THW.shape
    np.testing.assert_array_equal(packed[:], labels_THW)
