"""Learning rates and steps, chosen on scenes of their own."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.files import write_text


@dataclass(frozen=True)
class Recipe:
    """How long and how fast a stage trains."""

    lr: float
    steps: int


@dataclass(frozen=True)
class Settings:
    """What was chosen, and on what.

    Attributes:
        base: content name of the base.
        recipes: by stage and conditioning, as `name` tells.
        scenes: numbers of the cases that were tried.
        tried: every recipe that was tried, with its mean figure.
    """

    base: str
    recipes: Mapping[str, Recipe]
    scenes: Sequence[int]
    tried: Sequence[Mapping[str, Any]]

    def record(self) -> dict[str, Any]:
        """The same for a JSON file."""
        return asdict(self)


def name(stage: str, conditioning: str) -> str:
    """What a recipe is for."""
    return f"{stage}, {conditioning}"


def write_settings(path: Path, settings: Settings) -> None:
    """Write settings for `read_settings`."""
    write_text(path, json.dumps(settings.record(), indent=1) + "\n")


def read_settings(path: Path, base: str) -> Settings:
    """The settings in a file. Raises UserError: there are none, or damaged, or another base's."""
    if not path.is_file():
        raise UserError(f"{path} is missing: run research/fidelity.py --choose first")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        recipes = {what: Recipe(**recipe) for what, recipe in content["recipes"].items()}
        settings = Settings(content["base"], recipes, content["scenes"], content["tried"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{path} is damaged ({error!r}): run research/fidelity.py --choose"
        ) from None
    if settings.base != base:
        raise UserError(f"{path} was chosen on another base: run research/fidelity.py --choose")
    return settings
