"""Modules built on the host from a reader, tokenizers from their folder, and memory given back."""

import gc
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from maskora import progress
from maskora.errors import UserError
from maskora.streaming.tensor_files import Reader, check_all

# What transformers raises of files that hold something else.
UNREADABLE = (AttributeError, KeyError, TypeError, ValueError)


def fill(module: Any, weights: Reader) -> Any:
    """A module whose parameters are not there yet gets them, frozen, in float32 in host memory.

    Args:
        weights: has every parameter, under the module's own names.

    Raises:
        UserError: a tensor is missing, of another shape, or too much.
    """
    check_all(weights, module)
    for name, parameter in list(module.named_parameters()):
        value = torch.empty(tuple(parameter.shape))
        weights.read_into(name, value)
        owner, _, leaf = name.rpartition(".")
        filled = nn.Parameter(value, requires_grad=False)
        module.get_submodule(owner).register_parameter(leaf, filled)
    return module.eval()


class Renamed(Reader):
    """A reader whose tensors go by other names."""

    def __init__(self, reader: Reader, names: Mapping[str, str]) -> None:
        """`names`: new name -> the reader's own."""
        self.description = reader.description
        self._reader, self._own = reader, names

    def names(self) -> Collection[str]:
        return self._own.keys()

    def name_in_file(self, name: str) -> str:
        return self._reader.name_in_file(self._own[name])

    def shape(self, name: str) -> tuple[int, ...]:
        return self._reader.shape(self._own[name])

    def dtype(self, name: str) -> torch.dtype | None:
        return self._reader.dtype(self._own[name])

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        self._reader.check(self._own.get(name, name), shape)

    def read_into(self, name: str, out: Tensor) -> None:
        self._reader.read_into(self._own[name], out)

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        self._reader.read_span(self._own[name], start, out)


def without_prefix(reader: Reader, prefix: str) -> Reader:
    """A reader by names without a prefix, where its own have it."""
    return Renamed(reader, {name.removeprefix(prefix): name for name in reader.names()})


def read_folder(kind: Any, folder: Path, **settings: Any) -> Any:
    """A tokenizer or a processor of transformers from its folder.

    Raises:
        UserError: its files are not those of such a class.
    """
    try:
        return kind.from_pretrained(folder, **settings)
    except Exception as error:  # tokenizers raises this very class, whatever is wrong
        of_files = type(error) is Exception or isinstance(error, UNREADABLE)
        of_transformers = isinstance(error, OSError) and error.errno is None  # else a disk's
        if not (of_files or of_transformers):
            raise
        raise UserError(
            f"{folder} cannot be read as a {kind.__name__} ({type(error).__name__}: {error}): take "
            f"its files as they were published"
        ) from error


def as_bytes(picture_CHW: Tensor) -> Tensor:
    """A picture in [-1, 1] as uint8, for the processors of transformers; on the CPU."""
    return ((picture_CHW / 2 + 0.5).clamp(0, 1) * 255).round().to(torch.uint8).cpu()


def announce(part: str) -> None:
    """Say what is being loaded."""
    without_bars()
    progress.announce(f"loading the {part}")


def without_bars() -> None:
    """Turn the libraries' own bars off: they count tensors; maskora says what it is loading."""
    import diffusers.utils.logging
    import transformers.utils.logging

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


@contextmanager
def released(part: nn.Module) -> Iterator[None]:
    """Free a part's memory on exit, whoever still refers to it."""
    try:
        yield
    finally:
        part.to("meta")
        gc.collect()
        torch.cuda.empty_cache()
