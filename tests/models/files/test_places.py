"""Files named one by one may lie anywhere, on Windows even on several drives."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest

from maskora.models.files.source import from_single_files


def test_the_folder_of_files_is_the_one_they_share() -> None:
    files = {"vae": Path("/models/wan/vae.pth"), "transformer": Path("/models/t/a.safetensors")}
    assert from_single_files(files, alone=True).where == Path("/models")


def test_files_on_several_drives_share_no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def commonpath(paths: Sequence[Path]) -> str:
        raise ValueError("Paths don't have the same drive")  # ntpath's words

    monkeypatch.setattr(os.path, "commonpath", commonpath)
    files = {"vae": Path("/models/wan/vae.pth"), "transformer": Path("/models/t/a.safetensors")}
    assert from_single_files(files, alone=True).where == Path("/models/wan")
