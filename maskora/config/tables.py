"""The configuration's tables, typed and frozen. Their descriptions are edit.toml's comments.

A component is given the table that configures it (training a `Training`, masks a `Mask`), never
the whole configuration.
"""

import difflib
import re
from fractions import Fraction
from typing import Annotated, Literal, TypeAlias, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

# The kinds of base and the parts of one, by name. The models room knows what they are; a test
# holds the lists equal.
Family: TypeAlias = Literal[
    "wan2.1-i2v",
    "wan2.1-fun-inp",
    "wan2.2-i2v",
    "miniature",
    "hunyuan-video-i2v",
    "hunyuan-video-1.5-i2v",
]
FAMILIES: tuple[str, ...] = get_args(Family)
PARTS = ("transformer", "transformer_2", "vae", "text_encoder", "image_encoder")
TrackerKind = Literal["simple", "sam2"]
MaskShape = Literal["box", "tight", "hull", "noisy", "full"]
MaskVariant = Literal["box", "hull", "expanded", "box+expanded", "hull+expanded"]
Task = Literal["change", "remove", "add"]
PLACES = 3  # to which a window's mask is moved, where the task is to remove or to add something
Stage: TypeAlias = Literal["motion", "appearance"]
LARGEST = 8192


def parse_size(text: str) -> tuple[int, int]:
    """Read "WIDTHxHEIGHT". Raises ValueError when it is none."""
    width, x, height = text.partition("x")
    sides = [int(side) for side in (width, height) if side.isascii() and side.isdecimal()]
    if not (x and len(sides) == 2 and 1 <= min(sides) <= max(sides) <= LARGEST):
        raise ValueError(
            f'{text!r} is not a size: write WIDTHxHEIGHT, as in "832x480", or "auto" '
            f"(sides of up to {LARGEST} pixels)"
        )
    return sides[0], sides[1]


def parse_rate(given: float | str) -> Fraction:
    """Read frames per second; 23.976 and 29.97 are 24000/1001 and 30000/1001. Raises ValueError."""
    match = re.fullmatch(r"(\d{1,9}(?:\.\d{1,9})?)(?:/([1-9]\d{0,8}))?", str(given).strip())
    rate = Fraction(match[1]) / int(match[2] or 1) if match else Fraction(0)
    if not 0 < rate <= 1000:
        raise ValueError(
            f'{given!r} is not a frame rate: write 24, 23.976, "30000/1001", or "auto"'
        )
    ntsc = Fraction(round(rate) * 1000, 1001)
    return ntsc if abs(rate - ntsc) < ntsc / 5000 else rate


PLAIN = ("bfloat16", "float16", "float32")
# No machine has more of anything, and what is computed from it stays a number.
MOST = 1_000_000_000
Positive = Annotated[int, Field(ge=1, le=MOST)]
Count = Annotated[int, Field(ge=0, le=MOST)]
Factor = Annotated[float, Field(gt=0, le=1e12)]


def _is_4k_plus_1(frames: int) -> int:
    if frames % 4 != 1:
        low = (frames - 1) // 4 * 4 + 1
        raise ValueError(
            f"{frames} is not 4k+1 (the models compress time by 4): try {low} or {low + 4}"
        )
    return frames


Frames = Annotated[int, Field(ge=5, le=100_000), AfterValidator(_is_4k_plus_1)]


def _rising(shares: tuple[float, float]) -> tuple[float, float]:
    if not shares[0] < shares[1]:
        raise ValueError(f"{list(shares)}: the first must be the smaller one, as in [0.0, 1.0]")
    return shares


