"""A tiny base in every layout."""

from pathlib import Path

import pytest
from safetensors.torch import save_file

from tests.models.files import layouts
from tests.models.files.layouts import PREFIX


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return layouts.write_diffusers(tmp_path_factory.mktemp("bases") / "base", layers=3)


@pytest.fixture(scope="module")
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
def files(written: dict[str, dict[str, Path]], tmp_path: Path) -> dict[str, Path]:
    """Single files that may be exchanged."""
    return dict(written["comfyui"])
