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
from maskora.models.files.tensors import Kind, Layout, Weights, read_weights, recognise
from maskora.models.files.wan import IMAGE_ENCODERS, TEXT_ENCODERS, VAES

if TYPE_CHECKING:
    from maskora.streaming.checkpoint import Reader

WHAT = {
    "transformer": "a transformer of Wan2.1, Wan2.2, HunyuanVideo or HunyuanVideo-1.5",
    "transformer_2": "a transformer of Wan2.2",
    "vae": "the VAE of Wan2.1",
    "text_encoder": "the text encoder of Wan (UMT5-XXL)",
    "image_encoder": "the image encoder of Wan2.1 (CLIP ViT-H)",
}
# What config.json says and tensors tell, by their names and by ours.
AGREE = {
    "in_dim": "in_channels", "out_dim": "out_channels", "num_layers": "num_layers",
    "ffn_dim": "ffn_dim", "freq_dim": "freq_dim",
}  # fmt: skip


@dataclass(frozen=True)
class StoredPart:
    """A part by its files, which are looked at when something is asked.

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

    @property
    def description(self) -> str:
        """What was found, in a line. Raises UserError as `kind` does."""
        return f"{self.part}: {self.where}, {self.kind.description}"

    @cached_property
    def given(self) -> Mapping[str, Any]:
        """What config.json says; nothing without one. Raises UserError."""
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
                f"{self.missing[0]} is not there, and the files of this layout alone tell the "
                f"base's sizes: fetch it as a whole, or name another file"
            )
        return read_weights(self.paths, self.where)

    @cached_property
    def kind(self) -> Kind:
        """What the tensors are. Raises UserError where they are not this part."""
        kind = recognise(self.weights, self._layouts(), WHAT[self.part])
        for theirs, ours in AGREE.items():
            said, found = self.given.get(theirs), kind.config.get(ours)
            if said not in (None, found):
                raise UserError(
                    f"{self.where}: {theirs} is {said!r} in its config.json, and its tensors are "
                    f"of {found}: they do not belong together"
                )
        return kind

    def check(self) -> None:
        """Look at the files. Raises UserError where they are not this part."""
        assert self.kind

    def _layouts(self) -> Collection[Layout]:
        if self.part == "vae":
            return VAES
        if self.part == "text_encoder":
            return TEXT_ENCODERS
        if self.part == "image_encoder":
            return IMAGE_ENCODERS
        return (wan.transformer(self.given), *hunyuan.TRANSFORMERS)

    def reader(self) -> "Reader":
        """The tensors by the names of the module that is built from `kind.config`."""
        from maskora.streaming.checkpoint import Checkpoint, Translated

        translation = self.kind.translation
        return Translated(
            Checkpoint(self.weights.stored, self.where),
            translation.places,
            translation.unknown,
            translation.name_in_file,
        )
