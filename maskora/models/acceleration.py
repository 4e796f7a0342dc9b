"""Speed-ups that diffusers and torch already have: attention kernels, caches over steps, compiling.

Importing this needs no torch.
"""

from typing import Any

from maskora.config.tables import Acceleration
from maskora.errors import UserError

# Our names -> those of diffusers. Kernels that would be downloaded are left out: they are code.
BACKENDS = {
    "native": "native",
    "cudnn": "_native_cudnn",
    "flash": "flash",
    "flash-3": "_flash_3",
    "sage": "sage",
    "xformers": "xformers",
    "flex": "flex",
}
NO_MASK = ("flash", "flash-3", "sage")
NO_BACKWARD = ("sage",)
# The Taylor cache computes so many steps before it foresees one.
WARM_UP = 3


def use_attention(transformer: Any, name: str) -> None:
    """Let a transformer compute attention with one of `BACKENDS`.

    Raises:
        UserError: its package is not installed, or too old.
    """
    try:
        transformer.set_attention_backend(BACKENDS[name])
    except RuntimeError as error:
        raise UserError(f"[acceleration] attention: {name} cannot be used here: {error}") from None


def use_cache(transformer: Any, acceleration: Acceleration) -> None:
    """Let a transformer skip what a cache over the denoising steps can foresee.

    First-block: where the first block changes little from one step to the next, the others' sum of
    changes is used again. Taylor: of every few steps one is computed, and the last layer's output
    is foreseen in between (Liu et al. 2025, "From reusing to forecasting", TaylorSeer).

    Raises:
        UserError: diffusers does not know this transformer's blocks.
    """
    if acceleration.cache == "none":
        return
    from diffusers import FirstBlockCacheConfig, TaylorSeerCacheConfig

    kind = FirstBlockCacheConfig(acceleration.cache_threshold)
    if acceleration.cache == "taylor":
        kind = TaylorSeerCacheConfig(
            cache_interval=acceleration.cache_interval,
            disable_cache_before_step=WARM_UP,
            use_lite_mode=True,
        )
    try:
        transformer.enable_cache(kind)
    except ValueError as error:
        raise UserError(
            f'[acceleration] cache: "{acceleration.cache}" cannot be used with this base '
            f'({error}): use "taylor", or "none"'
        ) from None
