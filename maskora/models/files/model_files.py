"""The parts of a base, from one folder, from files of their own, or from both."""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maskora.config.tables import Model
from maskora.errors import UserError
from maskora.files import digest
from maskora.hub import find_file, locate
from maskora.models.files import wan
from maskora.models.files.folder import (
    DiffusersFolder,
    check_readable,
    holds_one,
    part_files,
    read_json,
    sampled_content,
)
from maskora.models.files.part import StoredPart
from maskora.streaming.header import shards

if TYPE_CHECKING:
    from maskora.streaming.tensor_files import Reader

# A folder as Wan-AI publishes it: Wan2.2 has two transformers, each in a folder of its own.
EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
WAN_FILES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
}
WAN_TOKENIZER = "google/umt5-xxl"
STEM = "diffusion_pytorch_model"


class ModelFiles(Protocol):
    """The parts of a base, wherever they lie.

    Attributes:
        where: the folder that people gave.
    """

    where: Path

    @property
    def description(self) -> str:
        """The layout, and a further line for each part that is not as diffusers has it.

        Raises:
            UserError: such a part is damaged, or is another model's.
        """
        ...

    def check(self, weights: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> None:
        """Every part is there.

        Args:
            weights: parts that have weights.
            files: part -> file names, of which one must exist in its folder; "a and b" is both.

        Raises:
            UserError: with all that is missing, each weight shard included, in one message; or
                with a file that is damaged.
        """
        ...

    def config(self, part: str) -> dict[str, Any]:
        """A part's configuration as diffusers or transformers write it. Raises UserError."""
        ...

    def described(self, part: str) -> str:
        """The file that holds a part's configuration, for people."""
        ...

    def index(self) -> dict[str, Any]:
        """The settings of the pipeline itself (`model_index.json`); empty where there are none."""
        ...

    def weights(self, part: str) -> "Reader":
        """A part's tensors, under the names of the module that is built from its configuration."""
        ...

    def folder(self, part: str) -> Path:
        """A folder from which transformers reads a tokenizer or a processor."""
        ...

    def parts(self) -> list[str]:
        """The parts that have files."""
        ...

    def paths(self, part: str) -> list[Path]:
        """Every file of a part."""
        ...


def open_source(where: Path | None, files: Mapping[str, Path] | None = None) -> ModelFiles:
    """Recognise how a folder is laid out, and let single files go before its own.

    Args:
        where: the folder; None where the files are all that there is.
        files: part -> its file.

    Raises:
        UserError: a configuration file in the folder is damaged.
    """
    if where is None:
        assert files
        return from_single_files(files, alone=True)
    found = _find_wan(where) or DiffusersFolder(where)
    return WithOverrides(from_single_files(files, alone=False), found) if files else found


def resolve_base(model: Model, root: Path, patterns: list[str] | None = None) -> ModelFiles:
    """The parts of the base that [model] names.

    Args:
        root: the folder from which relative paths count.
        patterns: which of a hub repository's files are needed; None for all of a model's.

    Raises:
        UserError: a file or folder is not there, or a hub repository cannot be reached.
    """
    files = resolve_files(model, root)
    if find_file(model.path, root):
        raise UserError(
            f"[model] path: {model.path!r} is a file: name it in [model] files by its part, as in "
            f'files = {{transformer = "{model.path}"}}'
        )
    folder = locate(model.path, root, patterns, without=model.files) if model.path else None
    return open_source(folder, files)


def resolve_files(model: Model, root: Path) -> dict[str, Path]:
    """Part -> its single file, of [model] files. Raises UserError with all that are not there."""
    found = {part: find_file(path, root) for part, path in model.files.items()}
    missing = [
        f"[model] files: {part} = {model.files[part]!r} does not exist"
        for part, file in found.items()
        if file is None
    ]
    if missing:
        raise UserError("\n".join(missing))
    return {part: file for part, file in found.items() if file is not None}


def identity(source: ModelFiles, part: str) -> str:
    """A name of a part by the content of its files, wherever they lie."""
    facts: list[bytes | str] = []
    for path in source.paths(part):
        facts += [path.name, sampled_content(path)]
    return digest(*facts)


class SplitFiles:
    """Parts in files of their own; `ModelFiles` says what each method promises."""

    def __init__(
        self,
        where: Path,
        what: str,
        stored: Mapping[str, StoredPart],
        settings: Mapping[str, dict[str, Any]],
        folders: Mapping[str, Callable[[], Path]],
    ) -> None:
        """
        Args:
            what: what lies there, in a few words.
            stored: the parts with weights, by name.
            settings: the configuration of parts that are nothing more.
            folders: a folder for each part that transformers reads by itself.
        """
        self.where, self.stored = where, stored
        self._what, self._settings, self._folders = what, settings, folders

    @property
    def description(self) -> str:
        found = (self.stored[part] for part in self.parts())
        lines = (f"{one.part}: {one.where}, {one.kind.description}" for one in found)
        return "\n  ".join([self._what, *lines])

    def check(self, weights: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> None:
        has = {*self.stored, *self._settings, *self._folders}
        own = [self.stored[part] for part in weights if part in self.stored]
        missing = [part for part in (*weights, *files) if part not in has]
        missing += [self._short(path) for part in own for path in part.missing]
        looks = [partial(getattr, part, "kind") for part in own if not part.missing]
        folders = [one for one in files.items() if one[0] in self._folders]
        raise_all(
            [
                *([f"{self._what}: missing {', '.join(missing)}"] if missing else []),
                *problems_of(looks),
                *problems_of(partial(self._check_folder, *one) for one in folders),
            ]
        )

    def _check_folder(self, part: str, names: tuple[str, ...]) -> None:
        folder = self._folders[part]()
        if not holds_one(folder, names):
            raise UserError(f"{self._what}: missing {self._short(folder / names[0])}")
        check_readable(folder)

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.where) if path.is_relative_to(self.where) else path)

    def config(self, part: str) -> dict[str, Any]:
        return dict(self._settings[part] if part in self._settings else self._of(part).kind.config)

    def described(self, part: str) -> str:
        return self.stored[part].where if part in self.stored else self._what

    def index(self) -> dict[str, Any]:
        return {}

    def weights(self, part: str) -> "Reader":
        return self._of(part).reader()

    def folder(self, part: str) -> Path:
        if part not in self._folders:
            raise UserError(f"{self._what} has no {part}")
        return self._folders[part]()

    def parts(self) -> list[str]:
        return sorted(name for name, part in self.stored.items() if not part.missing)

    def paths(self, part: str) -> list[Path]:
        if part in self._folders:
            return part_files(self._folders[part]())
        return self.stored[part].files if part in self.stored else []

    def _of(self, part: str) -> StoredPart:
        if part not in self.stored:
            raise UserError(f"{self._what} has no {part}")
        return self.stored[part]


