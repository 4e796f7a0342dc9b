"""A base's parts by name, however its publisher lays the files out. Imports no torch.

A part is what a pipeline of diffusers calls so: "transformer", "vae", "text_encoder", "tokenizer",
"scheduler" and so on. What a part needs is its configuration, its weights, or a folder that
transformers reads by itself.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maskora.files import digest
from maskora.hub import refuse_quantised, without_code
from maskora.models.folder import check_parts, part_files, read_json, sampled_content
from maskora.models.reading.finding import find_wan, take_files
from maskora.models.reading.pieces import Overlaid
from maskora.streaming.header import read_headers, shards

if TYPE_CHECKING:
    from maskora.streaming.sources import Reader

CONFIGS = ("config.json", "scheduler_config.json")


class Source(Protocol):
    """Where a base's parts come from.

    Attributes:
        where: the folder that people gave.
    """

    where: Path

    @property
    def told(self) -> str:
        """What was found there; a further line for each part that is not as diffusers has it.

        Raises:
            UserError: such a part is damaged, or is another model's.
        """
        ...

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        """Every part is there.

        Args:
            weights: parts that have weights.
            files: part -> file names, of which one must exist in its folder.

        Raises:
            UserError: with all that is missing, in one message.
        """
        ...

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration as diffusers or transformers write it. Raises UserError."""
        ...

    def described(self, part: str) -> str:
        """Where a part's configuration stands, for people."""
        ...

    def index(self) -> dict[str, Any]:
        """What the pipeline itself is told (`model_index.json`); empty where there is none."""
        ...

    def weights(self, part: str) -> "Reader":
        """A part's tensors, under the names of the module that is built from its configuration."""
        ...

    def folder(self, part: str) -> Path:
        """A folder from which transformers reads a tokenizer or a processor."""
        ...

    def parts(self) -> list[str]:
        """Which parts have files."""
        ...

    def paths(self, part: str) -> list[Path]:
        """Every file of a part."""
        ...


class DiffusersFolder:
    """A folder in diffusers' layout: one sub-folder per part."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.told = f"a folder in diffusers' layout ({where})"

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        """See `Source`."""
        check_parts(self.where, weights, files)

    def config(self, part: str) -> dict[str, Any]:
        """See `Source`."""
        config = read_json(self._described(part))
        refuse_quantised(config, self.where / part, "[model] path")
        settings: dict[str, Any] = without_code(config)
        return settings

    def described(self, part: str) -> str:
        """See `Source`."""
        return str(self._described(part))

    def _described(self, part: str) -> Path:
        paths = [self.where / part / name for name in CONFIGS]
        return next((path for path in paths if path.is_file()), paths[0])

    def index(self) -> dict[str, Any]:
        """See `Source`."""
        path = self.where / "model_index.json"
        return read_json(path) if path.is_file() else {}

    def weights(self, part: str) -> "Reader":
        """See `Source`."""
        from maskora.streaming.checkpoint import Checkpoint

        folder = self.where / part
        return Checkpoint(read_headers(shards(folder)), str(folder))

    def folder(self, part: str) -> Path:
        """See `Source`."""
        return self.where / part

    def parts(self) -> list[str]:
        """See `Source`."""
        return sorted(folder.name for folder in self.where.glob("*/"))

    def paths(self, part: str) -> list[Path]:
        """See `Source`."""
        return part_files(self.where / part)


def open_source(where: Path | None, files: Mapping[str, Path] | None = None) -> Source:
    """Recognise how a folder is laid out, and lay single files over it.

    Args:
        where: the folder; None where the files are all that there is.
        files: part -> its file.

    Raises:
        UserError: a configuration file in the folder is damaged.
    """
    if where is None:
        assert files
        return take_files(files, alone=True)
    found = find_wan(where) or DiffusersFolder(where)
    return Overlaid(take_files(files, alone=False), files, found) if files else found


def identity(source: Source, part: str) -> str:
    """A name of a part by the content of its files, wherever they lie."""
    facts: list[bytes | str] = []
    for path in source.paths(part):
        facts += [path.name, sampled_content(path)]
    return digest(*facts)
