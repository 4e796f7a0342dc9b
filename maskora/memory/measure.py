"""What a base asks of memory, measured on its own classes without the memory itself.

Every part is built from its configuration on torch's `meta` device, whose tensors have shapes and
types but no values, and computes there what it computes in a run: through the model's own
`predict`, its encoders and VAE, and the streaming engine. After each operation the bytes of all
tensors that are alive are noted. How they grow with the number of tokens, the LoRA's rank or the
picture's area is exact for each moment, so two sizes tell it for all sizes.
"""

import copy
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import groupby
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from maskora import lora
from maskora.memory.live_bytes import META, Fused, LiveBytes, in_fused
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
from maskora.streaming.transfer import HostToDevice
from maskora.streaming.weights import StreamedWeights

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
            module.forward = partial(in_fused, module.forward)
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
        offload = ActivationOffload(HostToDevice(META), HostToDevice(META), enabled=False)
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

    def check(self, weights: Sequence[str], files: Mapping[str, tuple[str, ...]]) -> None:
        """Nothing is missing."""

    def config(self, part: str) -> dict[str, Any]:
        """The part's own; of a scheduler, which takes no memory, any; of a twin, the first's."""
        if part == "transformer_2" and part not in self._source.parts():
            part = "transformer"
        return SCHEDULER if part == "scheduler" else self._source.config(part)

    def described(self, part: str) -> str:
        return self._source.described(part)

    def index(self) -> dict[str, Any]:
        return self._source.index()

    def weights(self, part: str) -> Reader:
        """Every tensor that anyone asks for."""
        return Weightless()

    def folder(self, part: str) -> Path:
        """Where a tokenizer would be."""
        return self._source.folder(part)

    def parts(self) -> list[str]:
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
