"""Samples, encoded: every tensor is cached under the hash of what it was made from.

The encoders are loaded one after another, each only when something is not in the cache, and
released before the next. A changed mask, prompt, frame or model has another hash, so nothing stale
is ever served. Samples are made, encoded and read back one at a time: there may be more of them
than memory holds. The cache folder may be deleted at any time but while a command needs it.
"""

import hashlib
import logging
import zlib
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from math import prod
from pathlib import Path
from typing import TypeVar, overload

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from maskora.errors import Fault, UserError
from maskora.files import digest, remove, write_bytes
from maskora.method.conditioning import Sample
from maskora.models.base import ContextEncoder
from maskora.models.registry import Context, ModelInputs, PromptInput, VideoModel
from maskora.progress import track
from maskora.streaming.header import read_metadata
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.placement import SAMPLE_ROOM, next_tile
from maskora.streaming.transfer import upload

FORMAT = "2"
LATENTS = "latents"
DIGEST = "sha256"  # of the tensors as they are saved; entries of earlier versions have none
CONTEXTS = 8  # so many of what encoders made stay there
log = logging.getLogger("maskora")
Item = TypeVar("Item")
Encoder = TypeVar("Encoder")


@dataclass(frozen=True)
class EncodedSample:
    """A sample ready for the transformer, on the CPU, without a batch dimension.

    Attributes:
        name: the sample's name.
        target_CTHW: normalised latents of the target; None at inference.
        condition_CTHW: mask and condition latents as the base packs them.
        keep_THW: the pixel keep mask.
        context: what the base's encoders make of its prompt and picture.
        times: where in the clip its latent frames are; None: one follows another.
        ignored_THW: bool, at which pixels no answer is judged; None: at none.
    """

    name: str
    target_CTHW: Tensor | None
    condition_CTHW: Tensor
    keep_THW: Tensor
    context: Context
    times: tuple[int, ...] | None = None
    ignored_THW: Tensor | None = None

    def inputs(self, device: torch.device | str) -> ModelInputs:
        """The transformer's inputs, as a batch of one on a device."""
        target = torch.device(device)
        return ModelInputs(
            condition_BCTHW=upload(self.condition_CTHW, target)[None],
            context={name: on_device(one, target)[None] for name, one in self.context.items()},
        )


def on_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of a context where its base wants it: masks stay in host memory.

    How many tokens they show decides shapes, which the host must know; asking the device for it
    would make the host wait.
    """
    return upload(tensor, device) if tensor.is_floating_point() else tensor


class OnDemand(Sequence[Item]):
    """Items that are made each time they are asked for, so that few are in memory at once."""

    def __init__(self, make: Callable[[int], Item], count: int) -> None:
        self._make, self._count = make, count

    def __len__(self) -> int:
        return self._count

    @overload
    def __getitem__(self, which: int) -> Item: ...

    @overload
    def __getitem__(self, which: slice) -> "OnDemand[Item]": ...

    def __getitem__(self, which: int | slice) -> "Item | OnDemand[Item]":
        numbers = range(self._count)[which]
        if isinstance(numbers, int):
            return self._make(numbers)
        return OnDemand(lambda number: self._make(numbers[number]), len(numbers))


class TensorCache:
    """Tensors in files named by content, with their own digest; a damaged file counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Context | None:
        """The tensors that are stored under a name, or None."""
        path = self._path(name)
        try:
            # Copies: what is still mapped can be neither replaced nor removed on Windows.
            tensors, noted = load(path.read_bytes()), read_metadata(path).get(DIGEST)
        except FileNotFoundError:
            return None
        except (IsADirectoryError, SafetensorError, UserError):
            tensors, noted = {}, "of other tensors"
        if noted in (None, _digest(tensors)):
            return tensors
        log.warning("note: %s is damaged, and is made again", path)
        remove(path)
        return None

    def read(self, name: str) -> Context:
        """The tensors that this run has stored or found under a name. Raises Fault."""
        tensors = self.get(name)
        if tensors is None:
            raise Fault(
                f"{self._path(name)} has gone while this run needs it: run the command again "
                f"(train --resume continues after the last saved step)"
            )
        return tensors

    def put(self, name: str, tensors: Context) -> None:
        """Store tensors, as a whole or not at all."""
        given = {key: tensor.contiguous() for key, tensor in tensors.items()}
        write_bytes(self._path(name), save(given, {DIGEST: _digest(given)}))

    def drop(self, name: str) -> None:
        """Forget what is stored under a name, if anything is."""
        remove(self._path(name))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def _digest(tensors: Context) -> str:
    return hashlib.sha256(save(dict(tensors))).hexdigest()


