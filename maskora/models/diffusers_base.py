"""What bases share whose transformer, VAE and scheduler are classes of diffusers."""

import os
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from maskora import ranks
from maskora.config.tables import Acceleration
from maskora.errors import UserError
from maskora.files import cache_home, digest
from maskora.models.acceleration import use_attention
from maskora.models.base import (
    ALONE,
    ContextEncoder,
    EncodePrompts,
    Expert,
    Grid,
    ModelInputs,
    PromptInput,
    Transformer,
    VideoModel,
)
from maskora.models.building import announce
from maskora.models.checks import Files, Settings, read_grid
from maskora.models.encoders import StreamedEncoder, on_meta
from maskora.models.files.model_files import ModelFiles, identity, problems_of, raise_all
from maskora.streaming.blocks import Precision, precise
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.placement import RESIDENT, Placement
from maskora.streaming.sources import FORMAT
from maskora.streaming.tensor_files import Reader
from maskora.streaming.weights import more_blocks, stream_weights

Encoding: TypeAlias = AbstractContextManager[EncodePrompts]
LoadText: TypeAlias = Callable[[ModelFiles, torch.dtype, torch.device], Encoding]
LoadImage: TypeAlias = Callable[[ModelFiles, torch.device], Encoding]
BuildText: TypeAlias = Callable[[ModelFiles, torch.dtype], StreamedEncoder]
BuildImage: TypeAlias = Callable[[ModelFiles], StreamedEncoder]


