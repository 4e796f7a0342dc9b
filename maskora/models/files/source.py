"""A base put together from parts that lie in files of their own, and one laid over another."""

import json
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from maskora.config.tables import Model
from maskora.errors import UserError
from maskora.files import cache_home, digest, write_bytes, write_text
from maskora.hub import find_file, locate, refuse_quantised, without_code
from maskora.models.files.folder import (
    check_parts,
    check_readable,
    part_files,
    read_json,
    sampled_content,
)
from maskora.models.files.part import StoredPart
from maskora.models.files.tensors import read_small
from maskora.models.files.wan import TOKENIZER
from maskora.streaming.header import read_headers, shards

if TYPE_CHECKING:
    from maskora.streaming.sources import Reader
if TYPE_CHECKING:
    from maskora.streaming.sources import Reader

# Wan2.1's is that for 480P; its publisher takes 5 for 720P, and for Wan2.2.
SHIFT, SHIFT_22 = 3.0, 5.0
PROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
    "do_convert_rgb": True,
}


def scheduler(shift: float) -> dict[str, Any]:
    """The configuration of Wan's scheduler."""
    return {
        "_class_name": "UniPCMultistepScheduler",
        "num_train_timesteps": 1000,
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "flow_shift": shift,
    }


def image_processor() -> Path:
    """A folder with the settings by which CLIP's pictures are prepared, made if it is not there."""
    text = json.dumps(PROCESSOR, indent=2)
    folder = cache_home() / "processors" / digest(text)
    if not (folder / "preprocessor_config.json").is_file():
        write_text(folder / "preprocessor_config.json", text)
    return folder


def tokenizer(text_encoder: StoredPart) -> Path:
    """A folder with the tokenizer that the text encoder's file brings, made if it is not there.

    Raises:
        UserError: it brings none, or cannot be read.
    """
    stored = text_encoder.weights.stored.get(TOKENIZER)
    if stored is None:
        raise UserError(
            f"{text_encoder.where} brings no tokenizer ({TOKENIZER}): use ComfyUI's file of "
            f"UMT5-XXL, or name a folder that has one as [model] path"
        )
    content = read_small(stored, sum(stored.shape))
    folder = cache_home() / "tokenizers" / digest(content)
    if not (folder / "spiece.model").is_file():
        write_bytes(folder / "spiece.model", content)
    return folder


EXPERTS = {"transformer": "high_noise_model", "transformer_2": "low_noise_model"}
FILES = {
    "vae": "Wan2.1_VAE.pth",
    "text_encoder": "models_t5_umt5-xxl-enc-bf16.pth",
    "image_encoder": "models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth",
}
TOKENIZER_FOLDER = "google/umt5-xxl"
STEM = "diffusion_pytorch_model"


def find_wan(where: Path) -> "Pieces | None":
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
    parts = {part: _transformer(part, folder) for part, folder in folders.items()}
    for part, name in FILES.items():
        parts[part] = StoredPart(part, (where / name,), str(where / name))
    shift = SHIFT_22 if "transformer_2" in parts else SHIFT
    return Pieces(
        where,
        f"a folder in Wan's original layout ({where})",
        parts,
        {"scheduler": scheduler(shift)},
        {"tokenizer": lambda: where / TOKENIZER_FOLDER, "image_processor": image_processor},
    )


def _transformer(part: str, folder: Path) -> StoredPart:
    named = [path for path in shards(folder) if path.name.startswith(STEM)]
    paths = tuple(named) or (folder / f"{STEM}.safetensors",)
    return StoredPart(part, paths, str(folder), folder / "config.json")


def take_files(files: Mapping[str, Path], alone: bool) -> "Pieces":
    """Files that are named one by one.

    Args:
        files: part -> its file.
        alone: there is no folder beside them; Wan's bases need none.
    """
    parts = {part: StoredPart(part, (path,), str(path)) for part, path in files.items()}
    where = _common([path.parent for path in files.values()])
    settings: dict[str, dict[str, Any]] = {}
    folders: dict[str, Callable[[], Path]] = {}
    if alone:
        shift = SHIFT_22 if "transformer_2" in parts else SHIFT
        settings["scheduler"] = scheduler(shift)
        folders["image_processor"] = image_processor
        if "text_encoder" in parts:
            folders["tokenizer"] = partial(tokenizer, parts["text_encoder"])
    what = f"single files{' without a folder beside them' if alone else ''}"
    return Pieces(where, what, parts, settings, folders)


