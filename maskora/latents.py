"""Samples, encoded: every tensor is cached under the hash of what it was made from.

The encoders are loaded one after another, each only when something is not in the cache, and
released before the next. A changed mask, prompt, frame or model has another hash, so nothing stale
is ever served. The cache folder may be deleted at any time.
"""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from tqdm import tqdm

from maskora.conditioning import Sample
from maskora.files import digest, write_bytes
from maskora.models import ModelInputs, VideoModel

FORMAT = "1"
Item = TypeVar("Item")
Encoder = TypeVar("Encoder")


@dataclass(frozen=True)
class EncodedSample:
    """A sample as the transformer meets it, on the CPU, without a batch dimension.

    Attributes:
        name: the sample's name.
        target_CTHW: normalised latents of the target; None at inference.
        condition_CTHW: mask and condition latents as the base packs them.
        keep_THW: the pixel keep mask.
        text_LD: text embeddings.
        image_ND: tokens of the reference picture.
    """

    name: str
    target_CTHW: Tensor | None
    condition_CTHW: Tensor
    keep_THW: Tensor
    text_LD: Tensor
    image_ND: Tensor

    def inputs(self, device: torch.device | str) -> ModelInputs:
        """What the transformer is told, as a batch of one on a device."""
        return ModelInputs(
            condition_BCTHW=self.condition_CTHW[None].to(device),
            text_BLD=self.text_LD[None].to(device),
            image_BND=self.image_ND[None].to(device),
        )


class TensorCache:
    """Tensors in files named by content; an unreadable file counts as absent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def get(self, name: str) -> Tensor | None:
        """The tensor stored under a name, or None."""
        try:
            with safe_open(self._path(name), "pt") as file:
                return file.get_tensor("tensor")
        except (FileNotFoundError, SafetensorError):
            return None

    def put(self, name: str, tensor: Tensor) -> None:
        """Store a tensor, as a whole or not at all."""
        write_bytes(self._path(name), save({"tensor": tensor.contiguous()}))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


def encode_texts(prompts: Sequence[str], model: VideoModel, cache: TensorCache) -> list[Tensor]:
    """Prompts -> text embeddings of shape (L, D), from the cache where it has them."""
    who = digest(FORMAT, model.identity("text_encoder"), model.identity("tokenizer"))
    names = [f"text-{digest(who, str(model.dtype), prompt)}" for prompt in prompts]
    return _through(
        cache, names, prompts, model.text_encoder, lambda encode, missing: encode(missing)
    )


def encode_images(
    pictures: Sequence[Tensor], model: VideoModel, cache: TensorCache
) -> list[Tensor]:
    """Pictures (3, H, W) -> image tokens (N, D), from the cache where it has them."""
    who = digest(FORMAT, model.identity("image_encoder"), model.identity("image_processor"))
    names = [f"image-{digest(who, _bytes(picture))}" for picture in pictures]
    return _through(
        cache, names, pictures, model.image_encoder, lambda encode, missing: map(encode, missing)
    )


def encode_videos(videos: Sequence[Tensor], model: VideoModel, cache: TensorCache) -> list[Tensor]:
    """Videos (3, T, H, W) -> normalised latents (z, T', h, w), from the cache where it has them."""
    tiles = [] if model.placement.vae_tile is None else [str(model.placement.vae_tile)]
    who = digest(FORMAT, model.identity("vae"), *tiles)
    names = [f"video-{digest(who, str(tuple(video.shape)), _bytes(video))}" for video in videos]
    return _through(cache, names, videos, model.vae, lambda vae, missing: map(vae.encode, missing))


def encode_samples(
    samples: Sequence[Sample], model: VideoModel, cache: TensorCache
) -> list[EncodedSample]:
    """Encode samples: text, then reference pictures, then videos, each encoder loaded once."""
    texts = encode_texts([s.prompt for s in samples], model, cache)
    images = encode_images([s.reference_CHW for s in samples], model, cache)
    conditions = [s.condition_CTHW for s in samples]
    targets = [s.target_CTHW for s in samples if s.target_CTHW is not None]
    latents = encode_videos([*conditions, *targets], model, cache)
    target_latents = iter(latents[len(conditions) :])
    return [
        EncodedSample(
            name=sample.name,
            target_CTHW=None if sample.target_CTHW is None else next(target_latents),
            condition_CTHW=model.pack_condition(sample.keep_THW, condition),
            keep_THW=sample.keep_THW,
            text_LD=text,
            image_ND=image,
        )
        for sample, condition, text, image in zip(
            samples, latents[: len(conditions)], texts, images, strict=True
        )
    ]


def _through(
    cache: TensorCache,
    names: list[str],
    items: Sequence[Item],
    load: Callable[[], AbstractContextManager[Encoder]],
    encode: Callable[[Encoder, list[Item]], Iterable[Tensor]],
) -> list[Tensor]:
    """Look every item up; encode and store what is missing with an encoder that is loaded once."""
    found = {name: cache.get(name) for name in names}
    missing = {name: item for name, item in zip(names, items, strict=True) if found[name] is None}
    if missing:
        kind = names[0].partition("-")[0]
        with load() as encoder:
            encoded = tqdm(
                encode(encoder, list(missing.values())),
                desc=f"encode {kind}",
                unit=kind,
                total=len(missing),
            )
            for name, tensor in zip(missing, encoded, strict=True):
                found[name] = tensor.cpu()
                cache.put(name, tensor.cpu())
    return [_present(found[name]) for name in names]


def _present(tensor: Tensor | None) -> Tensor:
    assert tensor is not None
    return tensor


def _bytes(tensor: Tensor) -> bytes:
    return tensor.contiguous().numpy().tobytes()
