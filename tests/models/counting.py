"""Real classes at their published sizes without memory: tensors are fake, bytes are counted."""

import json
import weakref
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import PreTrainedConfig

from maskora.files import write_text


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of all storages that are alive, and their largest sum since `mark`."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = self._base = 0
        self._sizes: dict[int, int] = {}

    def mark(self, given: Iterable[Tensor]) -> None:
        """What is there already does not count."""
        for tensor in given:
            self._note(tensor)
        self._base = self.peak = self.live

    @property
    def grown(self) -> int:
        """How far the sum has risen above the mark."""
        return self.peak - self._base

    def _note(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value)
        return result


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """A module without memory, frozen."""
    with torch.device("meta"):
        return build().requires_grad_(False)


def make_fake(module: nn.Module, dtype: Callable[[str, nn.Parameter], torch.dtype]) -> None:
    """Give a meta module fake parameters on the CPU; call it within FakeTensorMode."""
    for name, owned in module.named_modules():
        for leaf, parameter in list(owned._parameters.items()):
            if parameter is not None:
                kind = dtype(f"{name}.{leaf}" if name else leaf, parameter)
                fake = torch.empty(parameter.shape, dtype=kind)
                owned._parameters[leaf] = nn.Parameter(fake, parameter.requires_grad)


def peak_of(
    given: Iterable[Tensor], compute: Callable[[], Any], mode: FakeTensorMode
) -> tuple[Any, int]:
    """What a computation returns, and how many bytes it takes at most beside what is given."""
    with mode, LiveBytes() as counter:
        counter.mark(given)
        return compute(), counter.grown


def write_configs(folder: Path, **configs: Any) -> Path:
    """A model folder of config.json files alone, from configurations of the classes, or dicts."""
    for part, config in configs.items():
        of_transformers = isinstance(config, PreTrainedConfig)
        text = config.to_json_string(use_diff=False) if of_transformers else json.dumps(config)
        write_text(folder / part / "config.json", text)
    return folder
