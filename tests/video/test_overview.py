"""The contact sheet."""

import numpy as np

from maskora.video.composite import contact_sheet


def test_a_sheet_shows_frames_boxes_and_numbers() -> None:
    frames = [np.full((120, 160, 3), 40 * (i + 1), np.uint8) for i in range(5)]
    labels = [np.zeros((120, 160), np.uint8) for _ in frames]
    labels[1][60:100, 20:60], labels[1][60:100, 90:140] = 1, 2
    sheet = contact_sheet(frames, labels, range(5), columns=3, width=600)
    assert sheet.dtype == np.uint8
    assert abs(sheet.shape[1] - 600) <= 12
    assert sheet.shape[0] > 2 * 140, "two rows"
    plain = contact_sheet(frames, [np.zeros_like(x) for x in labels], range(5), 3, 600)
    changed = np.argwhere((sheet != plain).any(-1))
    assert changed.size, "the boxes are drawn"
    assert (changed[:, 0] < sheet.shape[0] // 2).all(), "on the second frame alone"
    assert (abs(changed[:, 1] - 300) < 110).all()
    coloured = {tuple(c) for c in sheet.reshape(-1, 3) if np.ptp(c.astype(int)) > 100}
    assert len(coloured) == 2, "a colour for each object"
    numbered = contact_sheet(frames, labels, range(5, 10), 3, 600)
    assert (numbered != sheet).any()


def test_an_outline_follows_the_shape() -> None:
    """Of an L, the corner that is left out stays as it was."""
    frame = np.full((120, 160, 3), 90, np.uint8)
    labels = np.zeros((120, 160), np.uint8)
    labels[40:100, 40:60], labels[80:100, 40:140] = 1, 1
    sheets = [contact_sheet([frame], [x], [""], 1, 168) for x in (labels, np.zeros_like(labels))]
    changed = (sheets[0] != sheets[1]).any(-1)[4:124, 4:164]
    assert changed[labels > 0].all()
    assert not changed[36:76, 66:146].any(), "no bounding box around it"
    assert not changed[:, 144:].any()
