"""Settings that have no effect in a run: said, so that nobody believes in them."""

from maskora.commands.inputs import Edit
from maskora.commands.plan import Plan
from maskora.config import Config
from maskora.config.schema import Table


def train_warnings(config: Config, edit: Edit | None, device: str) -> list[str]:
    """Settings that the person has changed and that this training run does not use."""
    warnings = []
    if config.motion.window == "full":
        warnings += _unused(config, "motion", ["stride"], 'motion.window is "full"')
    if config.mask.shape in ("tight", "noisy", "full"):
        warnings += _unused(
            config, "mask", ["margin", "smooth"], f'mask.shape is "{config.mask.shape}"'
        )
    if edit is None:
        keys = ["motion_share", "conditioning", "reference"]
        warnings += _unused(config, "appearance", keys, "the appearance stage does not run")
    whole_picture = config.motion.conditioning == "first-frame"
    if whole_picture and edit is None and config.training.inside_weight == 1:
        warnings += _unused(
            config, "mask", ["shape", "margin"], 'motion.conditioning is "first-frame"'
        )
    return warnings


def infer_warnings(config: Config) -> list[str]:
    """The same for an inference run."""
    inference, warnings = config.inference, []
    if inference.conditioning != config.motion.conditioning:
        warnings.append(
            f'inference.conditioning is "{inference.conditioning}", but the LoRA is trained with '
            f'motion.conditioning = "{config.motion.conditioning}"'
        )
    if inference.guidance == 1:
        warnings += _unused(config, "prompt", ["negative"], "inference.guidance is 1")
    if inference.lock != "pixel":
        warnings += _unused(
            config, "inference", ["feather"], f'inference.lock is "{inference.lock}"'
        )
    return warnings


def memory_warnings(config: Config, plan: Plan) -> list[str]:
    """The same for how the base lies in memory."""
    if plan.device == "cpu":
        keys = ["vram_budget_gb", "activation_offload"]
        return _unused(config, "memory", keys, "this machine has no card")
    if plan.placement.blocks_to_swap == 0:
        return _unused(config, "memory", ["weights"], "every block stays on the card")
    return []


def _unused(config: Config, table: str, keys: list[str], reason: str) -> list[str]:
    """One line per key whose value differs from the default."""
    values: Table = getattr(config, table)
    defaults: Table = type(values)()
    return [
        f"{table}.{key} has no effect here: {reason}"
        for key in keys
        if getattr(values, key) != getattr(defaults, key)
    ]
