"""Looking at sources that are to be refused, and files made of others."""

from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from maskora.errors import UserError
from maskora.models.registry import Source, open_model
from tests.models.files.layouts import Tensors


def refused(source: Callable[[], Source], told: str, family: str = "wan2.1-i2v") -> None:
    """A base is not opened, and why is said."""
    with pytest.raises(UserError, match=told):
        open_model(family, source(), "float32", "cpu")


def changed(path: Path, target: Path, change: Callable[[Tensors], Tensors]) -> Path:
    """A safetensors file with other tensors."""
    save_file(change(load_file(path)), target)
    return target
