"""One part of a base, in files of another layout than diffusers'."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskora.errors import UserError
from maskora.hub import refuse_quantised
from maskora.models.files import hunyuan, wan
from maskora.models.files.folder import read_json
from maskora.models.files.tensors import CheckpointLayout, Kind, Weights, read_weights, recognise

if TYPE_CHECKING:
    from maskora.streaming.tensor_files import Reader

# The parts that may be single files ([model] files), and what such a file must hold.
WHAT = {
    "transformer": "a transformer of Wan2.1, Wan2.2, HunyuanVideo or HunyuanVideo-1.5",
    "transformer_2": "a transformer of Wan2.2",
    "vae": "the VAE of Wan2.1",
    "text_encoder": "the text encoder of Wan (UMT5-XXL)",
    "image_encoder": "the image encoder of Wan2.1 (CLIP ViT-H)",
}
# Keys of the publisher's config.json that the tensors show as well -> diffusers' names of them.
AGREE = {
    "in_dim": "in_channels", "out_dim": "out_channels", "num_layers": "num_layers",
    "ffn_dim": "ffn_dim", "freq_dim": "freq_dim",
}  # fmt: skip


@dataclass(frozen=True)
class StoredPart:
    """A part by its files, which are read when something is asked.

    Attributes:
        part: what it is, one of `WHAT`.
        paths: its files.
        where: they, for people.
        publishers: its publisher's own config.json, where there is one.
    """

    part: str
    paths: tuple[Path, ...]
    where: str
    publishers: Path | None = None

    @property
    def files(self) -> list[Path]:
        """All that decides what it is."""
        return [*self.paths, *([self.publishers] if self.publishers else [])]

    @property
    def missing(self) -> list[Path]:
        """Files that are not there."""
        return [path for path in self.files if not path.is_file()]

    @cached_property
    def given(self) -> Mapping[str, Any]:
        """The publisher's config.json; empty without one. Raises UserError."""
        if self.publishers is None:
            return {}
        given = read_json(self.publishers)
        refuse_quantised(given, self.publishers.parent, "[model] path")
        return given

    @cached_property
    def weights(self) -> Weights:
        """The tensors. Raises UserError where the files cannot be read."""
        if self.missing:
            raise UserError(
                f"{self.missing[0]} is not there, and only the files of this layout hold the "
                f"base's sizes: fetch it as a whole, or name another file"
            )
        return read_weights(self.paths, self.where)

    @cached_property
    def kind(self) -> Kind:
        """The recognised tensors. Raises UserError where they are not this part."""
        kind = recognise(self.weights, self._layouts(), WHAT[self.part])
        for theirs, ours in AGREE.items():
            given, found = self.given.get(theirs), kind.config.get(ours)
            if given not in (None, found):
                raise UserError(
                    f"{self.where}: {theirs} is {given!r} in its config.json, and its tensors are "
                    f"of {found}: they do not belong together"
                )
        return kind

    def reader(self) -> "Reader":
        """The tensors by the names of the module that is built from `kind.config`."""
        from maskora.streaming.tensor_files import Checkpoint, Translated

        found = self.kind.translation
        checkpoint = Checkpoint(self.weights.stored, self.where)
        return Translated(checkpoint, found.places, found.unknown, found.name_in_file)

    def _layouts(self) -> Collection[CheckpointLayout]:
        if self.part in wan.LAYOUTS:
            return wan.LAYOUTS[self.part]
        return (wan.transformer(self.given), *hunyuan.TRANSFORMERS)
