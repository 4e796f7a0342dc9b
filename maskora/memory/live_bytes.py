"""Bytes that are alive on torch's `meta` device, whose tensors have shapes but no values.

As on a GPU, attention does not write its scores out, and RMS norms are computed in one piece.
"""

import weakref
from collections.abc import Callable, Iterable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_leaves

META = torch.device("meta")


class LiveBytes(TorchDispatchMode):
    """Bytes of all storages of the meta device that are alive, after each operation.

    Attributes:
        live: bytes now.
        moments: bytes above those at `mark`, after each operation since.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = self._base = 0
        self.moments: list[int] = []
        self._sizes: dict[int, int] = {}

    def mark(self, given: Iterable[Tensor]) -> None:
        """What is there already does not count."""
        for tensor in given:
            self._note(tensor)
        self._base, self.moments = self.live, [0]

    @property
    def peak(self) -> int:
        """The most that was alive since `mark`, above what was there."""
        return max(self.moments)

    def _note(self, tensor: Tensor) -> None:
        if not tensor.is_meta:
            return
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self.live += storage.nbytes()
            weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self.live -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return 0  # whatever is asked about values: no
        result = _computed(func, args, kwargs or {})
        for value in (result,) if isinstance(result, Tensor) else tree_iter(result):
            if isinstance(value, Tensor):
                self._note(value)
        self.moments.append(self.live - self._base)
        return result


# What operations gave before: shape, strides and type of each result. torch works that out anew for
# each operation, which would be most of the time that measuring takes.
_KNOWN: dict[tuple[Any, ...], list[tuple[Any, ...]]] = {}


def _computed(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What an operation gives on the meta device."""
    given = tree_leaves((args, kwargs))
    if not _makes_new(func) or not all(one.is_meta for one in given if isinstance(one, Tensor)):
        return func(*args, **kwargs)
    key = (func, *kwargs, *(_told(one) for one in given))
    if key not in _KNOWN:
        result = func(*args, **kwargs)
        results = (result,) if isinstance(result, Tensor) else result
        old = {one.untyped_storage()._cdata for one in given if isinstance(one, Tensor)}
        if isinstance(results, tuple) and all(
            isinstance(one, Tensor) and one.is_meta and one.untyped_storage()._cdata not in old
            for one in results
        ):
            _KNOWN[key] = [(one.shape, one.stride(), one.dtype) for one in results]
        return result
    anew = [
        torch.empty_strided(shape, stride, dtype=dtype, device=META)
        for shape, stride, dtype in _KNOWN[key]
    ]
    return anew[0] if len(func._schema.returns) == 1 else tuple(anew)


@cache
def _makes_new(func: Any) -> bool:
    """Whether an operation's results are no views of what it is given."""
    schema = func._schema
    return not schema.is_mutable and all(one.alias_info is None for one in schema.returns)


def _told(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype
    return type(value), value


class _Attention(torch.autograd.Function):
    """What fused attention (B, H, L, D) keeps and makes: the answer, and a number per row."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        batch, heads, length, _ = query.shape
        answer = query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)
        sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, answer, sums)
        return answer

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(given) for given in ctx.saved_tensors[:3])


class _Norm(torch.autograd.Function):
    """What a GPU's RMS norm keeps and makes: its input, one number per row, and the result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(ctx.saved_tensors[0]), None


class Fused(TorchFunctionMode):
    """Attention and RMS norms take the memory of a GPU's kernels."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        given = kwargs or {}
        if func is F.scaled_dot_product_attention:
            names = ("query", "key", "value")
            return _Attention.apply(
                *(args[i] if i < len(args) else given[name] for i, name in enumerate(names))
            )
        if func is F.rms_norm:
            return _Norm.apply(args[0], args[2] if len(args) > 2 else given.get("weight"))
        return func(*args, **given)


def in_fused(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    """A module's forward that is called where no mode reaches: in a recomputation."""
    with Fused():
        return forward(*inputs, **options)
