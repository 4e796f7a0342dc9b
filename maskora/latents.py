"""Samples, encoded: every tensor is cached under the hash of what it was made from.

The encoders are loaded one after another, each only when something is not in the cache, and
released before the next. A changed mask, prompt, frame or model has another hash, so nothing stale
is ever served. The cache folder may be deleted at any time.
"""

import hashlib
import logging
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from maskora.errors import UserError
from maskora.files import digest, remove, write_bytes
from maskora.method.conditioning import Sample
from maskora.models.base import ContextEncoder
from maskora.models.registry import Context, ModelInputs, PromptInput, VideoModel
from maskora.progress import track
from maskora.streaming.header import read_metadata
from maskora.streaming.out_of_memory import with_room
from maskora.streaming.placement import next_tile
from maskora.streaming.transfer import upload

FORMAT = "2"
DIGEST = "sha256"  # of the tensors as they are saved; entries of earlier versions have none
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
    found: list[dict[str, Tensor]] = [{} for _ in prompts]
    for encoder in model.encoders():
        for context, tensors in zip(
            found, encode_with(encoder, prompts, model, cache), strict=True
        ):
            context.update(tensors)
    return list(found)


def encode_with(
    encoder: ContextEncoder, prompts: Sequence[PromptInput], model: VideoModel, cache: TensorCache
) -> list[Context]:
    """What one of the base's encoders makes of prompts, from the cache where it has it."""
    names = [_prompt_name(item, encoder, model) for item in prompts]
    return _through(
        cache, names, prompts, encoder.load, lambda encode, missing: encode(missing), encoder.name
    )


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
    tiles = [] if model.placement.vae_tile is None else [str(model.placement.vae_tile)]
    who = digest(FORMAT, model.identity("vae"), *tiles)
    names = [f"video-{digest(who, str(tuple(video.shape)), _bytes(video))}" for video in videos]
    encoded = _through(
        cache, names, videos, model.vae,
        lambda vae, missing: ({"latents": vae.encode(video)} for video in missing), "video",
    )  # fmt: skip
    return [tensors["latents"] for tensors in encoded]


def encode_samples(
    samples: Sequence[Sample], model: VideoModel, cache: TensorCache
) -> list[EncodedSample]:
    """Encode samples: words and reference pictures, then videos, each encoder loaded once."""
    contexts = encode_prompts(
        [PromptInput(s.prompt, s.reference_CHW) for s in samples], model, cache
    )
    conditions = [model.condition_frames(s.condition_CTHW, s.keep_THW) for s in samples]
    targets = [s.target_CTHW for s in samples if s.target_CTHW is not None]
    latents = encode_videos([*conditions, *targets], model, cache)
    target_latents = iter(latents[len(conditions) :])
    return [
        EncodedSample(
            name=sample.name,
            target_CTHW=None if sample.target_CTHW is None else next(target_latents),
            condition_CTHW=model.pack_condition(sample.keep_THW, condition),
            keep_THW=sample.keep_THW,
            context=context,
            times=sample.times,
            ignored_THW=sample.ignored_THW,
        )
        for sample, condition, context in zip(
            samples, latents[: len(conditions)], contexts, strict=True
        )
    ]


def _through(
    cache: TensorCache,
    names: list[str],
    items: Sequence[Item],
    load: Callable[[], AbstractContextManager[Encoder]],
    encode: Callable[[Encoder, list[Item]], Iterable[Context]],
    kind: str,
) -> list[Context]:
    """Look every item up; encode and store what is missing with an encoder that is loaded once."""
    found = {name: cache.get(name) for name in names}
    missing = {name: item for name, item in zip(names, items, strict=True) if found[name] is None}
    if missing:
        with load() as encoder:
            encoded = encode(encoder, list(missing.values()))
            reported = track(encoded, f"encode {kind}", len(missing), kind)
            for name, tensors in zip(missing, reported, strict=True):
                found[name] = {key: tensor.cpu() for key, tensor in tensors.items()}
                cache.put(name, found[name] or {})
    return [found[name] or {} for name in names]


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
