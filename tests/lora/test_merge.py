"""Weight files are linked where the file system can, and copied where it cannot."""

import errno
import os
from pathlib import Path

import pytest

from maskora import lora
from maskora.errors import UserError
from maskora.lora.merge import _place


def refuse(number: int) -> object:
    def link(source: Path, target: Path) -> None:
        raise OSError(number, "refused")

    return link


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EINVAL])
def test_a_file_system_without_links_gets_a_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """EINVAL is what Windows says of an exFAT disk."""
    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(os, "link", refuse(number))
    lora.link(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"weights"
    assert not (tmp_path / "b").samefile(tmp_path / "a")


def test_a_full_disk_is_no_reason_to_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_bytes(b"weights")
    monkeypatch.setattr(os, "link", refuse(errno.ENOSPC))
    with pytest.raises(OSError, match="refused"):
        lora.link(tmp_path / "a", tmp_path / "b")


def test_an_index_that_leads_to_another_drive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def relpath(path: Path, start: Path) -> str:
        raise ValueError("path is on mount 'D:', start on mount 'C:'")  # ntpath's words

    monkeypatch.setattr(os.path, "relpath", relpath)
    with pytest.raises(UserError, match="which lies outside of it"):
        _place(tmp_path / "a", tmp_path)
