"""What bases share whose transformer, VAE and scheduler are classes of diffusers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from accelerate import init_empty_weights
from torch import Tensor, nn

from maskora.config.tables import Acceleration
from maskora.errors import UserError
from maskora.files import cache_home, digest
from maskora.models.acceleration import use_attention
from maskora.models.base import ALONE, Cue, Expert, Grid, Transformer
from maskora.models.building import announce
from maskora.models.files.source import Source, identity
from maskora.models.names import Names
from maskora.streaming.blocks import Precision, precise
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.plan import RESIDENT, Placement
from maskora.streaming.sources import FORMAT, Reader
from maskora.streaming.supply import more_blocks, supply


class DiffusersBase:
    """The common half of a base; see `maskora.models.base.VideoModel` for every promise.

    A base adds its parts, names, grid, latent channels, encoders, VAE, `pack_condition`, `predict`
    and LoRA targets.
    """

    family: str
    grid: Grid
    latent_channels: int
    parts: tuple[str, ...]
    names: Names
    experts: tuple[Expert, ...] = ALONE
    embeds_guidance: bool = False
    masks_attention: bool = False
    transformer_class: ClassVar[Any]
    # Module lists that are streamed, in the order of computation.
    block_lists: ClassVar[tuple[str, ...]] = ("blocks",)

    def __init__(
        self, source: Source, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        self.source = source
        self.dtype: torch.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.placement = placement
        self.acceleration = Acceleration()
        if "transformer" in source.parts():
            self._check_class(source.config("transformer").get("_class_name"))

    def _check_class(self, told: str | None) -> None:
        """The transformer is of this family's class. Raises UserError."""
        expected = self.transformer_class.__name__
        if told not in (None, expected):
            raise UserError(
                f"{self.source.where}: its transformer is a {told}, and {self.family} takes a "
                f"{expected}: set [model] family to what the files are, or name other files"
            )

    def _check_width(self, part: str, width: int, expected: int) -> None:
        """A part gives the transformer what it takes. Raises UserError."""
        if width != expected:
            raise UserError(
                f"{self.source.where}: what its {part} gives is {width} wide, and its transformer "
                f"takes {expected}: they do not belong together"
            )

    def identity(self, part: str) -> str:
        return identity(self.source, part)

    def unwanted(self, cue: Cue, negative: str) -> Cue:
        return Cue(negative, cue.picture_CHW)

    def shown(self, condition_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
        return condition_CTHW

    def start(self, noise_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        return noise_BCTHW

    def latent_keep(self, keep_THW: Tensor) -> Tensor:
        return grouped_cells(keep_THW, self.grid).amin(dim=1)

    def load_transformer(self, expert: Expert | None = None) -> Transformer:
        return with_room(lambda: self._load(expert or self.experts[0]), self._stream_more)

    def _stream_more(self) -> str | None:
        """Let more blocks wait on the host when the next transformer is loaded."""
        with init_empty_weights():
            kind = self.transformer_class
            total = len(self._blocks(kind.from_config(self.source.config(self.experts[0].part))))
        so_far = min(self.placement.blocks_to_swap, total)
        ring = self.placement.ring
        count = more_blocks(total, so_far, ring)
        if not count and ring > 1:
            self.placement = replace(self.placement, ring=min(ring - 1, 2))
            return f"streamed blocks pass through {self.placement.ring} of the device's buffers"
        if not count:
            return None
        self.placement = replace(self.placement, blocks_to_swap=so_far + count)
        return f"{so_far + count} of {total} blocks are streamed from now on, {so_far} were"

    def _load(self, expert: Expert) -> Transformer:
        announce(f"transformer{f' ({expert.name} noise)' if expert.name else ''}")
        kind = self.transformer_class
        with init_empty_weights():
            transformer = kind.from_config(self.source.config(expert.part))
        transformer.requires_grad_(False).eval()
        if self.acceleration.attention != "native":  # a missing package is known before the load
            use_attention(transformer, self.acceleration.attention)
        weights = self.source.weights(expert.part)
        precision = precise(self.dtype, tuple(kind._keep_in_fp32_modules or ()))
        transformer.supply = supply(
            transformer, self._blocks(transformer), weights, precision, self.placement, self.device,
            converted=self._converted(expert.part, weights, precision),
            compiled=self.acceleration.compile,
        )  # fmt: skip
        return transformer

    def _blocks(self, transformer: Transformer) -> Sequence[nn.Module]:
        return [block for name in self.block_lists for block in getattr(transformer, name)]

    def _converted(self, part: str, weights: Reader, precision: Precision) -> Path | None:
        """The file of the blocks as they are used; None where the checkpoint has them so."""
        storage = self.placement.storage
        if storage == "same" and weights.is_in(precision):
            return None
        kind = str(self.dtype).removeprefix("torch.") if storage == "same" else storage
        name = digest(self.identity(part), str(self.dtype), storage, FORMAT)
        return cache_home() / "weights" / f"{self.source.where.name}-{kind}-{name}.safetensors"

    def scheduler(self, steps: int, shift: float | None) -> Any:
        import diffusers

        config = self.source.config("scheduler")
        if shift is not None:
            key = "shift" if config["_class_name"].startswith("FlowMatch") else "flow_shift"
            config = {**config, key: shift}
        scheduler = getattr(diffusers, config["_class_name"]).from_config(config)
        self.set_timesteps(scheduler, steps)
        return scheduler

    def set_timesteps(self, scheduler: Any, steps: int) -> None:
        """Choose the timesteps of a fresh scheduler as the base's own pipeline does."""
        scheduler.set_timesteps(steps, device=self.device)


def grouped_cells(keep_THW: Tensor, grid: Grid) -> Tensor:
    """Cells of the frames that each latent frame covers, (T', 4, h, w): the first four times.

    A cell is 1 only where every pixel that it covers is kept.
    """
    cells_Thw = -F.max_pool2d(-keep_THW[:, None], grid.cell)[:, 0]
    first = cells_Thw[:1].repeat_interleave(grid.temporal, dim=0)
    return torch.cat([first, cells_Thw[1:]]).unflatten(0, (-1, grid.temporal))
