"""What a base asks of memory, measured on its own classes without the memory itself.

Every part is built from its configuration on torch's `meta` device, whose tensors have shapes and
types but no values, and computes there what it computes in a run: through the model's own
`predict`, its encoders and VAE, and the streaming engine. After each operation the bytes of all
tensors that are alive are noted. How they grow with the number of tokens, the LoRA's rank or the
picture's area is exact for each moment, so two sizes tell it for all sizes.

As on a GPU, attention does not write its scores out, and RMS norms are computed in one piece.
"""

import copy
import logging
import re
import weakref
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter, tree_leaves

from maskora import lora
from maskora.models.base import (
    Context,
    ContextEncoder,
    ModelInputs,
    PromptInput,
    Transformer,
    VideoModel,
)
from maskora.models.encoders import StreamedEncoder
from maskora.models.files.model_files import ModelFiles
from maskora.models.registry import open_model
from maskora.streaming.blocks import Block, Precision, block_bytes
from maskora.streaming.engine import Streamer
from maskora.streaming.formats import FORMATS
from maskora.streaming.placement import RESIDENT, Placement
from maskora.streaming.recompute import ActivationOffload
from maskora.streaming.sources import BlockSource
from maskora.streaming.tensor_files import Reader
from maskora.streaming.transfer import Transfer
from maskora.streaming.weights import StreamedWeights

META = torch.device("meta")
Table = dict[str, Any]
Size = tuple[int, int, int]  # frames, height and width of latents, in tokens
# A moment: how many bytes are alive, as coefficients of a few terms (see `fitted`).
Moments = list[list[float]]

# Two sizes of each kind; no side is 1, since such tensors have other strides.
LATENTS, RANKS, SIDES = ((2, 8, 8), (4, 12, 16)), (8, 24), (256, 512)
# Frames of a clip between which a VAE's peak is a straight line: it works in chunks of 4 or 16.
FRAMES = (1, 5, 9, 17, 21)
# Where moments are compared; what is never the largest is left out.
TOKENS = np.geomspace(1, 2**21, 64)
AREAS = np.geomspace(64**2, 8192**2, 64)
# How a step of a transformer computes: name -> batch, with a graph, how it lies in memory.
STEPS: dict[str, tuple[int, bool, Placement]] = {
    "block": (1, True, RESIDENT),
    "layer": (1, True, Placement(0, recompute="layer")),
    "one": (1, False, RESIDENT),
    "two": (2, False, RESIDENT),
    "split": (2, False, Placement(0, split_batch=True)),
}
# The share of the largest area's bytes from which on a square term is no matter of borders.
SQUARE = 0.02
SCHEDULER = {"_class_name": "FlowMatchEulerDiscreteScheduler"}


