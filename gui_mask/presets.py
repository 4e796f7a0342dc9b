"""How much work an edit is worth: draft, good, best, as values of edit.toml."""

from typing import Any, Literal, get_args

from gui_mask.videos import BASES, base_config, is_trial
from maskora.config import Config, preset_tables
from maskora.config.tables import Transfer

Effort = Literal["draft", "good", "best"]
EFFORTS: tuple[Effort, ...] = get_args(Effort)
DRAFT_STEPS = 12  # as a preview has
# Of a preset's file those tables alone: what is trained stays as it was chosen.
METHODS: dict[Effort, str] = {"draft": "instant", "good": "paper", "best": "paper"}
MORE_TRAINING, MORE_STEPS = 2.0, 1.5  # of the best one


def base_steps(config: Config) -> tuple[int, int, int]:
    """Steps of motion, appearance and denoising in the configuration that comes with the base."""
    known = [base_config(name) for name in sorted(BASES, key=is_trial)]
    alike = [one for one in known if one.model.family == config.model.family]
    same = [one for one in alike if one.model.path == config.model.path]
    own = next(iter([*same, *alike]), Config())
    return own.motion.steps, own.appearance.steps, own.inference.steps


def steps_of(effort: Effort, config: Config) -> tuple[int, int, int]:
    """Steps of motion, appearance and denoising; of a draft, which trains nothing, 0, 0 and few."""
    motion, appearance, denoising = base_steps(config)
    if effort == "draft":
        return 0, 0, min(DRAFT_STEPS, denoising)
    if effort == "best":
        motion, appearance = (round(MORE_TRAINING * steps) for steps in (motion, appearance))
        denoising = round(MORE_STEPS * denoising)
    return motion, appearance, denoising


def effort_values(effort: Effort, config: Config) -> dict[str, Any]:
    """What edit.toml says for it, by "table.key"."""
    tables = preset_tables(METHODS[effort])
    transfer = Transfer().model_dump(mode="json") | tables["transfer"]
    motion, appearance, denoising = steps_of(effort, config)
    trained = {"motion.steps": motion, "appearance.steps": appearance} if motion else {}
    return {
        **{f"inference.{key}": value for key, value in tables["inference"].items()},
        **{f"transfer.{key}": value for key, value in transfer.items()},
        **trained,
        "inference.steps": denoising,
    }


def effort_of(config: Config) -> Effort | None:
    """Which of them a configuration is; None where a person has chosen otherwise."""
    found = config.model_dump(mode="json")
    for effort in EFFORTS:
        values = effort_values(effort, config)
        names = (name.split(".") for name in values)
        if [found[table][key] for table, key in names] == [*values.values()]:
            return effort
    return None
