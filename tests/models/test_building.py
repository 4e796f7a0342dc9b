"""Folders that transformers cannot read are refused; other errors keep their class."""

import errno
from pathlib import Path

import pytest

from maskora.errors import UserError
from maskora.models.building import read_folder


def kind(error: Exception) -> type:
    """A class whose files cannot be read."""

    class Tokenizer:
        @classmethod
        def from_pretrained(cls, folder: Path) -> None:
            raise error

    return Tokenizer


@pytest.mark.parametrize(
    "error", [Exception("no model"), KeyError("x"), ValueError("x"), TypeError("x"), OSError("x")]
)
def test_files_of_another_kind_are_told_by_folder(error: Exception) -> None:
    with pytest.raises(UserError, match=r"^tokenizer cannot be read as a Tokenizer .*published$"):
        read_folder(kind(error), Path("tokenizer"))


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, "denied"), ImportError("needs protobuf"), MemoryError(),
        RuntimeError("interrupted"),
    ],
)  # fmt: skip
def test_what_is_not_about_files_keeps_its_class(error: Exception) -> None:
    with pytest.raises(type(error)):
        read_folder(kind(error), Path("tokenizer"))