class Table(BaseModel):
    """One TOML table. Unknown keys are errors; values keep their TOML type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


def _of_parts(files: dict[str, str]) -> dict[str, str]:
    for part, path in files.items():
        if part not in PARTS:
            near = difflib.get_close_matches(part, PARTS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise ValueError(f"unknown part {part!r}: {hint}valid: {', '.join(PARTS)}")
        if not path:
            raise ValueError(f"{part} names no file")
    return files


class Model(Table):
    """The base that is fine-tuned: an image-to-video diffusion transformer."""

    family: Family = Field(
        "wan2.1-i2v",
        description=f"which kind of base ({', '.join(FAMILIES)}); it decides how a mask becomes "
        f"model input",
    )
    path: str = Field(
        "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers",
        description="a hub id, or a local folder in diffusers' or Wan's original layout (relative "
        'to this file); "" where files has all parts',
    )
    files: Annotated[dict[str, str], AfterValidator(_of_parts)] = Field(
        {},
        description="parts in single files, as of ComfyUI, which go before what path has: "
        f"{{{', '.join(PARTS)} = …}} (relative to this file)",
    )
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16",
        description="precision of the transformer and the text encoder: bfloat16, float16, "
        "float32 (the VAE and the image encoder always run in float32)",
    )
    transformer_dtype: Literal[
        "same", "bfloat16", "float16", "float32", "float8", "int8", "nf4"
    ] = Field(
        "same",
        description="how the transformer's frozen weights are kept: same (as dtype) | float8 | "
        "int8 | nf4: less memory, less exact; in training and inference alike",
    )

    @model_validator(mode="after")
    def _computes_as_it_keeps(self) -> "Model":
        kept = self.transformer_dtype
        if kept in PLAIN and kept != self.dtype:
            raise ValueError(
                f'transformer_dtype is {kept!r} and dtype is {self.dtype!r}: write "same" (or '
                f"change dtype too), or one of the compressed forms float8, int8, nf4"
            )
        return self

    @model_validator(mode="after")
    def _lies_somewhere(self) -> "Model":
        if not (self.path or self.files):
            raise ValueError("path is empty: name a hub id, a folder, or single files in files")
        return self

    @property
    def base(self) -> str:
        """The base in a word: its folder or hub id, or the first of its files."""
        return self.path or next(iter(self.files.values()))

    @property
    def storage(self) -> str:
        """transformer_dtype as a form of storage: "same" where it is what dtype is anyway."""
        return "same" if self.transformer_dtype in PLAIN else self.transformer_dtype


class Memory(Table):
    """Placement of the base while it works. `maskora plan` shows what comes of it."""

    vram_budget_gb: Factor | Literal["auto"] = Field(
        "auto",
        description='how much of the GPU\'s memory may be used, in GB (2^30 bytes); "auto" = what '
        "is free when a run starts, less a reserve; a number is a cap on that",
    )
    blocks_to_swap: Count | Literal["auto"] = Field(
        "auto",
        description="how many of the transformer's blocks wait in RAM and are streamed to the "
        'GPU; "auto" = the fewest that fit the budget',
    )
    activation_offload: bool = Field(
        True, description="what training keeps of each block waits in RAM too"
    )
    weights: Literal["pinned", "pageable", "mapped"] = Field(
        "pinned",
        description="streamed blocks wait in pinned RAM (fastest) | pageable RAM | mapped: on "
        "disk, for machines with little RAM",
    )


class Video(Table):
    """The clip as `prepare` cut and fitted it. Changing it means preparing again."""

    frames: Annotated[int, Field(ge=5, le=100_000)] | Literal["all"] = Field(
        49, description='how many frames, at least 5, or "all"'
    )
    size: str = Field(
        "auto",
        description='"WIDTHxHEIGHT" on the model\'s grid; "auto" keeps the clip\'s aspect at about '
        'the area of 832x480, "auto:WIDTHxHEIGHT" at another area',
    )
    fps: Annotated[float, Field(gt=0, le=1000)] | str = Field(
        "auto",
        description='frames per second at which the clip is read, as 24, 23.976 or "30000/1001"; '
        '"auto" = its own, and 16 for a folder of images. Another rate repeats or leaves out '
        "frames of a video; a folder's images are never changed",
    )
    start: Count = Field(0, description="first frame, counted in the original from 0")
    every: Annotated[int, Field(ge=1, le=10_000)] = Field(
        1, description="take every n-th frame of the original"
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", description="how the picture meets the size: crop, pad or stretch"
    )

    @field_validator("size")
    @classmethod
    def _is_a_size(cls, size: str) -> str:
        if size != "auto":
            parse_size(size.removeprefix("auto:"))
        return size

    @field_validator("fps")
    @classmethod
    def _is_a_rate(cls, fps: float | str) -> float | str:
        if fps != "auto":
            parse_rate(fps)
        return fps

    @property
    def count(self) -> int:
        """How many frames, once the clip has been looked at."""
        assert isinstance(self.frames, int)
        return self.frames

    @property
    def rate(self) -> Fraction | None:
        """Frames per second, where they are set."""
        return None if self.fps == "auto" else parse_rate(self.fps)

    @property
    def is_auto(self) -> bool:
        """True where the size follows the clip's aspect."""
        return self.size.startswith("auto")

    @property
    def area(self) -> int:
        """Roughly the pixels that an automatic size should have."""
        width, height = parse_size(self.size.partition(":")[2] or "832x480")
        return width * height


