"""A device that is not here: its memory runs out when asked to, and waits for it are counted.

The `meta` device computes shapes alone, so whatever asks it for a value is an error there, as it
would be a wait on a GPU.
"""

from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 20.00 MiB."
aten = torch.ops.aten


def tensors(values: Any) -> list[Tensor]:
    return [value for value in tree_leaves(values) if isinstance(value, Tensor)]


class Allocator(TorchDispatchMode):
    """Counts allocations once it is armed, and lets chosen ones fail as a full GPU does.

    Attributes:
        count: allocations since it was armed.
        failed: how many have failed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = self.failed = 0
        self._fails: Callable[[int], bool] | None = None

    def arm(self, fails: Callable[[int], bool]) -> None:
        """From now on, allocation n fails where `fails(n)`; they are counted from 1."""
        self._fails, self.count = fails, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._fails is None:
            return result
        known = {t.untyped_storage().data_ptr() for t in tensors((args, kwargs))}
        fresh = [t for t in tensors(result) if t.untyped_storage().data_ptr() not in known]
        if fresh:
            self.count += 1
            if self._fails(self.count):
                self.failed += 1
                raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return result


class Bus(TorchDispatchMode):
    """What passes between the host and the `meta` device, and which questions stop the host.

    Attributes:
        traffic: how often tensors went "up" to the device unseen by the host (as `upload` and the
            engine send them), "up, waited for", "down" as saved inputs do, and how often the host
            waited for values ("wait").

    Args:
        answer: what it is told then.
    """

    def __init__(self, answer: float = 0) -> None:
        super().__init__()
        self._answer = answer
        self.traffic: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = {tensor.device.type for tensor in tensors((args, kwargs))}
        if func is aten.copy_.default and (args[0].is_cpu, args[1].is_meta) == (True, True):
            self.traffic["down"] += 1
            return args[0]
        if func is aten._to_copy.default and given == {"meta"} and _to_host(kwargs):
            self.traffic["wait"] += 1
            return torch.zeros(args[0].shape, dtype=kwargs.get("dtype") or args[0].dtype)
        if func is aten._local_scalar_dense.default and "meta" in given:
            self.traffic["wait"] += 1
            return self._answer
        result = func(*args, **kwargs)
        arrived = {tensor.device.type for tensor in tensors(result)}
        if "cpu" in given and "meta" in arrived:
            is_copy = func in (aten._to_copy.default, aten.copy_.default)
            if is_copy:
                unseen = func is aten.copy_.default or kwargs.get("non_blocking")
                self.traffic["up" if unseen else "up, waited for"] += 1
            elif any(t.device.type == "cpu" and t.ndim for t in tensors((args, kwargs))):
                self.traffic["wait"] += 1  # the operation copies it by itself
        return result


def _to_host(options: dict[str, Any]) -> bool:
    return torch.device(options.get("device") or "meta").type == "cpu"
