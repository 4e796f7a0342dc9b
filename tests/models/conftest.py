"""Tiny folders, written once for all tests of the bases, and a clip."""

import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.models.bases import TINY

Tiny = Callable[..., Path]


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Tiny:
    """A family's tiny folder, which bears the family's name; options are those of its writer."""

    @functools.cache
    def folder(family: str, **options: int) -> Path:
        path = tmp_path_factory.mktemp("tiny") / family
        TINY[family](path, **options)
        return path

    return folder


@pytest.fixture(scope="session")
def clip() -> np.ndarray:
    """Nine frames of noise, (9, 64, 96, 3)."""
    return np.random.default_rng(3).integers(0, 256, (9, 64, 96, 3), dtype=np.uint8)
