"""A folder with the truth of an edit: what every frame should have become."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from maskora.commands.origin import placement_of
from maskora.errors import UserError
from maskora.evaluation.judge import Truth
from maskora.evaluation.object import differs
from maskora.masks.files import read_labels
from maskora.video.fit import fit_image, fit_labels
from maskora.video.images import read_image
from maskora.workspace import Source


@dataclass(frozen=True)
class TruthFiles:
    """The pictures of a folder of truth.

    Attributes:
        folder: holds 00000.png, 00001.png, …; masks/ and background/ hold the same names.
        source: the clip that it belongs to.
        masks: whether masks/ is there: where the edited object is.
        background: whether background/ is there: the scene without the object.
    """

    folder: Path
    source: Source
    masks: bool
    background: bool

    def frame(self, number: int, source_HWC: np.ndarray, inside_HW: np.ndarray) -> Truth:
        """The truth of a frame, at the workspace's size.

        Without masks/ the object is where the truth differs visibly from the source in the mask.

        Raises:
            UserError: a picture is damaged or of another size.
        """
        name = f"{number:05d}.png"
        edited_HWC = self._picture(self.folder / name)
        return Truth(
            edited_HWC=edited_HWC,
            object_HW=(
                self._labels(self.folder / "masks" / name) > 0
                if self.masks
                else inside_HW & differs(edited_HWC, source_HWC)
            ),
            background_HWC=(
                self._picture(self.folder / "background" / name) if self.background else None
            ),
        )

    def _picture(self, path: Path) -> np.ndarray:
        picture = _read_picture(path)
        return (
            fit_image(picture, placement_of(self.source))
            if self._is_large(path, picture)
            else picture
        )

    def _labels(self, path: Path) -> np.ndarray:
        _read_picture(path)  # what read_labels says of a damaged file is about masks of a clip
        labels = read_labels(path)
        return (
            fit_labels(labels, placement_of(self.source))
            if self._is_large(path, labels)
            else labels
        )

    def _is_large(self, path: Path, picture: np.ndarray) -> bool:
        """Whether a picture has the original's size rather than the workspace's."""
        size = (picture.shape[1], picture.shape[0])
        wanted = (self.source.size, self.source.original_size)
        if size not in wanted:
            own, original = (f"{width}x{height}" for width, height in wanted)
            raise UserError(
                f"--truth: {path} is {size[0]}x{size[1]}: write it in the workspace's size {own} "
                f"or the original's {original}"
            )
        return size != self.source.size


def _read_picture(path: Path) -> np.ndarray:
    try:
        return read_image(path)
    except UserError as error:
        raise UserError(f"--truth: {error}: write this picture of the truth again") from None


def find_truth(folder: Path, source: Source) -> TruthFiles:
    """Look whether a folder holds the truth of every frame.

    Raises:
        UserError: it does not.
    """
    parts = {part: (folder / part).is_dir() for part in ("masks", "background")}
    wanted = [folder, *(folder / part for part, there in parts.items() if there)]
    for place in wanted:
        for number in range(source.frames):
            path = place / f"{number:05d}.png"
            if not path.is_file():
                raise UserError(
                    f"--truth: {path} is missing: {place} needs a picture of every frame, "
                    f"00000.png to {source.frames - 1:05d}.png"
                )
    return TruthFiles(folder, source, **parts)