def _common(folders: Sequence[Path]) -> Path:
    """The folder that all these lie in; on several drives, which have none, the first one."""
    try:
        return Path(os.path.commonpath(folders))
    except ValueError:
        return folders[0]


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


def resolve_base(model: Model, root: Path, patterns: list[str] | None = None) -> Source:
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


def identity(source: Source, part: str) -> str:
    """A name of a part by the content of its files, wherever they lie."""
    facts: list[bytes | str] = []
    for path in source.paths(part):
        facts += [path.name, sampled_content(path)]
    return digest(*facts)


class Pieces:
    """Parts in files of their own. `Source` says what each method promises."""

    def __init__(
        self,
        where: Path,
        what: str,
        parts: Mapping[str, StoredPart],
        settings: Mapping[str, dict[str, Any]],
        folders: Mapping[str, Callable[[], Path]],
    ) -> None:
        """
        Args:
            what: what lies there, in a few words.
            parts: those with weights, by name.
            settings: the configuration of parts that are nothing more.
            folders: a folder for each part that transformers reads by itself.
        """
        self.where = where
        self._what, self._parts = what, parts
        self._settings, self._folders = settings, folders

    @property
    def told(self) -> str:
        return "\n  ".join([self._what, *(self._parts[part].told for part in self.parts())])

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        has = {*self._parts, *self._settings, *self._folders}
        missing = [part for part in (*weights, *files) if part not in has]
        own = [self._parts[part] for part in weights if part in self._parts]
        missing += [self._short(path) for part in own for path in part.missing]
        problems = [f"{self._what}: missing {', '.join(missing)}"] if missing else []
        problems += _complaints(part.check for part in own if not part.missing)
        problems += _complaints(
            partial(self._check_folder, part, names)
            for part, names in files.items()
            if part in self._folders
        )
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def _check_folder(self, part: str, names: tuple[str, ...]) -> None:
        folder = self._folders[part]()
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{self._what}: missing {self._short(folder / names[0])}")
        check_readable(folder)

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.where) if path.is_relative_to(self.where) else path)

    def config(self, part: str) -> dict[str, Any]:
        if part in self._settings:
            return dict(self._settings[part])
        return dict(self._part(part).kind.config)

    def described(self, part: str) -> str:
        return self._part(part).where if part in self._parts else self._what

    def index(self) -> dict[str, Any]:
        return {}

    def weights(self, part: str) -> "Reader":
        return self._part(part).reader()

    def folder(self, part: str) -> Path:
        if part not in self._folders:
            raise UserError(f"{self._what} has no {part}")
        return self._folders[part]()

    def parts(self) -> list[str]:
        return sorted(name for name, part in self._parts.items() if not part.missing)

    def paths(self, part: str) -> list[Path]:
        if part in self._folders:
            return part_files(self._folders[part]())
        return self._parts[part].files if part in self._parts else []

    def _part(self, part: str) -> StoredPart:
        if part not in self._parts:
            raise UserError(f"{self._what} has no {part}")
        return self._parts[part]


class Overlaid:
    """Some parts in files of their own, all others where a whole base lies. See `Source`."""

    def __init__(self, top: Pieces, own: Collection[str], under: "Source") -> None:
        """`own`: which parts `top` has."""
        self.where = under.where
        self._top, self._own, self._under = top, frozenset(own), under

    @property
    def told(self) -> str:
        return f"{self._top.told}\n  all else: {self._under.told}"

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        own = tuple(part for part in weights if part in self._own)
        others = tuple(part for part in weights if part not in self._own)
        problems = _complaints(
            [partial(self._top.check, own, {}), partial(self._under.check, others, files)]
        )
        if problems:
            raise UserError("\n".join(problems))

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
        under = {part for part in self._under.parts() if part not in self._own}
        return sorted({*self._top.parts(), *under})

    def paths(self, part: str) -> list[Path]:
        return self._home(part).paths(part)

    def _home(self, part: str) -> "Source":
        return self._top if part in self._own else self._under


def _complaints(attempts: Iterable[Callable[[], object]]) -> list[str]:
    """What is wrong with each that fails."""
    problems = []
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            problems.append(str(error))
    return problems