class WithOverrides:
    """Some parts in files of their own, all others where a whole base lies; a `ModelFiles`."""

    def __init__(self, top: SplitFiles, under: ModelFiles) -> None:
        self.where = under.where
        self._top, self._under = top, under

    @property
    def description(self) -> str:
        return f"{self._top.description}\n  all else: {self._under.description}"

    def check(self, weights: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> None:
        own = tuple(part for part in weights if part in self._top.stored)
        others = tuple(part for part in weights if part not in self._top.stored)
        looks = [partial(self._top.check, own, {}), partial(self._under.check, others, files)]
        raise_all(problems_of(looks))

    def config(self, part: str) -> dict[str, Any]:
        return self._home(part).config(part)

    def described(self, part: str) -> str:
        return self._home(part).described(part)

    def index(self) -> dict[str, Any]:
        return self._under.index()

    def weights(self, part: str) -> "Reader":
        return self._home(part).weights(part)

    def folder(self, part: str) -> Path:
        return self._under.folder(part)

    def parts(self) -> list[str]:
        under = {part for part in self._under.parts() if part not in self._top.stored}
        return sorted({*self._top.parts(), *under})

    def paths(self, part: str) -> list[Path]:
        return self._home(part).paths(part)

    def _home(self, part: str) -> ModelFiles:
        return self._top if part in self._top.stored else self._under


def problems_of(attempts: Iterable[Callable[[], object]]) -> list[str]:
    """The message of each attempt that raises UserError."""
    problems = []
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            problems.append(str(error))
    return problems


def raise_all(problems: Iterable[str]) -> None:
    """Raise UserError with all problems, each once, if there are any."""
    if text := "\n".join(dict.fromkeys(problems)):
        raise UserError(text)


def _find_wan(where: Path) -> SplitFiles | None:
    """A folder as Wan-AI (or alibaba-pai, for Fun) publishes it; None where it is none.

    Raises:
        UserError: a config.json or an index in it is damaged.
    """
    if (where / "model_index.json").is_file():
        return None
    folders = {part: where / name for part, name in EXPERTS.items()}
    if not any((folder / "config.json").is_file() for folder in folders.values()):
        folders = {"transformer": where}
        path = where / "config.json"
        if not path.is_file() or "num_heads" not in read_json(path):
            return None
    stored = {part: _wan_transformer(part, folder) for part, folder in folders.items()}
    for part, name in WAN_FILES.items():
        stored[part] = StoredPart(part, (where / name,), str(where / name))
    return SplitFiles(
        where,
        f"a folder in Wan's original layout ({where})",
        stored,
        {"scheduler": wan.scheduler(stored)},
        {"tokenizer": lambda: where / WAN_TOKENIZER, "image_processor": wan.image_processor},
    )


def _wan_transformer(part: str, folder: Path) -> StoredPart:
    named = [path for path in shards(folder) if path.name.startswith(STEM)]
    paths = tuple(named) or (folder / f"{STEM}.safetensors",)
    return StoredPart(part, paths, str(folder), folder / "config.json")


def from_single_files(files: Mapping[str, Path], alone: bool) -> SplitFiles:
    """Files that are named one by one.

    Args:
        files: part -> its file.
        alone: there is no folder beside them; Wan's bases need none.
    """
    stored = {part: StoredPart(part, (path,), str(path)) for part, path in files.items()}
    where = _common([path.parent for path in files.values()])
    if not alone:
        return SplitFiles(where, "single files", stored, {}, {})
    folders = {"image_processor": wan.image_processor}
    if "text_encoder" in stored:
        folders["tokenizer"] = lambda: wan.tokenizer(stored["text_encoder"].weights)
    what = "single files without a folder beside them"
    return SplitFiles(where, what, stored, {"scheduler": wan.scheduler(stored)}, folders)


def _common(folders: Sequence[Path]) -> Path:
    """The folder that all these lie in; on several drives, which have none, the first one."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return folders[0]
