"""A tiny base in every layout, written once; whoever changes a file changes a copy."""

import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.models.files import layouts
from tests.models.files.layouts import PREFIX


@pytest.fixture(scope="session")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A base in diffusers' layout, by its family."""

    @functools.cache
    def base(family: str) -> Path:
        folder = tmp_path_factory.mktemp("bases") / "base"
        return layouts.write_diffusers(folder, family, layers=3)

    return base


@pytest.fixture(scope="session")
def base(bases: Callable[[str], Path]) -> Path:
    return bases("wan2.1-i2v")


@pytest.fixture(scope="session")
def written(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Path]]:
    """Every part's file in every layout."""
    folder = tmp_path_factory.mktemp("layouts")
    original = layouts.write_original(folder / "original", base)
    save_file(layouts.transformer(base), folder / "original.safetensors")
    return {
        "original": {
            "transformer": folder / "original.safetensors",
            "vae": original / layouts.VAE_FILE,
            "text_encoder": original / layouts.TEXT_FILE,
            "image_encoder": original / layouts.IMAGE_FILE,
        },
        "comfyui": layouts.write_files(folder / "files", base, prefix=PREFIX),
        "scaled": layouts.write_files(folder / "scaled", base, layouts.scaled),
    }


@pytest.fixture
def original(base: Path, tmp_path: Path) -> Path:
    return layouts.write_original(tmp_path / "original", base)


@pytest.fixture
def files(written: dict[str, dict[str, Path]]) -> dict[str, Path]:
    """ComfyUI's single files."""
    return dict(written["comfyui"])