def digest_tensors(tensors: Context) -> str:
    """A content name for named tensors."""
    return digest(*(save({name: tensor.contiguous()}) for name, tensor in tensors.items()))


def encode_prompts(
    prompts: Sequence[PromptInput], model: VideoModel, cache: TensorCache
) -> list[Context]:
    """Prompts and pictures -> what the transformer attends to, from the cache where it has it.

    Each of the base's encoders is loaded once for all prompts, and only where something is missing.
    """
    names = _store_prompts(prompts, model, cache)
    stored = {name: cache.read(name) for name in {name for own in names for name in own}}
    return [_merged(map(stored.__getitem__, own)) for own in names]


def encode_with(
    encoder: ContextEncoder, prompts: Sequence[PromptInput], model: VideoModel, cache: TensorCache
) -> list[Context]:
    """What one of the base's encoders makes of prompts, from the cache where it has it."""
    names = [_prompt_name(item, encoder, model) for item in prompts]
    _store_with(encoder, names, prompts, cache)
    return [cache.read(name) for name in names]


def _store_prompts(
    prompts: Sequence[PromptInput], model: VideoModel, cache: TensorCache
) -> list[tuple[str, ...]]:
    """Encode what the cache lacks of prompts: the names in it of each, one per encoder."""
    encoders = model.encoders()
    names = [tuple(_prompt_name(item, each, model) for each in encoders) for item in prompts]
    for encoder, own in zip(encoders, zip(*names, strict=True), strict=True):
        _store_with(encoder, own, prompts, cache)
    return names


def _store_with(
    encoder: ContextEncoder,
    names: Sequence[str],
    prompts: Sequence[PromptInput],
    cache: TensorCache,
) -> None:
    """Encode what the cache lacks of prompts with one of the encoders."""
    _store(
        cache, names, prompts, encoder.load, lambda encode, missing: encode(missing), encoder.name
    )


def _merged(contexts: Iterable[Context]) -> Context:
    return {name: tensor for context in contexts for name, tensor in context.items()}


def _prompt_name(item: PromptInput, encoder: ContextEncoder, model: VideoModel) -> str:
    who = [FORMAT, encoder.precision, *map(model.identity, encoder.parts)]
    read = [item.prompt] if encoder.reads_prompt else []
    seen = [_bytes(item.picture_CHW)] if encoder.reads_picture else []
    return f"{encoder.name}-{digest(*who, *read, *seen)}"


def encode_videos(videos: Sequence[Tensor], model: VideoModel, cache: TensorCache) -> list[Tensor]:
    """Videos (3, T, H, W) -> normalised latents (z, T', h, w), from the cache where it has them.

    All go through tiles of one size; where the device's memory runs out, all go through smaller
    ones, which the model keeps.
    """
    longest = max((max(video.shape[-2:]) for video in videos), default=0)
    return with_room(
        partial(_encode_videos, videos, model, cache), partial(smaller_tiles, model, longest)
    )


def decode_video(latents_CTHW: Tensor, model: VideoModel) -> Tensor:
    """Normalised latents (z, T', h, w) -> pixels (3, T, H, W) in [-1, 1], in host memory.

    Where the device's memory runs out, the VAE goes through smaller tiles, which the model keeps.
    """
    longest = max(latents_CTHW.shape[-2:]) * model.grid.cell

    def decode() -> Tensor:
        with model.vae() as vae:
            return vae.decode(latents_CTHW).cpu()

    return with_room(decode, partial(smaller_tiles, model, longest))


def smaller_tiles(model: VideoModel, longest: int) -> str | None:
    """Let the VAE work in smaller tiles from now on; None where they are the smallest already.

    Args:
        longest: the longer side of the pictures in pixels.
    """
    tile = next_tile(model.placement.vae_tile, longest)
    if tile is None:
        return None
    model.placement = replace(model.placement, vae_tile=tile)
    return f"the VAE works in tiles of {tile} pixels from now on"


