"""The region that would be edited, for looking at while its settings are being chosen."""

from dataclasses import dataclass

from gui_mask.overlay import Outline, box_outlines, outlines
from maskora.app.workspace import Source
from maskora.config.tables import Mask
from maskora.masks import Labels
from maskora.masks.shapes import Boxes, MaskShape, final_boxes, final_masks, object_boxes


@dataclass(frozen=True)
class Region:
    """The settings of [mask] that are chosen by looking."""

    shape: MaskShape
    margin: float
    smooth: int

    @classmethod
    def of(cls, mask: Mask) -> "Region":
        """Those of a configuration."""
        return cls(mask.shape, mask.margin, mask.smooth)


class RegionPreview:
    """Outlines of the region in every frame; boxes are found once per change of the labels."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._found: tuple[int, float, Boxes, tuple[int, ...], tuple[str, ...]] | None = None

    def outlines(
        self, labels_THW: Labels, version: int, region: Region, min_area: float
    ) -> tuple[list[list[tuple[int, list[Outline]]]], tuple[str, ...]]:
        """Outlines per frame, and notes for the person.

        Args:
            version: of the labels; the same version means the same labels.
        """
        frames, (width, height), cell = len(labels_THW), self._source.size, self._source.cell
        if region.shape != "box":
            final_THW, notes = final_masks(
                labels_THW, region.shape, region.margin, region.smooth, min_area, cell
            )
            return [outlines(labels_HW) for labels_HW in final_THW], notes
        if self._found is None or self._found[:2] != (version, min_area):
            self._found = (version, min_area, *object_boxes(labels_THW, min_area))
        _, _, boxes_NT4, object_ids, notes = self._found
        final_NT4 = final_boxes(boxes_NT4, region.margin, region.smooth, cell, width, height)
        return [box_outlines(final_NT4, object_ids, frame) for frame in range(frames)], notes