class Probe:
    """A base that is measured: its model on the meta device, in one precision."""

    def __init__(self, family: str, source: ModelFiles, dtype: str) -> None:
        """Of `source` only the configurations are read."""
        with _quiet():
            self.model: VideoModel = open_model(family, Configurations(source), dtype, "meta")
            self._whole = self.model.build_transformer()
        self._precision = self.model.precision

    def base(self) -> Table:
        """What depends neither on the precision nor on the LoRA: names, counts, and the VAE."""
        model, whole = self.model, self._whole
        depths = [len(getattr(whole, name)) for name in model.block_lists]
        (width, _), *_ = (self._carried(name, LATENTS[0]) for name in model.block_lists)
        return {
            "name": f"{model.family} {'+'.join(map(str, depths))} x {width}",
            "grid": [model.grid.cell, model.grid.patch, model.grid.temporal],
            "latent_channels": model.latent_channels,
            "experts": len(model.experts),
            "embeds_guidance": model.embeds_guidance,
            "parameters": sum(parameter.numel() for parameter in whole.parameters()),
            "largest_matrix": max(linear.weight.numel() for _, linear in self._linears()),
            "lora": {
                kind: sum(
                    linear.in_features + linear.out_features
                    for name, linear in self._linears()
                    if re.fullmatch(model.lora_targets(kind), name)
                )
                for kind in ("attention", "attention+ffn")
            },
            "vae": self._vae(),
        }

    def weights(self) -> Table:
        """Bytes of the blocks, of what lies outside them, of a block's input; the encoders."""
        model, whole, precision = self.model, self._whole, self._precision
        lists = tuple(f"{name}." for name in model.block_lists)
        outside = [(n, p) for n, p in whole.named_parameters() if not n.startswith(lists)]
        carried = [
            max(self._carried(name, latents)[1] for name in model.block_lists)
            for latents in LATENTS
        ]
        return {
            "blocks": {
                storage: _runs(
                    block_bytes(block, f"{name}.{index}.", storage, precision)
                    for name in model.block_lists
                    for index, block in enumerate(getattr(whole, name))
                )
                for storage in ("same", *FORMATS)
            },
            "others": sum(p.numel() * precision(name).itemsize for name, p in outside)
            + sum(buffer.nbytes for buffer in whole.buffers()),
            "input": _line(*carried),
            "encoders": {
                built.title: _encoder(built)
                for built in (encoder.build() for encoder in model.encoders() if encoder.build)
            },
        }

    def steps(self, targets: str) -> dict[str, Moments]:
        """The moments of a training or denoising step at which most memory may be taken.

        Returns:
            step (see `STEPS`) -> coefficients of 1 and tokens, in training of rank and tokens x
            rank as well: bytes without block inputs that wait for backward, the LoRA's gradients,
            and the latents around it.
        """
        sizes = [(1, tokens, rank, tokens * rank) for tokens in TOKENS for rank in (1, 16, 256)]
        kinds = self.model.block_lists
        with _quiet():
            return {
                step: pruned([m for kind in kinds for m in self._step(kind, step, targets)], sizes)
                for step in STEPS
            }

    def _linears(self) -> Iterator[tuple[str, nn.Linear]]:
        """Those of the blocks."""
        lists = tuple(f"{name}." for name in self.model.block_lists)
        for name, module in self._whole.named_modules():
            if isinstance(module, nn.Linear) and name.startswith(lists):
                yield name, module

    def _step(self, kind: str, step: str, targets: str) -> Moments:
        """All moments of a step through two blocks of one kind."""
        batch, trains, placement = STEPS[step]
        tracks, terms = [], []
        for rank in RANKS if trains else RANKS[:1]:
            transformer, blocks = self.prepared(kind, placement, targets, rank, trains)
            for latents in LATENTS:
                moments, carried = self.traced(transformer, blocks[0], latents, batch, trains)
                waiting = len(blocks) * carried if trains else 0
                tracks.append([live - waiting for live in moments])
                tokens = _tokens(latents)
                terms.append((1, tokens, rank, tokens * rank) if trains else (1, tokens))
        return fitted(tracks, terms)

    def prepared(
        self, kind: str, placement: Placement, targets: str, rank: int, trains: bool
    ) -> tuple[Transformer, list[nn.Module]]:
        """A transformer of two blocks of one kind, and these, with a LoRA and its gradients."""
        transformer = self._shallow(kind, 2)
        blocks = list(getattr(transformer, kind))
        for module in (one for block in blocks for one in (block, *block.children())):
            module.forward = partial(_fused, module.forward)
        transformer.streamed = self._streamed(transformer, kind, placement)
        lora.inject(transformer, rank, rank, self.model.lora_targets(targets), seed=0)
        for weight in lora.trainable(transformer):
            weight.grad = torch.empty_like(weight)
        if trains:
            transformer.train()
            transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
        return transformer, blocks

    def _streamed(
        self, transformer: Transformer, kind: str, placement: Placement
    ) -> StreamedWeights:
        """What visits the blocks, all of them resident."""
        settle(transformer, self._precision)
        blocks = [
            Block(module, f"{kind}.{index}.", "same", self._precision, META)
            for index, module in enumerate(getattr(transformer, kind))
        ]
        for block in blocks:
            block.bind(torch.empty(block.layout.nbytes, dtype=torch.uint8, device=META))
        streamer = Streamer(blocks, BlockSource(), [], placement.ring, META)
        offload = ActivationOffload(Transfer(META), Transfer(META), enabled=False)
        return StreamedWeights(transformer, streamer, offload, placement, compiled=False)

    def traced(
        self,
        transformer: Transformer,
        block: nn.Module,
        latents: Size,
        batch: int,
        trains: bool,
    ) -> tuple[list[int], int]:
        """Bytes alive at each moment of a step, and the bytes that a block hands on."""
        noisy, timestep, inputs = self._inputs(latents, batch)
        carried: list[int] = []
        hook = block.register_forward_hook(lambda _, given, answer: carried.append(_size(answer)))
        gradient = torch.empty_like(noisy)
        held = [*transformer.parameters(), *transformer.buffers()]
        held += [parameter.grad for parameter in held if parameter.grad is not None]
        held += [noisy, timestep, gradient, inputs.condition_BCTHW, *inputs.context.values()]
        with LiveBytes() as live, Fused(), torch.set_grad_enabled(trains):
            live.mark(held)
            answer = self.model.predict(transformer, noisy, timestep, inputs)
            if trains:
                torch.autograd.backward([answer], [gradient])
        hook.remove()
        return live.moments, carried[0]

    def _carried(self, kind: str, latents: Size) -> tuple[int, int]:
        """The width of the tokens, and the bytes that a block hands on to the next."""
        transformer = self._shallow(kind, 1)
        settle(transformer, self._precision)
        found: list[tuple[int, int]] = []
        getattr(transformer, kind)[0].register_forward_hook(
            lambda _, given, answer: found.append((_several(answer)[0].shape[-1], _size(answer)))
        )
        noisy, timestep, inputs = self._inputs(latents, 1)
        with LiveBytes(), Fused(), torch.no_grad():
            self.model.predict(transformer, noisy, timestep, inputs)
        return found[0]

    def _shallow(self, kind: str, count: int) -> Transformer:
        """A transformer with so many blocks of one kind, and none of the others."""
        lists = {name: getattr(self._whole, name) for name in self.model.block_lists}
        for name, blocks in lists.items():
            setattr(self._whole, name, blocks[: count if name == kind else 0])
        shallow = copy.deepcopy(self._whole)
        for name, blocks in lists.items():
            setattr(self._whole, name, blocks)
        return shallow

    def _inputs(self, latents: Size, batch: int) -> tuple[Tensor, Tensor, ModelInputs]:
        """Noisy latents, their timesteps, and the longest prompt with its picture."""
        frames, height, width = latents
        grid, channels = self.model.grid, self.model.latent_channels
        sides = (height * grid.patch, width * grid.patch)
        pixels = (1 + (frames - 1) * grid.temporal, *(side * grid.cell for side in sides))
        condition = self.model.pack_condition(
            torch.zeros(pixels), torch.zeros(channels, frames, *sides)
        ).to(META)
        context = {name: torch.stack([one] * batch) for name, one in self._context.items()}
        return (
            torch.empty(batch, channels, frames, *sides, device=META),
            torch.empty(batch, device=META),
            ModelInputs(torch.stack([condition] * batch), context),
        )

    @cached_property
    def _context(self) -> Context:
        """What the encoders give of the longest prompt."""
        return {
            name: tensor
            for encoder in self.model.encoders()
            for name, tensor in _longest(encoder).items()
        }

    def _vae(self) -> Table:
        """The VAE's bytes, and its moments by the number of frames: of 1 x area, and area^2."""
        model, grid = self.model, self.model.grid
        found: Table = {"bytes": 0, "encode": {}, "decode": {}}

        def shape(what: str, frames: int, side: int) -> tuple[int, ...]:
            if what == "encode":
                return 3, frames, side, side
            latent = side // grid.cell
            return model.latent_channels, grid.latent_frames(frames), latent, latent

        with _quiet(), LiveBytes() as live, Fused(), torch.no_grad(), model.vae() as vae:
            for what in ("encode", "decode"):
                compute = getattr(vae, what)
                compute(torch.empty(shape(what, 1, SIDES[0]), device=META))  # loads its weights
                weights = sum(parameter.nbytes for parameter in vae.module.parameters())
                found["bytes"] = max(found["bytes"], weights)
                for frames in FRAMES:
                    tracks = []
                    for side in SIDES:
                        pixels = torch.empty(shape(what, frames, side), device=META)
                        live.mark([pixels])
                        compute(pixels)
                        tracks.append(list(live.moments))
                    found[what][str(frames)] = _by_area(tracks)
        return found


