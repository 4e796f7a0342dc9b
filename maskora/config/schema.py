"""The configuration's tables, typed and frozen. Their descriptions are edit.toml's comments."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from maskora.config.base import Frames, Memory, Model, Positive
from maskora.config.base import Table as Table
from maskora.config.clip import Mask, Tracker, Video
from maskora.config.words import Caption, Prompt

Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Conditioning = Literal["masked", "first-frame"]


class Adapter(Table):
    """The LoRA."""

    rank: Positive = Field(16, description="rank of the update")
    alpha: Annotated[float, Field(gt=0)] = Field(16.0, description="scale: alpha / rank")
    targets: Literal["attention", "attention+ffn"] = Field(
        "attention", description="attention (q, k, v, o) | attention+ffn"
    )


class Optimizer(Table):
    """How the LoRA is optimised."""

    type: Literal["adamw", "adamw8bit"] = Field(
        "adamw8bit", description="adamw | adamw8bit (needs bitsandbytes and a CUDA card)"
    )
    lr: Annotated[float, Field(gt=0, le=1)] = Field(1e-4, description="learning rate")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="AdamW's decay")


class Motion(Table):
    """Stage 1: learn the clip's motion. Its LoRA serves every edit of this clip."""

    steps: Positive = Field(100, description="optimizer steps")
    window: Frames | Literal["full"] = Field(
        9, description='frames per sample (4k+1), or "full": the whole clip at once'
    )
    stride: Positive = Field(4, description="frames between the starts of two windows")
    conditioning: Conditioning = Field(
        "masked", description="masked | first-frame (the naive baseline)"
    )
    augment: Literal["none", "colour"] = Field(
        "none",
        description="none | colour: each window also with its colour channels in the five other "
        "orders, against learning the source's colour with its motion; encodes six times as much",
    )

    @field_validator("window")
    @classmethod
    def _is_4k_plus_1(cls, window: int | str) -> int | str:
        if isinstance(window, int) and window % 4 != 1:
            low = (window - 1) // 4 * 4 + 1
            raise ValueError(f'{window} is not 4k+1: try {low}, {low + 4} or "full"')
        return window


class Appearance(Table):
    """Stage 2: learn the look of later edited keyframes. Runs only where there are some."""

    steps: Positive = Field(100, description="optimizer steps")
    motion_share: Share = Field(
        0.1, description="share of motion samples mixed in, so that motion is not forgotten"
    )
    conditioning: Literal["masked", "anchored", "first-frame"] = Field(
        "masked",
        description="masked | anchored (each keyframe at its time after the edited first frame; "
        "ours) | first-frame (the paper's ablation without the mask)",
    )
    reference: Literal["edited-first-frame", "source", "masked"] = Field(
        "edited-first-frame",
        description="what the image encoder sees: edited-first-frame | source | masked",
    )
    spill: Literal["source", "keep"] = Field(
        "source",
        description="outside the mask an edited frame is taken from the source | kept as it is",
    )


class Training(Table):
    """What both stages share."""

    seed: Seed = Field(0, description="of the noise, the order and the LoRA's start")
    timestep_sample_method: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="how noise levels are drawn: uniform | logit_normal"
    )
    shift: Annotated[float, Field(gt=0)] = Field(
        1.0, description="moves the noise levels up (> 1) or down (< 1)"
    )
    inside_weight: Annotated[float, Field(gt=0)] = Field(
        1.0, description="weight of the loss inside the mask, relative to outside"
    )
    gradient_clipping: Annotated[float, Field(gt=0)] = Field(
        1.0, description="largest gradient norm"
    )
    gradient_accumulation_steps: Positive = Field(1, description="samples per optimizer step")
    checkpoint_every: Positive = Field(25, description="steps between checkpoints")


class LoraFile(Table):
    """One further LoRA for inference."""

    path: str = Field(description="a .safetensors file (relative to this file)")
    strength: float = Field(1.0, description="1 = as trained")
    expert: Literal["", "high", "low"] = Field(
        "", description="of a base with two transformers, the one that it is for; empty: both"
    )


class Inference(Table):
    """How the edited clip is generated."""

    steps: Positive = Field(30, description="denoising steps")
    guidance: Annotated[float, Field(ge=1.0)] = Field(
        5.0, description="classifier-free guidance; 1 = off, twice as fast"
    )
    shift: Annotated[float, Field(gt=0)] | Literal["model"] = Field(
        "model", description="the schedule's shift; \"model\" = as the base's own scheduler has it"
    )
    seed: Seed = Field(0, description="of the starting noise")
    lock: Literal["pixel", "model", "latent"] = Field(
        "pixel",
        description="how the background is held: pixel (exact) | model (raw output) | latent "
        "(blended at every step: the paper's baseline)",
    )
    feather: Annotated[float, Field(ge=0)] = Field(
        8.0, description="pixels over which the edit blends in, inside the mask"
    )
    lossless: bool = Field(False, description="also write edited.mkv (RGB FFV1), bit for bit")
    conditioning: Conditioning = Field(
        "masked", description="masked | first-frame (plain image-to-video)"
    )
    loras: tuple[LoraFile, ...] = Field(
        (),
        strict=False,
        description="further LoRAs, of any tool: [{path = …, strength = …}] (where a base has two "
        "transformers, expert = high | low says for which)",
    )


class Acceleration(Table):
    """Optional speed-ups that the ecosystem already has; each says where it has no effect."""

    attention: Literal["native", "cudnn", "flash", "flash-3", "sage", "xformers", "flex"] = Field(
        "native",
        description="attention kernels: native (torch's own) | cudnn | flash | flash-3 | sage | "
        "xformers | flex; all but native need a card, some a package of their own",
    )
    cache: Literal["none", "first-block", "taylor"] = Field(
        "none",
        description="in inference, reuse what changes little from step to step: none | "
        "first-block | taylor; faster, less exact",
    )
    cache_threshold: Annotated[float, Field(gt=0)] = Field(
        0.05, description="first-block: how small a relative change lets a step skip the rest"
    )
    cache_interval: Annotated[int, Field(ge=2)] = Field(
        3, description="taylor: after the first three, one step in so many is computed"
    )
    compile: bool = Field(
        False, description="torch.compile for each block: slow first step, faster ones after it"
    )


class Config(Table):
    """One edit's whole configuration, as in its edit.toml."""

    model: Model = Model()
    video: Video = Video()
    mask: Mask = Mask()
    tracker: Tracker = Tracker()
    prompt: Prompt = Prompt()
    caption: Caption = Caption()
    adapter: Adapter = Adapter()
    optimizer: Optimizer = Optimizer()
    motion: Motion = Motion()
    appearance: Appearance = Appearance()
    training: Training = Training()
    memory: Memory = Memory()
    acceleration: Acceleration = Acceleration()
    inference: Inference = Inference()
