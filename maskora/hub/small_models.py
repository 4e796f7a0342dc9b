"""What may be wrong with a small model's folder that transformers reads. Imports no torch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import SafetensorError

from maskora.errors import UserError
from maskora.files import check_folder_of_texts, check_ordinary, parse_json, read_small

# What transformers raises where a folder's files are missing, damaged or of another model.
BROKEN = (OSError, ValueError, LookupError, AttributeError, RuntimeError, SafetensorError)
Part = TypeVar("Part")


def read_settings(path: Path, key: str, advice: str) -> dict[str, Any]:
    """A JSON file of a folder; {} for one that is no object.

    Args:
        key: what named the folder; it stands before every complaint.
        advice: what to do, the end of every complaint.

    Raises:
        UserError: it is missing or damaged.
    """
    check_ordinary(path)
    try:
        settings = parse_json(read_small(path))
    except FileNotFoundError:
        raise UserError(f"{key}: {path} is missing: {advice}") from None
    except UserError:
        raise
    except (OSError, ValueError) as error:
        raise UserError(f"{key}: {path} is damaged ({error}): {advice}") from None
    return settings if isinstance(settings, dict) else {}


def load_part(load: Callable[[Path], Part], folder: Path, key: str, advice: str) -> Part:
    """Load a part of a folder. Raises UserError: it is missing, damaged or an adapter."""
    check_folder_of_texts(folder)
    refuse_adapter(folder, key, advice)
    try:
        return load(folder)
    except BROKEN as error:
        reason = (str(error).strip() or repr(error)).splitlines()[0]
        raise UserError(f"{key}: {folder} cannot be loaded ({reason}): {advice}") from None


def refuse_adapter(folder: Path, key: str, advice: str) -> None:
    """transformers would load what an adapter names as its base, which nobody has checked.

    Raises:
        UserError: the folder has one.
    """
    if (path := folder / "adapter_config.json").exists():
        raise UserError(f"{key}: {path} is an adapter of some other model: {advice}")


def check_whole(loading: dict[str, Any], name: str, folder: Path, key: str, advice: str) -> None:
    """Raises UserError where weights lack tensors of the model of this name."""
    if missing := sorted(loading["missing_keys"]):
        raise UserError(
            f"{key}: the weights in {folder} lack {len(missing)} of {name}'s tensors "
            f"({missing[0]} is one): {advice}"
        )
