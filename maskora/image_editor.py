"""A picture edited by an instruction, through diffusers' own pipelines.

No code that lies in a model's folder is run, and only safetensors are read.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image

from maskora import devices, interruption
from maskora.errors import Fault, OutOfMemory, UserError
from maskora.files import check_folder_of_texts
from maskora.hub import CODE, locate, refuse_quantised, variants
from maskora.hub.small_models import load_part, read_settings, refuse_adapter
from maskora.progress import Progress, announce
from maskora.streaming.out_of_memory import first_line, ran_out_of
from maskora.streaming.placement import gb
from maskora.system import ram
from maskora.video.fit import auto_size, resize

if TYPE_CHECKING:
    import torch

KEY = "[editor] model"
Pixels = npt.NDArray[np.uint8]
LIBRARIES = ("diffusers", "transformers")
PLAIN = ("", "eager", "sdpa")  # attention that a folder may ask for: it comes from no one else
GRID = 16  # pixels to which the sides of what a pipeline works on are rounded
WORKING = 4 * 2**30  # bytes beside the weights: activations of a picture of a megapixel


@dataclass(frozen=True)
class Way:
    """How a kind of pipeline is asked.

    Attributes:
        inpaints: it is given the region.
        takes_reference: it may be given a second picture.
        settings: what else it is given.
        needs: a package that its own parts want, and that does not come with maskora.
    """

    inpaints: bool
    takes_reference: bool
    settings: dict[str, Any]
    needs: str = ""


# As their authors call them.
GUIDED = {"true_cfg_scale": 4.0, "negative_prompt": " "}
WAYS = {
    "QwenImageEditPipeline": Way(False, False, GUIDED, "torchvision"),
    "QwenImageEditPlusPipeline": Way(False, True, GUIDED, "torchvision"),
    "FluxKontextPipeline": Way(False, False, {"_auto_resize": False}),
    "FluxFillPipeline": Way(True, False, {}),
    "StableDiffusionXLInpaintPipeline": Way(True, False, {}),
}
ADVICE = f"name a folder or hub id of one of {', '.join(WAYS)}"


@dataclass(frozen=True)
class ImageEditor:
    """A loaded pipeline.

    Attributes:
        steps: of denoising.
        megapixels: about the size at which it works.
    """

    pipeline: Any
    way: Way
    steps: int
    megapixels: float

    def edit(
        self, image_HWC: Pixels, region_HW: npt.NDArray[np.bool_], instruction: str,
        reference_HWC: Pixels | None, seeds: list[int],
    ) -> Iterator[Pixels]:  # fmt: skip
        """A candidate for each seed, of the picture's size; they may differ outside the region.

        Raises:
            UserError: this kind of pipeline takes no reference picture.
            OutOfMemory: the GPU's memory is too small for it.
        """
        if reference_HWC is not None and not self.way.takes_reference:
            raise UserError(
                f"{KEY}: {type(self.pipeline).__name__} takes no reference picture; "
                f"{', '.join(name for name, way in WAYS.items() if way.takes_reference)} does"
            )
        size = image_HWC.shape[1], image_HWC.shape[0]
        given = self._given(image_HWC, region_HW, reference_HWC)
        with Progress("edit", self.steps * len(seeds), "step") as progress, _explained():
            for seed in seeds:
                yield resize(self._sample(given, instruction, seed, progress), size)

    def _given(
        self, image_HWC: Pixels, region_HW: npt.NDArray[np.bool_], reference_HWC: Pixels | None
    ) -> dict[str, Any]:
        """Pictures at the size at which the pipeline works."""
        height, width = image_HWC.shape[:2]
        size = auto_size(width, height, GRID, round(self.megapixels * 1024**2))
        picture: Any = Image.fromarray(resize(image_HWC, size))
        if reference_HWC is not None:
            picture = [picture, Image.fromarray(reference_HWC)]
        given = {"image": picture, "width": size[0], "height": size[1], **self.way.settings}
        if self.way.inpaints:
            mask_HW = resize(region_HW.astype(np.uint8) * 255, size)
            given["mask_image"] = Image.fromarray(mask_HW)
        if "_auto_resize" in given:  # else it would choose a shape of its own
            given["max_area"] = size[0] * size[1]
        return given

    def _sample(
        self, given: dict[str, Any], instruction: str, seed: int, progress: Progress
    ) -> Pixels:
        import torch

        def advance(pipeline: Any, step: int, time: Any, values: dict[str, Any]) -> dict[str, Any]:
            interruption.check()
            progress.advance()
            return values

        made = self.pipeline(
            prompt=instruction, num_inference_steps=self.steps, callback_on_step_end=advance,
            generator=torch.Generator("cpu").manual_seed(seed), **given,
        )  # fmt: skip
        return np.array(made.images[0].convert("RGB"))


@contextmanager
def open_image_editor(
    model: str, relative_to: Path, steps: int, megapixels: float, room: int | None
) -> Iterator[ImageEditor]:
    """The pipeline of a folder, loaded on entry and released on exit.

    Args:
        model: a hub id or a local folder.
        relative_to: where a relative folder counts from.
        room: bytes of the GPU's memory that it may take; None without a GPU.

    Raises:
        UserError: there is none, it cannot be had, or is not of a known class, or brings code.
        Fault: the machine has too little RAM for it.
    """
    if model == "none":
        raise UserError(f'{KEY} is "none": {ADVICE}')
    # The index first: a model that cannot be used is not downloaded.
    name = check_index(locate(model, relative_to, ["model_index.json"], key=KEY))
    _check_package(name)
    folder = locate(model, relative_to, key=KEY)
    _refuse_code(folder)
    import torch

    device = devices.for_small_models()
    dtype = torch.float32
    if device != "cpu":
        dtype = torch.bfloat16 if devices.computes_bfloat16(device) else torch.float16
    sizes = part_bytes(folder, dtype.itemsize)
    _check_ram(folder, sum(sizes.values()))
    announce("loading the image editor")
    pipeline = _load(name, folder, dtype)
    try:
        _place(pipeline, device, sizes, room)
        yield ImageEditor(pipeline, WAYS[name], steps, megapixels)
    finally:
        _release(pipeline)


def check_index(folder: Path) -> str:
    """The name of the pipeline's class. Raises UserError: it is not one of the known ones."""
    index = read_settings(folder / "model_index.json", KEY, ADVICE)
    name = index.get("_class_name")
    if not isinstance(name, str) or name not in WAYS:
        raise UserError(
            f"{KEY}: {folder} holds no known editor (but {name or 'nothing'}): {ADVICE}"
        )
    for part, entry in index.items():
        if isinstance(entry, list) and (len(entry) != 2 or entry[0] not in (None, *LIBRARIES)):
            raise UserError(
                f"{KEY}: {part} of {folder} is to be read by {entry[0] if entry else 'nothing'}, "
                f"which is neither diffusers nor transformers: no code of a model is run. {ADVICE}"
            )
    return name