class Configurations:
    """A base with its configurations alone: `ModelFiles` whose weights have no values.

    Nothing is looked for on disk but what a configuration says, so that a base can be measured
    before its weights and tokenizers are fetched.
    """

    def __init__(self, source: ModelFiles) -> None:
        self._source = source
        self.where, self.description = source.where, source.description

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        """Nothing is missing."""

    def config(self, part: str) -> dict[str, Any]:
        """The part's own; of a scheduler, which takes no memory, any; of a twin, the first's."""
        if part == "transformer_2" and part not in self._source.parts():
            part = "transformer"
        return SCHEDULER if part == "scheduler" else self._source.config(part)

    def described(self, part: str) -> str:
        """Where a part's configuration stands."""
        return self._source.described(part)

    def index(self) -> dict[str, Any]:
        """What the pipeline says."""
        return self._source.index()

    def weights(self, part: str) -> Reader:
        """Every tensor that anyone asks for."""
        return Weightless()

    def folder(self, part: str) -> Path:
        """Where a tokenizer would be."""
        return self._source.folder(part)

    def parts(self) -> list[str]:
        """Which parts have configurations."""
        return self._source.parts()

    def paths(self, part: str) -> list[Path]:
        """No files."""
        return []


class Weightless(Reader):
    """Has whatever is asked for, and leaves what it should fill as it is."""

    description = "a configuration"

    def names(self) -> Collection[str]:
        return ()

    def shape(self, name: str) -> tuple[int, ...]:
        raise AssertionError(f"{name}: any shape fits, so none is asked for")

    def dtype(self, name: str) -> torch.dtype | None:
        raise AssertionError(f"{name}: nothing is converted, so no precision is asked for")

    def check(self, name: str, shape: tuple[int, ...]) -> None:
        """It is there."""

    def read_span(self, name: str, start: int, out: Tensor) -> None:
        """Nothing is read."""

    def read_into(self, name: str, out: Tensor) -> None:
        """Nothing is read."""


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


