"""Weight files are linked where the file system can, and copied where it cannot."""

import errno
import os
from pathlib import Path

import pytest

from maskora import lora


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