class DiffusersBase(VideoModel):
    """The common half of a base.

    A base adds its encoders, VAE and `pack_condition`, what is abstract here, and these constants.

    Attributes:
        transformer_class: diffusers' class of its transformers.
        block_lists: their module lists that are streamed, in the order of computation.
        files: part without weights -> file names, of which one must be in its folder.
        settings: part -> what its configuration must say.
        widths: part -> the key of its width, and the transformer's key that must have as much.
        attention, feed_forward: regular expressions of the module names that carry LoRA.
        instead: what to use where a checkpoint is another one, in words.
    """

    experts: tuple[Expert, ...] = ALONE
    embeds_guidance: bool = False
    masks_attention: bool = False
    longest: ClassVar[int]
    transformer_class: ClassVar[Any]
    block_lists: ClassVar[tuple[str, ...]] = ("blocks",)
    files: ClassVar[Files]
    settings: ClassVar[Mapping[str, type[Settings]]]
    widths: ClassVar[dict[str, tuple[str, str]]]
    attention: ClassVar[str]
    feed_forward: ClassVar[str]
    instead: ClassVar[str]

    def __init__(
        self, source: ModelFiles, dtype: str, device: str, placement: Placement = RESIDENT
    ) -> None:
        self.source = source
        self.dtype = getattr(torch, dtype)
        self.device = torch.device(device)
        self.placement = placement
        self.acceleration = Acceleration()
        self.ranks: ranks.Ranks = ranks.ALONE
        self.team: ranks.Team = ranks.ALONE
        self.waiting: dict[str, int] = {}
        if "transformer" in source.parts():  # another kind of base lacks other parts, too
            self._check_transformer("transformer")
        source.check(tuple(part for part in self.parts if part not in self.files), self.files)
        kinds = self.settings.items()
        raise_all(problems_of(partial(kind.of, source, part) for part, kind in kinds))
        self.grid = read_grid(source, self.settings)
        transformer = self._transformer("transformer")
        self.latent_channels = transformer.out_channels
        for part in (part for part in self.widths if part in self.settings):
            self._check_width(part, transformer)
        self.complete(transformer)

    def complete(self, transformer: Any) -> None:
        """Take what this family alone has from its configurations. Raises UserError."""

    def _transformer(self, part: str) -> Any:
        """What a transformer's configuration says. Raises UserError."""
        return self.settings["transformer"].of(self.source, part)

    def _check_transformer(self, part: str) -> None:
        """It is of this family's class and kind. Raises UserError."""
        found = self.source.config(part).get("_class_name")
        expected = self.transformer_class.__name__
        if found not in (None, expected):
            raise UserError(
                f"{self.source.where}: its transformer is a {found}, and {self.family} takes a "
                f"{expected}: set [model] family to what the files are, or name other files"
            )
        self.check_kind(self._transformer(part))

    def _check_width(self, part: str, transformer: Any) -> None:
        """What a part gives is as wide as the transformer takes it. Raises UserError."""
        key, transformers_key = self.widths[part]
        width = attrgetter(key)(self.settings[part].of(self.source, part))
        expected = getattr(transformer, transformers_key)
        if width != expected:
            raise UserError(
                f"{self.source.where}: what its {part} gives is {width} wide, and its transformer "
                f"takes {expected}: they do not belong together"
            )

    @abstractmethod
    def check_kind(self, transformer: Any) -> None:
        """The transformer takes what this family's do. Raises UserError."""

    @abstractmethod
    def arguments(self, timestep_B: Tensor, inputs: ModelInputs) -> dict[str, Any]:
        """What the transformer is called with, beside the packed latents."""

    def _text(
        self, name: str, load: LoadText, build: BuildText, *parts: str, reads_picture: bool = False
    ) -> ContextEncoder:
        return ContextEncoder(
            name, parts, str(self.dtype), partial(load, self.source, self.dtype, self.device),
            partial(build, self.source, self.dtype), reads_prompt=True, reads_picture=reads_picture,
        )  # fmt: skip

    def _image(self, load: LoadImage, build: BuildImage, *parts: str) -> ContextEncoder:
        return ContextEncoder(
            "image", parts, "float32", partial(load, self.source, self.device),
            partial(build, self.source), reads_picture=True,
        )  # fmt: skip

    def identity(self, part: str) -> str:
        return identity(self.source, part)

    def negative(self, wanted: PromptInput, prompt: str) -> PromptInput:
        return PromptInput(prompt, wanted.picture_CHW)

    def condition_frames(self, condition_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
        return condition_CTHW

    def initial_latents(self, noise_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        return noise_BCTHW

    def latent_keep(self, keep_THW: Tensor) -> Tensor:
        return grouped_cells(keep_THW, self.grid).amin(dim=1)

    def lora_targets(self, kind: str) -> str:
        both = f"({self.attention}|{self.feed_forward})"
        return self.attention if kind == "attention" else both

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        packed = torch.cat([noisy_BCTHW, inputs.condition_BCTHW], dim=1).to(self.dtype)
        arguments = self.arguments(timestep_B, inputs)
        velocity: Tensor = transformer(hidden_states=packed, return_dict=False, **arguments)[0]
        return velocity.float()

    def load_transformer(self, expert: Expert | None = None) -> Transformer:
        expert = expert or self.experts[0]
        waiting = self.waiting.get(expert.part)
        file = self.ranks.shared_file() if waiting is None else os.dup(waiting)
        try:
            return with_room(lambda: self._load(expert, file), self._stream_more)
        finally:
            if file is not None:
                os.close(file)  # what is mapped stays

    def _stream_more(self) -> str | None:
        """Let more blocks wait on the host when the next transformer is loaded."""
        total = len(self._blocks(self.build_transformer(self.experts[0].part)))
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

    @property
    def precision(self) -> Precision:
        return precise(self.dtype, tuple(self.transformer_class._keep_in_fp32_modules or ()))

    def build_transformer(self, part: str = "transformer") -> Transformer:
        config = self.source.config(part)
        return on_meta(self.source, part, lambda: self.transformer_class.from_config(config))

    def _load(self, expert: Expert, file: int | None) -> Transformer:
        announce(f"transformer{f' ({expert.name} noise)' if expert.name else ''}")
        transformer = self.build_transformer(expert.part)
        if self.acceleration.attention != "native":  # a missing package is known before the load
            use_attention(transformer, self.acceleration.attention)
        weights = self.source.weights(expert.part)
        transformer.streamed = stream_weights(
            transformer, self._blocks(transformer), weights, self.precision, self.placement,
            self.device, converted=self._converted(expert.part, weights, self.precision),
            compiled=self.acceleration.compile, file=file,
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
