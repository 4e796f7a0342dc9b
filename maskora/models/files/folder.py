"""A model folder in diffusers' layout: one sub-folder per part, each with its configuration."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskora.errors import UserError
from maskora.files import check_folder_of_texts, check_ordinary, parse_json, read_small
from maskora.hub import refuse_quantised, without_code
from maskora.streaming.header import read_headers, shards

if TYPE_CHECKING:
    from maskora.streaming.tensor_files import Reader

CONFIGS = ("config.json", "scheduler_config.json")
WEIGHT_STEMS = ("diffusion_pytorch_model", "model")
# Of files above WHOLE bytes, so many blocks of so many bytes are compared.
WHOLE, BLOCKS, BLOCK = 64 * 2**20, 64, 2**18


class DiffusersFolder:
    """A folder in diffusers' layout; `ModelFiles` says what each method promises."""

    def __init__(self, where: Path) -> None:
        self.where = where
        self.description = f"a folder in diffusers' layout ({where})"

    def check(self, weights: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> None:
        missing = [problem for part in weights for problem in _missing_weights(self.where / part)]
        for part, names in files.items():
            if not holds_one(self.where / part, names):
                missing.append(f"{part}/{' or '.join(names)}")
        if missing:
            raise UserError(
                f"{self.where} is not a complete model folder in diffusers' layout; missing: "
                + ", ".join(missing)
            )
        for part in files:
            check_readable(self.where / part)

    def config(self, part: str) -> dict[str, Any]:
        config = read_json(self._config_file(part))
        refuse_quantised(config, self.where / part, "[model] path")
        settings: dict[str, Any] = without_code(config)
        return settings

    def described(self, part: str) -> str:
        return str(self._config_file(part))

    def index(self) -> dict[str, Any]:
        path = self.where / "model_index.json"
        return read_json(path) if path.is_file() else {}

    def weights(self, part: str) -> "Reader":
        from maskora.streaming.tensor_files import Checkpoint

        folder = self.where / part
        return Checkpoint(read_headers(shards(folder)), str(folder))

    def folder(self, part: str) -> Path:
        return self.where / part

    def parts(self) -> list[str]:
        return sorted(folder.name for folder in self.where.glob("*/"))

    def paths(self, part: str) -> list[Path]:
        return part_files(self.where / part)

    def _config_file(self, part: str) -> Path:
        paths = [self.where / part / name for name in CONFIGS]
        return next((path for path in paths if path.is_file()), paths[0])


def holds_one(folder: Path, names: Sequence[str]) -> bool:
    """A folder has a file of one of these names; "a and b" is both."""
    return any(all((folder / one).is_file() for one in name.split(" and ")) for name in names)


def _missing_weights(part: Path) -> list[str]:
    if not part.is_dir():
        return [f"{part.name}/"]
    missing = [] if (part / "config.json").is_file() else [f"{part.name}/config.json"]
    if any(part.glob("*.safetensors.index.json")):
        return missing + [f"{part.name}/{s.name}" for s in shards(part) if not s.is_file()]
    if not any((part / f"{stem}.safetensors").is_file() for stem in WEIGHT_STEMS):
        missing.append(f"{part.name}/*.safetensors")
    return missing


def part_files(folder: Path) -> list[Path]:
    """Every file of a part, but weights that are left over from another sharding.

    Raises:
        UserError: the index is damaged.
    """
    files = {path for path in folder.rglob("*") if path.is_file()}
    return sorted(files - (set(folder.glob("*.safetensors")) - set(shards(folder))))


def check_readable(folder: Path) -> None:
    """What transformers reads of a folder by itself is files, JSON objects in .json ones.

    Raises:
        UserError: something is not.
    """
    check_folder_of_texts(folder)
    for path in sorted(folder.glob("*.json")):
        read_json(path)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON file as a dict. Raises UserError where it is missing or damaged."""
    check_ordinary(path)
    try:
        content = parse_json(read_small(path))
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: is this a model folder in diffusers' layout?"
        ) from None
    except UserError:
        raise
    except ValueError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged: it holds no JSON object")
    return content


def sampled_content(path: Path) -> bytes:
    """A file's content, as far as it is needed to tell it from another.

    Files of up to 64 MiB count whole; of larger ones the size and 64 blocks spread over them, so
    that tens of gigabytes are not read for each run. Other weights differ in every block.
    """
    size = path.stat().st_size
    if size <= WHOLE:
        return path.read_bytes()
    sampled = [str(size).encode()]
    with path.open("rb") as file:
        for index in range(BLOCKS):
            file.seek((size - BLOCK) * index // (BLOCKS - 1))
            sampled.append(file.read(BLOCK))
    return b"".join(sampled)
