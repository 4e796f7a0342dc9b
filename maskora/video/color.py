"""Colour tags of a video, and which YCbCr matrix and range they stand for.

Names are ffmpeg's, numbers those of ITU-T H.273.
"""

from dataclasses import dataclass, replace
from typing import Literal

_PRIMARIES = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "film",
    9: "bt2020", 10: "smpte428", 11: "smpte431", 12: "smpte432", 22: "jedec-p22",
}  # fmt: skip
_TRANSFER = {
    1: "bt709", 4: "bt470m", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 8: "linear",
    9: "log100", 10: "log316", 11: "iec61966-2-4", 12: "bt1361e", 13: "iec61966-2-1",
    14: "bt2020-10", 15: "bt2020-12", 16: "smpte2084", 17: "smpte428", 18: "arib-std-b67",
}  # fmt: skip
_MATRIX = {
    0: "gbr", 1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m",
    8: "ycgco", 9: "bt2020nc", 10: "bt2020c",
}  # fmt: skip
_RANGE = {1: "tv", 2: "pc"}
_HDR_TRANSFER: dict[str, Literal["pq", "hlg"]] = {"smpte2084": "pq", "arib-std-b67": "hlg"}
_SCALE_MATRIX = {  # tag -> the name that ffmpeg's scale filter has known in all versions
    "bt709": "bt709", "fcc": "fcc", "bt470bg": "bt601", "smpte170m": "bt601",
    "smpte240m": "smpte240m", "bt2020nc": "bt2020", "bt2020c": "bt2020",
}  # fmt: skip


@dataclass(frozen=True)
class ColorTags:
    """What a file says about its colours, in ffmpeg's names; None where it says nothing."""

    primaries: str | None = None
    transfer: str | None = None
    matrix: str | None = None
    range: str | None = None

    @property
    def hdr(self) -> Literal["pq", "hlg"] | None:
        """ "pq", "hlg", or None for ordinary (SDR) video."""
        return _HDR_TRANSFER.get(self.transfer or "")


UNTAGGED = ColorTags()
BT709 = ColorTags("bt709", "bt709", "bt709", "tv")


def tags_from_codes(primaries: int, transfer: int, matrix: int, range_: int) -> ColorTags:
    """The tags for the numbers that a decoded frame carries; unknown numbers become None."""
    return ColorTags(
        _PRIMARIES.get(primaries), _TRANSFER.get(transfer), _MATRIX.get(matrix), _RANGE.get(range_)
    )


def scale_matrix(tags: ColorTags, height: int) -> str:
    """The matrix for ffmpeg's scale filter. Untagged: BT.709 from 720 lines up, else BT.601,
    as players guess (swscale itself would take BT.601 at every size)."""
    guess = "bt709" if height >= 720 else "bt601"
    return _SCALE_MATRIX.get(tags.matrix or "", guess)


def sdr_tags(tags: ColorTags) -> ColorTags:
    """The tags for writing 8-bit YCbCr: HDR pictures were mapped to BT.709 when they were read,
    and a matrix that the conversion does not know (RGB, YCgCo) becomes BT.709."""
    if tags.hdr:
        return BT709
    if tags.matrix is not None and tags.matrix not in _SCALE_MATRIX:
        return replace(tags, matrix="bt709", range="tv")
    return tags
