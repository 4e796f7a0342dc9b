"""What every base offers: the one Protocol that training and sampling know."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeAlias

from maskora.models.files.model_files import ModelFiles
from maskora.models.names import Names
from maskora.streaming.placement import Placement

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from maskora.config.tables import Acceleration
    from maskora.models.encoders import StreamedEncoder
    from maskora.ranks import Ranks, Team
    from maskora.streaming.blocks import Precision

# A diffusers transformer: an nn.Module with `add_adapter`, `set_adapters` and gradient
# checkpointing. mypy does not read diffusers, so it has no better name here.
Transformer: TypeAlias = Any


@dataclass(frozen=True)
class Grid:
    """How pixels become latent cells, read from the model's own configuration.

    Attributes:
        cell: pixels per latent cell, in both directions.
        patch: latent cells per token, in both directions.
        temporal: frames per latent frame after the first.
    """

    cell: int
    patch: int
    temporal: int

    @property
    def multiple(self) -> int:
        """Width and height must be multiples of this."""
        return self.cell * self.patch

    def latent_frames(self, frames: int) -> int:
        """T' of T frames."""
        assert frames % self.temporal == 1 % self.temporal
        return (frames - 1) // self.temporal + 1


@dataclass(frozen=True)
class Expert:
    """One of the transformers that a base is made of, and the noise levels that are its own.

    Attributes:
        name: for people and file names; empty where a base has one transformer for all levels.
        part: which part of the model it is.
        lowest, highest: noise levels s with lowest <= s < highest, of 0 (data) to 1 (noise).
    """

    name: str = ""
    part: str = "transformer"
    lowest: float = 0.0
    highest: float = 1.0


ALONE = (Expert(),)


@dataclass(frozen=True)
class PromptInput:
    """What a sample says in words and with a picture.

    Attributes:
        prompt: token and caption.
        picture_CHW: the reference picture, in [-1, 1].
    """

    prompt: str
    picture_CHW: Tensor


# What the transformer attends to beside the latents, by the names that the base's encoders give.
Context: TypeAlias = Mapping[str, "Tensor"]
EncodePrompts: TypeAlias = Callable[[Sequence[PromptInput]], Iterable[Context]]


@dataclass(frozen=True)
class ContextEncoder:
    """One of a base's encoders of prompts and pictures.

    Attributes:
        name: what it encodes, in a word: "text", "image".
        parts: parts of the model that decide what comes out.
        precision: in which it computes.
        load: a context manager that loads it on entry and releases it on exit.
        build: makes its module, without weights; None where there is none.
        reads_prompt, reads_picture: what of a `PromptInput` it looks at.
    """

    name: str
    parts: tuple[str, ...]
    precision: str
    load: Callable[[], AbstractContextManager[EncodePrompts]]
    build: Callable[[], StreamedEncoder] | None = None
    reads_prompt: bool = False
    reads_picture: bool = False


@dataclass(frozen=True)
class ModelInputs:
    """Everything but the noisy latents: what a sample tells the transformer.

    Attributes:
        condition_BCTHW: mask and condition latents as this base packs them.
        context: what its encoders gave, each tensor with a batch dimension; masks (all that is no
            floating-point tensor) lie in host memory.
        guidance: for bases that were distilled to embed it; others ignore it.
    """

    condition_BCTHW: Tensor
    context: Context
    guidance: float = 1.0


class Vae(Protocol):
    """Pixels to normalised latents and back; both in float32.

    Attributes:
        module: what of it is loaded now.
    """

    module: Any

    def encode(self, video_CTHW: Tensor) -> Tensor:
        """Pixels in [-1, 1] -> latents of shape (z, T', h, w), normalised."""
        ...

    def decode(self, latents_CTHW: Tensor) -> Tensor:
        """Normalised latents -> pixels in [-1, 1], shape (3, T, H, W)."""
        ...


class VideoModel(Protocol):
    """A base. Its encoders are context managers: loaded on entry, released on exit.

    Attributes:
        longest: frames of the longest clips that it was trained on.
        parts: the parts that decide what it computes.
        names: what its transformer's modules are called in its publisher's files.
        experts: its transformers, the noisiest levels first.
        embeds_guidance: it takes guidance as a number; else two branches are computed.
        masks_attention: its attention is given a mask, which some kernels cannot take.
        block_lists: the transformer's lists of modules that are streamed, in this order.
        precision: in which each of the transformer's parameters is computed.
        ranks: the processes that load its transformers together, and hold them in RAM once.
        team: the processes that share the guidance branches of each denoising step.
        waiting: by a transformer's part, a file of memory that several processes have open, in
            which its blocks wait whenever it is loaded.
    """

    family: str
    longest: ClassVar[int]
    source: ModelFiles
    dtype: torch.dtype
    device: torch.device
    placement: Placement
    acceleration: Acceleration
    ranks: Ranks
    team: Team
    waiting: dict[str, int]
    grid: Grid
    latent_channels: int
    parts: tuple[str, ...]
    names: Names
    experts: tuple[Expert, ...]
    embeds_guidance: bool
    masks_attention: bool
    block_lists: ClassVar[tuple[str, ...]]

    @property
    def precision(self) -> Precision: ...

    def identity(self, part: str) -> str:
        """A name of a part's weights that changes when they do."""
        ...

    def encoders(self) -> tuple[ContextEncoder, ...]:
        """What turns prompts and pictures into context, in the order in which they are loaded."""
        ...

    def negative(self, wanted: PromptInput, prompt: str) -> PromptInput:
        """What guidance steers away from."""
        ...

    def vae(self) -> AbstractContextManager[Vae]:
        """The video autoencoder."""
        ...

    def latent_keep(self, keep_THW: Tensor) -> Tensor:
        """The keep mask on the latent grid, (T', h, w): 1 where all that a cell covers is kept.

        Latent frame 0 holds the first frame alone.
        """
        ...

    def condition_frames(self, condition_CTHW: Tensor, keep_THW: Tensor) -> Tensor:
        """The frames of a condition video that the VAE is to encode: all, or its first ones."""
        ...

    def pack_condition(self, keep_THW: Tensor, latents_CTHW: Tensor) -> Tensor:
        """Pixel keep mask and the condition frames' latents -> condition channels (C, T', h, w)."""
        ...

    def initial_latents(self, noise_BCTHW: Tensor, condition_BCTHW: Tensor) -> Tensor:
        """The latents from which denoising starts."""
        ...

    def build_transformer(self, part: str = "transformer") -> Transformer:
        """A frozen transformer on the meta device, as its forward pass is computed here."""
        ...

    def load_transformer(self, expert: Expert | None = None) -> Transformer:
        """A frozen transformer (the first expert's by default), loaded as `placement` says.

        It trains through `transformer.streamed.checkpoint`; `transformer.streamed.close()` frees
        it. Its module `rope` makes tables of rotary embeddings, a row per token of
        (B, C, T', h, w).
        """
        ...

    def predict(
        self, transformer: Transformer, noisy_BCTHW: Tensor, timestep_B: Tensor, inputs: ModelInputs
    ) -> Tensor:
        """The transformer's velocity (noise minus data), in float32, shape of the latents."""
        ...

    def scheduler(self, steps: int, shift: float | None) -> Any:
        """A fresh diffusers scheduler, its timesteps set; `shift` None keeps the base's own."""
        ...

    def lora_targets(self, kind: str) -> str:
        """A regular expression of the module names that carry LoRA."""
        ...