def _encode_videos(videos: Sequence[Tensor], model: VideoModel, cache: TensorCache) -> list[Tensor]:
    names = [_video_name(video, model) for video in videos]
    _store_videos(names, videos, model, cache)
    return [cache.read(name)[LATENTS] for name in names]


def _video_name(video_CTHW: Tensor, model: VideoModel) -> str:
    tiles = [] if model.placement.vae_tile is None else [str(model.placement.vae_tile)]
    who = digest(FORMAT, model.identity("vae"), *tiles)
    return f"video-{digest(who, str(tuple(video_CTHW.shape)), _bytes(video_CTHW))}"


def _store_videos(
    names: Sequence[str], videos: Sequence[Tensor], model: VideoModel, cache: TensorCache
) -> None:
    """Encode what the cache lacks of videos."""
    _store(
        cache, names, videos, model.vae,
        lambda vae, missing: ({LATENTS: vae.encode(video)} for video in missing), "video",
    )  # fmt: skip


def encode_samples(
    samples: Sequence[Sample], model: VideoModel, cache: TensorCache
) -> "EncodedSamples":
    """Encode samples of one picture size: words and reference pictures, then videos.

    Each encoder is loaded once, and one sample at a time is asked for.
    """
    prompts = OnDemand(lambda number: _prompt_of(samples[number]), len(samples))
    contexts = _store_prompts(prompts, model, cache)
    drafts = with_room(
        partial(_store_samples, samples, contexts, model, cache),
        lambda: smaller_tiles(model, max(samples[0].keep_THW.shape[-2:])),
    )
    return EncodedSamples(drafts, _Reader(model, cache))


def encode_together(
    samples: Sequence[Sample], model: VideoModel, cache: TensorCache
) -> "EncodedSamples":
    """`encode_samples` by all processes of a run (`model.ranks`), each its share of the samples.

    All go through tiles of one size: the smallest that one of them needs.
    """
    ranks = model.ranks
    while ranks.count > 1:
        if numbers := range(len(samples))[ranks.rank :: ranks.count]:  # some may have none
            encode_samples(OnDemand(partial(_picked, samples, numbers), len(numbers)), model, cache)
        tiles = ranks.gathered(model.placement.vae_tile)
        if len(set(tiles)) == 1:
            break
        smallest = min(tile for tile in tiles if tile is not None)
        model.placement = replace(model.placement, vae_tile=smallest)
    return encode_samples(samples, model, cache)


def _picked(samples: Sequence[Sample], numbers: Sequence[int], place: int) -> Sample:
    return samples[numbers[place]]


def _prompt_of(sample: Sample) -> PromptInput:
    return PromptInput(sample.prompt, sample.reference_CHW)


def _videos_of(sample: Sample, model: VideoModel) -> list[Tensor]:
    """What the VAE is given of a sample: the frames of its condition, and its target if any."""
    condition_CTHW = model.condition_frames(sample.condition_CTHW, sample.keep_THW)
    return [condition_CTHW, *([] if sample.target_CTHW is None else [sample.target_CTHW])]


def _store_samples(
    samples: Sequence[Sample],
    contexts: Sequence[tuple[str, ...]],
    model: VideoModel,
    cache: TensorCache,
) -> list["_Draft"]:
    """Encode what the cache lacks of the samples' videos."""
    drafts = [
        _Draft(
            sample.name, sample.prompt, sample.times, own,
            tuple(_video_name(video, model) for video in _videos_of(sample, model)),
            tuple(sample.keep_THW.shape), _packed(sample.keep_THW),
            None if sample.ignored_THW is None else _packed(sample.ignored_THW),
        )
        for sample, own in zip(samples, contexts, strict=True)
    ]  # fmt: skip
    places = [(n, which) for n, one in enumerate(drafts) for which in range(len(one.videos))]

    def video(number: int) -> Tensor:
        place, which = places[number]
        return _videos_of(samples[place], model)[which]

    names = [name for one in drafts for name in one.videos]
    _store_videos(names, OnDemand(video, len(places)), model, cache)
    return drafts


def _packed(mask_THW: Tensor) -> bytes:
    """A mask in few bytes."""
    return zlib.compress(np.packbits(mask_THW.numpy() > 0).tobytes(), 1)


