"""Latent frames that do not follow one another: the rotary embedding gives them their times."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from maskora.models.base import Transformer


@contextmanager
def at_times(transformer: Transformer, times: Sequence[int] | None) -> Iterator[None]:
    """For now, the latent frames that the transformer is given stand at these times of the clip.

    Its `rope` module is asked about the whole clip, and answers about these frames alone.

    Args:
        times: latent frames of the clip, rising; None: one after another, from the first.
    """
    if times is None:
        yield
        return
    assert list(times) == sorted(set(times))
    frames, rope = times[-1] + 1, transformer.rope

    def lengthen(module: nn.Module, given: tuple[Tensor]) -> tuple[Tensor]:
        (hidden_BCTHW,) = given
        assert hidden_BCTHW.shape[2] == len(times)
        return (hidden_BCTHW[:, :, :1].expand(-1, -1, frames, -1, -1),)

    def choose(module: nn.Module, given: Any, whole: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(_frames_of(table, frames, times) for table in whole)

    with rope.register_forward_pre_hook(lengthen), rope.register_forward_hook(choose):
        yield


def _frames_of(table: Tensor, frames: int, times: Sequence[int]) -> Tensor:
    """Of a table with a row per token, in order of time, the rows of some latent frames.

    Args:
        table: (T' h w, D), or (1, T' h w, 1, D).
    """
    tokens = 0 if table.ndim == 2 else 1
    by_frame = table.unflatten(tokens, (frames, -1))
    # Slices, since an index tensor would have to be copied to the device.
    chosen = torch.cat([by_frame.narrow(tokens, time, 1) for time in times], dim=tokens)
    return chosen.flatten(tokens, tokens + 1)
