"""Editing by an instruction with diffusers' real pipelines in a tiny size."""

import inspect
import json
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import diffusers
import numpy as np
import pytest

from maskora.errors import Fault, UserError
from maskora.image_editor import (
    WAYS,
    WORKING,
    choose_residence,
    open_image_editor,
    part_bytes,
)
from maskora.system import Ram
from tests.tiny_editors import write_flux_fill, write_kontext, write_sdxl

PICTURE = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
REGION = np.zeros((96, 160), bool)
REGION[20:60, 20:80] = True
SMALL = 160 * 96 / 1024**2
Write = Callable[[Path], None]


@pytest.fixture(scope="module")
def sdxl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("editors") / "sdxl"
    write_sdxl(folder)
    return folder


@pytest.fixture
def broken(sdxl: Path, tmp_path: Path) -> Path:
    """A folder to spoil."""
    return Path(shutil.copytree(sdxl, tmp_path / "model"))


def edit(
    folder: Path | str, seeds: list[int], reference: np.ndarray | None = None
) -> list[np.ndarray]:
    with open_image_editor(str(folder), Path("/"), 2, SMALL, None) as editor:
        return list(editor.edit(PICTURE, REGION, "a red ball", reference, seeds))


def refuse(folder: Path | str, *words: str) -> None:
    with pytest.raises(UserError, match=r"^\[editor\] model") as refused:
        edit(folder, [0])
    for word in words:
        assert word in str(refused.value)


@pytest.mark.parametrize("write", [write_sdxl, write_flux_fill, write_kontext])
def test_a_real_pipeline_makes_a_candidate_per_seed(write: Write, tmp_path: Path) -> None:
    write(tmp_path / "model")
    one, other = edit(tmp_path / "model", [0, 1])
    (again,) = edit(tmp_path / "model", [0])
    assert one.shape == other.shape == PICTURE.shape
    assert one.dtype == np.uint8
    assert not np.array_equal(one, other)
    assert np.array_equal(one, again)


def test_an_inpainting_pipeline_sees_the_region(sdxl: Path) -> None:
    with open_image_editor(str(sdxl), Path("/"), 2, SMALL, None) as editor:
        (here,) = editor.edit(PICTURE, REGION, "a ball", None, [0])
        (there,) = editor.edit(PICTURE, ~REGION, "a ball", None, [0])
    assert not np.array_equal(here, there)


@pytest.mark.parametrize("name", WAYS)
def test_every_class_is_there_and_is_asked_what_it_takes(name: str) -> None:
    taken = inspect.signature(getattr(diffusers, name).__call__).parameters
    way = WAYS[name]
    given = {"image", "width", "height", "prompt", "num_inference_steps", "generator"}
    given |= {"callback_on_step_end", *way.settings}
    given |= {"mask_image"} if way.inpaints else set()
    assert given <= taken.keys()


def test_it_is_released_at_the_end(sdxl: Path) -> None:
    with open_image_editor(str(sdxl), Path("/"), 2, SMALL, None) as editor:
        unet = editor.pipeline.unet
        assert unet.device.type == "cpu"
    assert unet.device.type == "meta"


def test_a_reference_where_none_is_taken(sdxl: Path) -> None:
    with pytest.raises(UserError, match="takes no reference picture; QwenImageEditPlus"):
        edit(sdxl, [0], reference=PICTURE)


def test_without_a_model_it_says_which_there_are() -> None:
    refuse("none", *WAYS)
    refuse("/nowhere/at/all", "neither a folder nor a hub id")


def index(folder: Path, **values: object) -> None:
    path = folder / "model_index.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_an_unknown_class_is_refused(broken: Path) -> None:
    index(broken, _class_name="WanImageToVideoPipeline")
    refuse(broken, "WanImageToVideoPipeline", "FluxKontextPipeline")
    index(broken, _class_name=["my_pipeline", "MyPipeline"])
    refuse(broken)


@pytest.mark.skipif(find_spec("torchvision") is not None, reason="torchvision is installed")
def test_a_package_that_is_missing_is_named_before_anything_is_fetched(broken: Path) -> None:
    index(broken, _class_name="QwenImageEditPlusPipeline")
    refuse(broken, "QwenImageEditPlusPipeline needs the package torchvision", "pip install")


def test_code_in_the_folder_is_refused(broken: Path) -> None:
    (broken / "unet" / "mine.py").write_text("raise SystemExit(7)")
    refuse(broken, "mine.py", "none of a model's is run")


@pytest.mark.parametrize("library", ["mine", "unet.mine", "os"])
def test_a_part_of_another_library_is_refused(broken: Path, library: str) -> None:
    index(broken, unet=[library, "UNet2DConditionModel"])
    refuse(broken, f"unet of {broken} is to be read by {library}")


@pytest.mark.parametrize(
    "asked",
    [
        {"auto_map": {"AutoModel": "mine.Model"}},
        {"attn_implementation": "owner/repo"},
        {"text_config": {"_attn_implementation": "owner/repo"}},
    ],
)
def test_settings_that_ask_for_code_are_refused(broken: Path, asked: dict[str, object]) -> None:
    path = broken / "text_encoder" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **asked}))
    refuse(broken, "asks for code from elsewhere")


def test_an_adapter_does_not_lead_to_another_model(broken: Path, tmp_path: Path) -> None:
    shutil.move(broken / "text_encoder" / "model.safetensors", tmp_path / "elsewhere.safetensors")
    asked = {"base_model_name_or_path": str(tmp_path), "peft_type": "LORA"}
    (broken / "text_encoder" / "adapter_config.json").write_text(json.dumps(asked))
    refuse(broken, "adapter_config.json is an adapter of some other model")


def test_quantised_and_pickled_weights_are_refused(broken: Path) -> None:
    weights = broken / "unet" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refuse(broken, "cannot be loaded")
    path = broken / "unet" / "config.json"
    path.write_text(json.dumps({"quantization_config": {"quant_method": "gguf"}}))
    refuse(broken, "quantised by other software")


def test_a_damaged_folder_is_told_of(broken: Path) -> None:
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"\0" * 40)
    refuse(broken, "damaged")
    (broken / "model_index.json").write_text("{")
    refuse(broken, "damaged")


def test_too_little_ram_is_known_before_loading(
    sdxl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("maskora.image_editor.ram", lambda: Ram(10**9, 1000))
    with pytest.raises(Fault, match=r"GB of RAM, and 0\.0 GB are free"):
        edit(sdxl, [0])


def test_weights_are_counted_as_they_will_be_loaded(sdxl: Path) -> None:
    sizes = part_bytes(sdxl, 2)
    with open_image_editor(str(sdxl), Path("/"), 2, SMALL, None) as editor:
        numbers = sum(p.numel() for p in editor.pipeline.unet.parameters())
    assert sizes["unet"] == 2 * numbers
    assert set(sizes) == {"unet", "vae", "text_encoder", "text_encoder_2"}


def test_as_much_as_fits_is_on_the_gpu() -> None:
    sizes = {"transformer": 5 * 10**9, "vae": 10**8}
    whole = sum(sizes.values()) + WORKING
    assert choose_residence(sizes, whole) == "whole"
    assert choose_residence(sizes, whole - 1) == "parts"
    assert choose_residence(sizes, 5 * 10**9 + WORKING - 1) == "layers"