def _unpacked(packed: bytes, shape: tuple[int, ...]) -> Tensor:
    bits = np.frombuffer(zlib.decompress(packed), np.uint8)
    return torch.from_numpy(np.unpackbits(bits, count=prod(shape)).reshape(shape)).bool()


@dataclass(frozen=True, eq=False)
class _Draft:
    """A sample whose tensors are in the cache.

    Attributes:
        contexts: their names there, one per encoder.
        videos: those of its condition and of its target, if it has one.
        shape: of the keep mask.
        keep: the mask, packed.
        ignored: where no answer is judged, packed.
    """

    name: str
    prompt: str
    times: tuple[int, ...] | None
    contexts: tuple[str, ...]
    videos: tuple[str, ...]
    shape: tuple[int, ...]
    keep: bytes
    ignored: bytes | None


class _Reader:
    """Reads encoded samples from the cache; the last ones stay in memory, up to `SAMPLE_ROOM`."""

    def __init__(self, model: VideoModel, cache: TensorCache) -> None:
        self._model, self._cache = model, cache
        self._context = lru_cache(maxsize=CONTEXTS)(cache.read)  # many samples have the same words
        self._recent: dict[_Draft, EncodedSample] = {}  # the last one was asked for last

    def __call__(self, draft: _Draft) -> EncodedSample:
        sample = self._recent.pop(draft, None) or self._read(draft)
        self._recent[draft] = sample
        while len(self._recent) > 1 and sum(map(_size, self._recent.values())) > SAMPLE_ROOM:
            del self._recent[next(iter(self._recent))]
        return sample

    def _read(self, draft: _Draft) -> EncodedSample:
        keep_THW = _unpacked(draft.keep, draft.shape).float()
        ignored = draft.ignored
        condition_CTHW, *target = (self._cache.read(name)[LATENTS] for name in draft.videos)
        return EncodedSample(
            name=draft.name,
            target_CTHW=target[0] if target else None,
            condition_CTHW=self._model.pack_condition(keep_THW, condition_CTHW),
            keep_THW=keep_THW,
            context=_merged(map(self._context, draft.contexts)),
            times=draft.times,
            ignored_THW=None if ignored is None else _unpacked(ignored, draft.shape),
        )


def _size(sample: EncodedSample) -> int:
    tensors = (sample.target_CTHW, sample.condition_CTHW, sample.keep_THW, *sample.context.values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


class EncodedSamples(Sequence[EncodedSample]):
    """Encoded samples, read from the cache when they are asked for.

    Attributes:
        names, prompts: of the samples.
        lengths: their frames.
    """

    def __init__(self, drafts: Sequence[_Draft], read: Callable[[_Draft], EncodedSample]) -> None:
        self._drafts, self._read = drafts, read
        self.names = [draft.name for draft in drafts]
        self.prompts = [draft.prompt for draft in drafts]
        self.lengths = [draft.shape[0] for draft in drafts]

    def __len__(self) -> int:
        return len(self._drafts)

    @overload
    def __getitem__(self, which: int) -> EncodedSample: ...

    @overload
    def __getitem__(self, which: slice) -> "EncodedSamples": ...

    def __getitem__(self, which: int | slice) -> "EncodedSample | EncodedSamples":
        if isinstance(which, slice):
            return EncodedSamples(self._drafts[which], self._read)
        return self._read(self._drafts[which])


def _store(
    cache: TensorCache,
    names: Sequence[str],
    items: Sequence[Item],
    load: Callable[[], AbstractContextManager[Encoder]],
    encode: Callable[[Encoder, Sequence[Item]], Iterable[Context]],
    kind: str,
) -> None:
    """Encode the items that the cache lacks, with an encoder that is loaded once, and store them.

    Args:
        names: of what becomes of each item; equal items have the same.
    """
    places = {name: number for number, name in reversed([*enumerate(names)])}
    missing = {n: places[n] for n in dict.fromkeys(names) if cache.get(n) is None}
    if not missing:
        return
    numbers = list(missing.values())
    with load() as encoder:
        encoded = encode(encoder, OnDemand(lambda n: items[numbers[n]], len(numbers)))
        reported = track(encoded, f"encode {kind}", len(missing), kind)
        for name, tensors in zip(missing, reported, strict=True):
            cache.put(name, {key: tensor.cpu() for key, tensor in tensors.items()})


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