class Mask(Table):
    """The region that is generated, made from the objects' silhouettes."""

    shape: MaskShape = Field(
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


class Tracker(Table):
    """The tracker of `maskora track` and of the clicks in `maskora gui`."""

    type: TrackerKind = Field(
        "simple",
        description="simple (GrabCut and optical flow: needs no download, loses its way in hard "
        "clips) | sam2",
    )
    checkpoint: Annotated[str, Field(min_length=1)] = Field(
        "facebook/sam2.1-hiera-large",
        description="for sam2: a hub id, a local folder in transformers' layout, or an original "
        ".pt file where the sam2 package is installed (relative to this file)",
    )
    clicks: tuple[str, ...] = Field(
        (),
        strict=False,
        description='points to follow, as --click: ["FRAME,X,Y,+", "FRAME,X,Y,-,OBJECT", …] in '
        "pixels of the original; - is a point that does not belong to the object",
    )
    boxes: tuple[str, ...] = Field(
        (), strict=False, description='the same as rectangles: ["FRAME,X,Y,W,H[,OBJECT]", …]'
    )
    paintings: tuple[str, ...] = Field(
        (),
        strict=False,
        description='masks painted by hand, as --paint: ["FRAME,PNG[,OBJECT]", …]; white is the '
        "object (relative to this file)",
    )


NEGATIVE_PROMPT = (
    "Bright tones, overexposed, static, blurred details, subtitles, style, works, paintings, "
    "images, static, overall gray, worst quality, low quality, JPEG compression residue, ugly, "
    "incomplete, extra fingers, poorly drawn hands, poorly drawn faces, deformed, disfigured, "
    "misshapen limbs, fused fingers, still picture, messy background, three legs, many people in "
    "the background, walking backwards"
)


def _of_objects(given: object) -> object:
    """A list of captions, one for each object, as one."""
    if isinstance(given, list | tuple) and all(isinstance(one, str) for one in given):
        return "; ".join(map(str, given))
    return given


Words = Annotated[str, BeforeValidator(_of_objects)]


class Prompt(Table):
    """The words. A .txt beside an image (source/00000.txt, edits/NNNNN.txt) wins over these."""

    token: str = Field("p3rs0n", description="the special token put before every caption")
    caption: Words = Field(
        "auto",
        description='what the source shows, or a list with a caption for each object; "auto" = the '
        "captioner of [caption] says it",
    )
    edited_caption: Words = Field(
        "auto", description='the same of the edited frame; "auto" = the captioner says it'
    )
    negative: str = Field(NEGATIVE_PROMPT, description="what guidance steers away from")

    def with_token(self, caption: str) -> str:
        """The special token and a caption."""
        return f"{self.token} {caption}".strip()


class Caption(Table):
    """The captioner, for captions that are left at "auto"."""

    model: Annotated[str, Field(min_length=1)] = Field(
        "florence-community/Florence-2-large",
        description='Florence-2: a hub id or a local folder (relative to this file); "none" = '
        "nobody, captions are yours",
    )


class Editor(Table):
    """The image model of `maskora edit-frame --instruct`, and of the window's edit page."""

    model: Annotated[str, Field(min_length=1)] = Field(
        "none",
        description="a folder (relative to this file) or hub id, for diffusers' "
        "QwenImageEditPipeline, QwenImageEditPlusPipeline, FluxKontextPipeline, "
        'FluxFillPipeline or StableDiffusionXLInpaintPipeline; "none" = there is none',
    )
    steps: Positive = Field(30, description="denoising steps")
    megapixels: Annotated[float, Field(gt=0, le=16)] = Field(
        1.0, description="the size at which the model works, about; less needs less memory"
    )


Seed = Annotated[int, Field(ge=0, lt=2**32)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Conditioning = Literal["masked", "first-frame"]


class Adapter(Table):
    """The LoRA."""

    rank: Positive = Field(16, description="rank of the update")
    alpha: Factor = Field(16.0, description="scale: alpha / rank")
    targets: Literal["attention", "attention+ffn"] = Field(
        "attention", description="attention (q, k, v, o) | attention+ffn"
    )


class Optimizer(Table):
    """The LoRA's optimizer."""

    type: Literal["adamw", "adamw8bit"] = Field(
        "adamw8bit", description="adamw | adamw8bit (needs bitsandbytes and an NVIDIA GPU)"
    )
    lr: Annotated[float, Field(gt=0, le=1)] = Field(1e-4, description="learning rate")
    weight_decay: Annotated[float, Field(ge=0, le=1)] = Field(0.01, description="AdamW's decay")


class Motion(Table):
    """Stage 1: learn the clip's motion. Its LoRA serves every edit of this clip."""

    task: Task = Field(
        "change",
        description="what the edit does inside the mask: change what is there | remove it | add "
        "something; to remove or to add is learned from masks over background, and encodes three "
        "or four times as much",
    )
    steps: Positive = Field(100, description="optimizer steps")
    window: Frames | Literal["full"] = Field(
        9, description='frames per sample (4k+1), or "full": the whole clip at once'
    )
    stride: Positive = Field(4, description="frames between the starts of two windows")
    conditioning: Conditioning = Field(
        "masked", description="masked | first-frame (the naive baseline)"
    )
    masking: Literal["box", "grid"] = Field(
        "box",
        description="box | grid: each window also with random cells of a grid masked, others in "
        "every frame (IVEDiff's masked motion modelling); encodes twice as much",
    )
    grid_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        0.5, description="grid: the share of the cells that is masked"
    )
    augment: Literal["none", "colour"] = Field(
        "none",
        description="none | colour: each window also with its colour channels in the five other "
        "orders, against learning the source's colour with its motion; encodes six times as much",
    )
    mask_shapes: tuple[MaskVariant, ...] = Field(
        (),
        strict=False,
        description="each window also with its mask in each of these shapes, so that others than "
        "that of [mask] are obeyed: box, hull, expanded (grown at random), box+expanded, "
        "hull+expanded; [] = as [mask] says alone",
    )

    @property
    def gridded(self) -> bool:
        """True where windows are masked by a grid, too."""
        return self.masking == "grid" and self.conditioning == "masked"

    @property
    def trained_task(self) -> Task:
        """The task that training is about: without masks, it is always the same."""
        return self.task if self.conditioning == "masked" else "change"

    @property
    def trained_shapes(self) -> tuple[MaskVariant, ...]:
        """The further shapes of masks that are shown: none without masks."""
        return self.mask_shapes if self.conditioning == "masked" else ()

    @property
    def masks_per_window(self) -> int:
        """Under how many masks each window is shown, at most."""
        per_shape = {"change": 1, "remove": PLACES, "add": 1 + PLACES}[self.trained_task]
        return per_shape * (1 + len(self.trained_shapes)) + self.gridded

    def window_length(self, frames: int) -> int:
        """Frames per sample of a clip, 4k+1: as set, or as many as a shorter clip has."""
        longest = (frames - 1) // 4 * 4 + 1
        return longest if self.window == "full" else min(self.window, longest)


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
    """Settings of both training stages."""

    seed: Seed = Field(0, description="of the noise, the order and the LoRA's start")
    timestep_sample_method: Literal["uniform", "logit_normal"] = Field(
        "uniform", description="how noise levels are drawn: uniform | logit_normal"
    )
    shift: Factor = Field(1.0, description="moves the noise levels up (> 1) or down (< 1)")
    inside_weight: Factor = Field(
        1.0, description="weight of the loss inside the mask, relative to outside"
    )
    gradient_clipping: Factor = Field(1.0, description="largest gradient norm")
    gradient_accumulation_steps: Positive = Field(1, description="samples per optimizer step")
    checkpoint_every: Positive = Field(25, description="steps between checkpoints")
    preview_every: Count = Field(
        0, description="steps between previews of the edit, in runs/previews; 0 = none"
    )


class LoraFile(Table):
    """One further LoRA for inference."""

    path: str = Field(description="a .safetensors file (relative to this file)")
    strength: Annotated[float, Field(ge=-1e6, le=1e6)] = Field(1.0, description="1 = as trained")
    expert: Literal["", "high", "low"] = Field(
        "", description="of a base with two transformers, the one that it is for; empty: both"
    )


SEGMENT, AT_ONCE = 49, 81  # frames of "auto"


class Inference(Table):
    """Generation of the edited clip."""

    steps: Positive = Field(30, description="denoising steps")
    guidance: Annotated[float, Field(ge=1.0, le=1e6)] = Field(
        5.0, description="classifier-free guidance; 1 = off, twice as fast"
    )
    shift: Factor | Literal["model"] = Field(
        "model", description="the schedule's shift; \"model\" = as the base's own scheduler has it"
    )
    seed: Seed = Field(0, description="of the starting noise")
    lock: Literal["pixel", "model", "latent"] = Field(
        "pixel",
        description="how the background is held: pixel (exact) | model (raw output) | latent "
        "(blended at every step: the paper's baseline)",
    )
    feather: Annotated[float, Field(ge=0, le=LARGEST)] = Field(
        8.0, description="pixels over which the edit blends in, inside the mask"
    )
    lossless: bool = Field(False, description="also write edited.mkv (RGB FFV1), bit for bit")
    conditioning: Conditioning = Field(
        "masked", description="masked | first-frame (plain image-to-video)"
    )
    segment: Annotated[Frames, Field(ge=9)] | Literal["auto"] = Field(
        "auto",
        description="frames that are generated at once (4k+1); a longer clip goes through in "
        "several such segments, each going on where the one before has stopped. "
        '"auto" = all of up to 81 frames, and 49 of a longer clip',
    )
    overlap: Annotated[int, Field(ge=4, multiple_of=4)] = Field(
        8,
        description="frames of the one before with which a segment begins; a multiple of 4, and "
        "fewer where a segment has no room for so many",
    )
    anchor: bool = Field(
        True,
        description="segments that go on are also shown the edited frame before them, so that its "
        "look does not wear off",
    )
    lora: Literal["trained", "none"] = Field(
        "trained", description="trained (the clip's own LoRA) | none (nothing has to be trained)"
    )
    loras: tuple[LoraFile, ...] = Field(
        (),
        strict=False,
        description="further LoRAs, of any tool: [{path = …, strength = …}] (where a base has two "
        "transformers, expert = high | low says for which)",
    )

    def segment_length(self, frames: int) -> int:
        """Frames of a segment of a clip at most, 4k+1."""
        if self.segment != "auto":
            return self.segment
        return SEGMENT if frames > AT_ONCE else AT_ONCE

    def shared(self, frames: int) -> int:
        """Frames that two segments of a clip share: as set, or as many as there is room for."""
        return min(self.overlap, (self.segment_length(frames) - 5) // 4 * 4)


class Preview(Table):
    """What `maskora preview` takes to be faster."""

    distilled: str = Field(
        "",
        description="a step-distilled LoRA for the base, a .safetensors file (relative to this "
        "file): a preview then has distilled_steps steps and no guidance",
    )
    distilled_steps: Positive = Field(4, description="the steps that it was distilled to")


Depth = Annotated[tuple[Share, Share], AfterValidator(_rising)]


class Transfer(Table):
    """The source's motion without training, in inference: ways of AnyV2V, I2VEdit and IVEDiff."""

    start: Literal["noise", "inverted", "flow"] = Field(
        "noise",
        description="what denoising starts from: noise | inverted (the noise that gives the "
        "source) | flow (the edited first frame, carried along the source's optical flow)",
    )
    start_level: Annotated[float, Field(gt=0, le=1)] = Field(
        1.0,
        description="the noise level where it starts; below 1 more of what it starts from is kept",
    )
    inversion_passes: Annotated[int, Field(ge=1, le=100)] = Field(
        1, description="evaluations of the base per step of the inversion; more are more exact"
    )
    attention: Literal["none", "qk", "difference"] = Field(
        "none",
        description="what self-attention takes from the source: none | qk (queries and keys, as "
        "AnyV2V) | difference (answers that differ little, as I2VEdit)",
    )
    attention_share: Share = Field(0.8, description="in this share of the steps, the first ones")
    attention_blocks: Depth = Field(
        (0.0, 1.0), strict=False, description="in the blocks between these shares of the depth"
    )
    threshold: Share = Field(
        0.35, description="difference: what differs by more stays the edit's own"
    )
    features_share: Share = Field(
        0.0,
        description="in this share of the steps, feed-forward layers give what they give for the "
        "source (AnyV2V's convolution features)",
    )
    features_blocks: Depth = Field(
        (0.0, 1.0), strict=False, description="in the blocks between these shares of the depth"
    )
    smooth_noise: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0,
        description="noise added to smooth areas of the source before it is inverted, of a colour "
        "range of 1 (I2VEdit takes 0.005)",
    )

    @property
    def takes(self) -> bool:
        """True where the edit takes something of the source while it is denoised."""
        return self.waiting > 0

    @property
    def waiting(self) -> int:
        """How many of a block's answers for the source are taken, one after another."""
        attention = {"none": 0, "qk": 2, "difference": 1}[self.attention]
        return (attention if self.attention_share else 0) + (self.features_share > 0)

    @property
    def inverts(self) -> bool:
        """True where the source's way from data to noise is needed."""
        return self.start == "inverted" or self.takes


class DeepSpeed(Table):
    """Several processes that train together (docs/many-gpus.md)."""

    config: str = Field(
        "",
        description="a DeepSpeed JSON of your own (relative to this file); what contradicts this "
        "file is refused; empty = none is needed",
    )


class Acceleration(Table):
    """Optional speed-ups that the ecosystem already has; each says where it has no effect."""

    attention: Literal["native", "cudnn", "flash", "flash-3", "sage", "xformers", "flex"] = Field(
        "native",
        description="attention kernels: native (torch's own) | cudnn | flash | flash-3 | sage | "
        "xformers | flex; all but native need a GPU, some a package of their own",
    )
    cache: Literal["none", "first-block", "taylor"] = Field(
        "none",
        description="in inference, reuse what changes little from step to step: none | "
        "first-block | taylor; faster, less exact",
    )
    cache_threshold: Factor = Field(
        0.05, description="first-block: how small a relative change lets a step skip the rest"
    )
    cache_interval: Annotated[int, Field(ge=2, le=MOST)] = Field(
        3, description="taylor: after the first three, one step in so many is computed"
    )
    compile: bool = Field(
        False, description="torch.compile for each block: slow first step, faster ones after it"
    )