def _check_package(name: str) -> None:
    needs = WAYS[name].needs
    if needs and find_spec(needs) is None:
        raise UserError(
            f"{KEY}: {name} needs the package {needs}, which is not installed: take the one "
            f"that goes with your torch (pip install {needs})"
        )


def _refuse_code(folder: Path) -> None:
    """Nothing in a folder is code, or asks for somebody else's. Raises UserError."""
    if found := next(iter(sorted(folder.rglob("*.py"))), None):
        raise UserError(f"{KEY}: {found} is code, and none of a model's is run: {ADVICE}")
    for part in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        check_folder_of_texts(part)
        refuse_adapter(part, KEY, ADVICE)
        for path in sorted(part.glob("*config.json")):
            settings = read_settings(path, KEY, ADVICE)
            refuse_quantised(settings, part, KEY)
            if key := next((key for key in CODE if _asks(settings, key)), None):
                raise UserError(
                    f"{KEY}: {path} asks for code from elsewhere ({key}), and none of a model's "
                    f"is run: {ADVICE}"
                )


def _asks(settings: Any, key: str) -> bool:
    """Whether settings, or those in them, choose code by a key."""
    if not isinstance(settings, dict):
        return False
    own = settings.get(key) or ""
    return own not in PLAIN or any(_asks(inner, key) for inner in settings.values())


def part_bytes(folder: Path, itemsize: int) -> dict[str, int]:
    """How many bytes the weights of each part take once they are loaded.

    Raises:
        UserError: a file is damaged.
    """
    from safetensors import SafetensorError, safe_open

    sizes: dict[str, int] = {}
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        names = [path.name for path in part.glob("*.safetensors")]
        indices = [path.name for path in part.glob("*.json")]
        for name in sorted({*names} - variants([*names, *indices])):
            try:
                with safe_open(part / name, "np") as file:
                    shapes = [file.get_slice(key).get_shape() for key in file.keys()]  # noqa: SIM118
            except SafetensorError as error:
                raise UserError(f"{KEY}: {part / name} is damaged ({error})") from None
            numbers = sum(int(np.prod(shape)) for shape in shapes)
            sizes[part.name] = sizes.get(part.name, 0) + numbers * itemsize
    return sizes


def _check_ram(folder: Path, needed: int) -> None:
    free = ram().available
    if needed > free:
        raise Fault(
            f"{KEY}: {folder} takes {gb(needed)} GB of RAM, and {gb(free)} GB are free: close "
            f"other programs, or name a smaller editor"
        )


def _load(name: str, folder: Path, dtype: "torch.dtype") -> Any:
    import diffusers
    import diffusers.utils.logging
    import transformers.utils.logging

    for library in (diffusers, transformers):
        library.utils.logging.disable_progress_bar()  # they count tensors
    kind = getattr(diffusers, name)

    def load(where: Path) -> Any:
        return kind.from_pretrained(where, dtype=dtype, use_safetensors=True, local_files_only=True)

    pipeline = load_part(load, folder, KEY, ADVICE)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _place(pipeline: Any, device: str, sizes: dict[str, int], room: int | None) -> None:
    if room is None:
        return
    how = choose_residence(sizes, room)
    if how == "whole":
        pipeline.to(device)
    elif how == "parts":
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.enable_sequential_cpu_offload(device=device)


def choose_residence(sizes: dict[str, int], room: int) -> Literal["whole", "parts", "layers"]:
    """What of the weights is on the GPU at a time: all of them, a part, or a layer, as it fits.

    Args:
        sizes: bytes of each part.
        room: bytes that may be taken, for the work too.
    """
    if sum(sizes.values()) + WORKING <= room:
        return "whole"
    return "parts" if max(sizes.values(), default=0) + WORKING <= room else "layers"


def _release(pipeline: Any) -> None:
    """Free its memory, whoever still refers to it."""
    import torch

    pipeline.remove_all_hooks()
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.to("meta")
    gc.collect()
    torch.cuda.empty_cache()


@contextmanager
def _explained() -> Iterator[None]:
    """Let running out of the GPU's memory say what would need less."""
    try:
        yield
    except RuntimeError as error:
        if ran_out_of(error) != "VRAM":
            raise
        raise OutOfMemory(
            f"the GPU's memory is too small for this edit ({first_line(error)}): lower [editor] "
            f"megapixels, or end what else uses the GPU (nvidia-smi lists it)"
        ) from error
