"""The contact sheet."""

import numpy as np

from maskora.video.overview import contact_sheet


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
