"""The configuration's tables, typed and frozen. Their descriptions are edit.toml's comments."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from maskora.config.base import Memory, Model
from maskora.config.base import Table as Table
from maskora.config.size import parse_size

NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "misshapen limbs, fused fingers, still picture, messy background, three legs, many people in "
    "the background, walking backwards"
)

Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Frames = Annotated[int, Field(ge=5)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Conditioning = Literal["masked", "first-frame"]


class Video(Table):
    """How `prepare` cut and fitted the clip. Changing it means preparing again."""

    frames: Frames = Field(49, description="how many frames; 4k+1, at least 5")
    size: str = Field(
        "auto",
        description='"WIDTHxHEIGHT" on the model\'s grid; "auto" keeps the clip\'s aspect at about '
        'the area of 832x480, "auto:WIDTHxHEIGHT" at another area',
    )
    start: Count = Field(0, description="first frame, counted in the original from 0")
    every: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="take every n-th frame of the original"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="how the picture meets the size: crop, pad or stretch"
    )

    @field_validator("frames")
    @classmethod
    def _is_4k_plus_1(cls, frames: int) -> int:
        if frames % 4 != 1:
            low = (frames - 1) // 4 * 4 + 1
            raise ValueError(
                f"{frames} is not 4k+1 (the models compress time by 4): try {low} or {low + 4}"
            )
        return frames

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        if size != "auto":
            parse_size(size.removeprefix("auto:"))
        return size

    @property
    def is_auto(self) -> bool:
        """Whether the size follows the clip's aspect."""
        return self.size.startswith("auto")

    @property
    def area(self) -> int:
        """How many pixels an automatic size should have, about."""
        width, height = parse_size(self.size.partition(":")[2] or "832x480")
        return width * height


class Mask(Table):
    """How silhouettes become the region that is generated."""

    shape: Literal["box", "tight", "hull", "noisy", "full"] = Field(
        "box", description="box | tight | hull | noisy | full; loose boxes give the best edits"
    )
    margin: Annotated[float, Field(ge=0.0, le=2.0)] = Field(
        0.1, description="grown by this share of the box on each side"
    )
    smooth: Positive = Field(
        5, description="frames over which the box is steadied; it never uncovers the silhouette"
    )
    min_area: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        0.0005, description="smaller specks than this share of the picture are ignored"
    )


class Prompt(Table):
    """The words. A .txt beside an image (source/00000.txt, edits/NNNNN.txt) wins over these."""

    token: str = Field("p3rs0n", description="the special token put before every caption")
    caption: str = Field("auto", description='what the source shows; "auto" needs source/00000.txt')
    edited_caption: str = Field(
        "auto", description='what the edited frame shows; "auto" needs a .txt beside each edit'
    )
    negative: str = Field(NEGATIVE_PROMPT, description="what guidance steers away from")


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
    conditioning: Conditioning = Field(
        "masked", description="masked | first-frame (the paper's ablation without the mask)"
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
        (), strict=False, description="further LoRAs: [{path = …, strength = …}]"
    )


class Config(Table):
    """One edit's whole configuration, as in its edit.toml."""

    model: Model = Model()
    video: Video = Video()
    mask: Mask = Mask()
    prompt: Prompt = Prompt()
    adapter: Adapter = Adapter()
    optimizer: Optimizer = Optimizer()
    motion: Motion = Motion()
    appearance: Appearance = Appearance()
    training: Training = Training()
    memory: Memory = Memory()
    inference: Inference = Inference()
