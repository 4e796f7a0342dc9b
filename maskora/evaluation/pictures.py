"""Frames made small for the page: source, result, truth, and where they differ."""

import base64
import io
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image

from maskora.evaluation.judge import Moment

WIDEST = 400
DIFFERENCE = 4  # times brighter than it is


@dataclass(frozen=True)
class Picture:
    """A picture for the page: what it is, and its JPEG file as a data URL."""

    title: str
    url: str


def pictures(moment: Moment) -> list[Picture]:
    """One frame of everything, small."""
    shown = {
        "source, with the mask": _outlined(moment.source_HWC, moment.inside_HW),
        "result": moment.result_HWC,
    }
    if moment.truth is not None:
        shown["truth"] = moment.truth.edited_HWC
    title = f"difference to the source, × {DIFFERENCE}"
    shown[title] = _heat(moment.result_HWC, moment.source_HWC)
    return [Picture(title, _url(_small(picture))) for title, picture in shown.items()]


def _small(picture_HWC: np.ndarray) -> np.ndarray:
    height, width = picture_HWC.shape[:2]
    if width <= WIDEST:
        return picture_HWC
    size = WIDEST, max(1, round(height * WIDEST / width))
    return np.asarray(cv2.resize(picture_HWC, size, interpolation=cv2.INTER_AREA))


def _outlined(frame_HWC: np.ndarray, inside_HW: np.ndarray) -> np.ndarray:
    picture = np.ascontiguousarray(frame_HWC).copy()
    outlines, _ = cv2.findContours(
        inside_HW.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
    )
    thickness = max(1, round(frame_HWC.shape[1] / WIDEST * 1.5))
    return np.asarray(cv2.drawContours(picture, outlines, -1, (255, 70, 70), thickness))


def _heat(one_HWC: np.ndarray, other_HWC: np.ndarray) -> np.ndarray:
    largest_HW = cv2.absdiff(one_HWC, other_HWC).max(axis=-1)
    levels = cv2.convertScaleAbs(largest_HW, alpha=DIFFERENCE)
    return np.asarray(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO))[..., ::-1]


def _url(picture_HWC: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(picture_HWC).save(file, format="JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
