"""Settings that have no effect in a run: said, so that nobody believes in them."""

from maskora.app.edits import Edit
from maskora.app.footprint import Purpose
from maskora.app.plan import Plan
from maskora.config import Config
from maskora.config.tables import Acceleration, Table
from maskora.errors import UserError
from maskora.models.acceleration import NO_BACKWARD, NO_MASK, WARM_UP


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
        return _unused(config, "memory", keys, "no GPU computes here")
    if plan.placement.blocks_to_swap == 0:
        return _unused(config, "memory", ["weights"], "every block stays on the GPU")
    return []


def accelerate(
    config: Config, purpose: Purpose, device: str, masked: bool, layered: bool = False
) -> tuple[Acceleration, list[str]]:
    """The speed-ups that a run can use, and what of the settings has no effect in it.

    Args:
        masked: the base's attention is given a mask.
        layered: training recomputes layer by layer, where compiled blocks would share no code.

    Raises:
        UserError: these attention kernels cannot compute this base.
    """
    asked = config.acceleration
    notes, caching, used = [], asked.cache, asked
    if asked.attention != "native" and device == "cpu":
        notes += _unused(config, "acceleration", ["attention"], "no GPU computes here")
        used = used.model_copy(update={"attention": "native"})
    elif asked.attention in NO_BACKWARD and purpose == "train":
        notes += _unused(config, "acceleration", ["attention"], "it cannot compute gradients")
        used = used.model_copy(update={"attention": "native"})
    elif asked.attention in NO_MASK and masked:
        raise UserError(
            f'[acceleration] attention: "{asked.attention}" takes no mask, and this base needs '
            f"one: use native, cudnn, xformers or flex"
        )
    if layered and asked.compile:
        notes += _unused(
            config, "acceleration", ["compile"], "training recomputes each layer alone"
        )
        used = used.model_copy(update={"compile": False})
    if purpose == "train":
        notes += _unused(config, "acceleration", ["cache"], "caches serve inference alone")
    elif caching == "taylor" and config.inference.steps <= WARM_UP:
        reason = f"inference.steps is {config.inference.steps}, and it computes the first {WARM_UP}"
        notes += _unused(config, "acceleration", ["cache"], reason)
    if caching != "first-block":
        notes += _unused(config, "acceleration", ["cache_threshold"], f'cache is "{caching}"')
    if caching != "taylor":
        notes += _unused(config, "acceleration", ["cache_interval"], f'cache is "{caching}"')
    return used, notes


def _unused(config: Config, table: str, keys: list[str], reason: str) -> list[str]:
    """One line per key whose value differs from the default."""
    values: Table = getattr(config, table)
    defaults: Table = type(values)()
    return [
        f"{table}.{key} has no effect here: {reason}"
        for key in keys
        if getattr(values, key) != getattr(defaults, key)
    ]