def _fused(forward: Callable[..., Any], *inputs: Any, **options: Any) -> Any:
    with Fused():
        return forward(*inputs, **options)


def fitted(tracks: Sequence[Sequence[int]], terms: Sequence[Sequence[float]]) -> Moments:
    """The coefficients of each moment, from its bytes at as many sizes as there are terms.

    Args:
        tracks: for each size, the bytes at each moment. Where the operations depend on the size,
            only the peaks are compared.
        terms: for each size, the values of the terms.
    """
    if len({len(track) for track in tracks}) > 1:
        tracks = [[max(track)] for track in tracks]
    solved = np.linalg.solve(np.array(terms, float), np.array(tracks, float))
    return cast(Moments, solved.T.tolist())


def pruned(moments: Moments, terms: Sequence[Sequence[float]]) -> Moments:
    """Those moments that are the largest somewhere, sorted; coefficients to the millionth."""
    table = np.unique(np.round(np.array(moments, float), 6), axis=0)
    values = np.array(terms, float)[:, : table.shape[1]] @ table.T
    largest = np.unique(values.argmax(axis=1))
    return cast(Moments, (table[largest] + 0.0).tolist())


def settle(module: nn.Module, precision: Precision) -> None:
    """Give a module's parameters their precision on the meta device; its buffers go there, too."""
    for prefix, owner in module.named_modules():
        for leaf, parameter in list(owner._parameters.items()):
            if parameter is not None:
                name = f"{prefix}.{leaf}" if prefix else leaf
                empty = torch.empty(parameter.shape, dtype=precision(name), device=META)
                owner._parameters[leaf] = nn.Parameter(empty, requires_grad=False)
        for leaf, buffer in list(owner._buffers.items()):
            if buffer is not None:
                owner._buffers[leaf] = buffer.to(META)


def _encoder(built: StreamedEncoder) -> Table:
    """What an encoder takes that is streamed layer by layer."""
    module, precision = built.module, built.precision
    names = {id(one): name for name, one in module.named_modules()}
    layers = [
        block_bytes(layer, f"{names[id(layer)]}.", "same", precision) for layer in built.layers
    ]
    inside = tuple(f"{names[id(layer)]}." for layer in built.layers)
    outside = [
        parameter.numel() * precision(name).itemsize
        for name, parameter in module.named_parameters()
        if not name.startswith(inside) and name not in built.skip
    ]
    settle(module, precision)
    with LiveBytes() as live, Fused(), torch.no_grad():
        live.mark([*module.parameters(), *module.buffers()])
        built.longest(META)
    return {
        "layer": max(layers),
        "others": sum(outside) + sum(buffer.nbytes for buffer in module.buffers()),
        "activations": live.peak,
    }


def _longest(encoder: ContextEncoder) -> Context:
    """What an encoder gives of the longest prompt, without values."""
    if encoder.build is None:
        with encoder.load() as encode:
            (context,) = encode([PromptInput("", torch.zeros(3, 1, 1))])
        return {name: tensor.to(META) for name, tensor in context.items()}
    built = encoder.build()
    settle(built.module, built.precision)
    with LiveBytes(), Fused(), torch.no_grad():
        return built.longest(META)


def _by_area(tracks: Sequence[Sequence[int]]) -> Moments:
    """Moments that grow with the area, or with its square where that is what they do."""
    areas = [side**2 for side in SIDES]
    moments = fitted(tracks, [(area, area**2) for area in areas])
    last = areas[-1]
    for moment in moments:
        if moment[1] * last**2 < SQUARE * (moment[0] * last + moment[1] * last**2):
            moment[:] = [moment[0] + moment[1] * last, 0.0]  # a line, but for the borders
    return pruned(moments, [(area, area**2) for area in AREAS])


def _runs(sizes: Iterable[int]) -> list[list[int]]:
    """Equal sizes that follow one another, as [size, how many]."""
    return [[size, len(list(run))] for size, run in groupby(sizes)]


def _line(first: int, second: int) -> list[float]:
    """Coefficients of 1 and tokens, of bytes at the two sizes of latents."""
    small, large = map(_tokens, LATENTS)
    slope = (second - first) / (large - small)
    return [round(first - slope * small, 3), round(slope, 3)]


def _tokens(latents: Size) -> int:
    frames, height, width = latents
    return frames * height * width


def _several(answer: Any) -> tuple[Tensor, ...]:
    return (answer,) if isinstance(answer, Tensor) else tuple(answer)


def _size(answer: Any) -> int:
    return sum(one.nbytes for one in _several(answer))


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that tell what is being loaded, since nothing is."""
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
