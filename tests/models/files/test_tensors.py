"""A tensor that is missing, too much, renamed or of another shape is named."""

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel, UMT5Config, UMT5EncoderModel

from maskora.errors import UserError
from maskora.models.encoders import T5_WORDS
from maskora.models.files.part import StoredPart
from maskora.models.files.tensors import read_weights
from maskora.models.wan.encoders import IMAGE_EXTRAS
from maskora.streaming.tensor_files import check_all
from tests.models.files.layouts import PREFIX

MODULES: dict[str, Callable[[dict[str, Any]], nn.Module]] = {
    "transformer": lambda config: WanTransformer3DModel.from_config(config),
    "vae": lambda config: AutoencoderKLWan.from_config(config),
    "text_encoder": lambda config: UMT5EncoderModel(UMT5Config(**config)),
    "image_encoder": lambda config: CLIPVisionModel(CLIPVisionConfig(**config)),
}


CASES = [
    (layout, part)
    for layout in ("original", "comfyui", "scaled")
    for part in MODULES
    if layout != "scaled" or part in ("transformer", "text_encoder")
]


@functools.cache
def _module(part: str, config: str) -> nn.Module:
    with torch.device("meta"):
        return MODULES[part](json.loads(config))


def look(part: StoredPart) -> None:
    """Hold a part's tensors against the module that they are to fill."""
    module, reader = _module(part.part, json.dumps(part.kind.config)), part.reader()
    if part.part == "text_encoder":
        config = part.kind.config
        reader.check(T5_WORDS[0], (config["vocab_size"], config["d_model"]))
    skip = T5_WORDS if part.part == "text_encoder" else ()
    check_all(reader, module, skip, IMAGE_EXTRAS)


# Where a shape is the only one that tells a length, any is right.
FREE = {"time_embedding.0.weight": -1, "text_embedding.0.weight": -1, "shared.weight": 0,
        "token_embedding.weight": 0}  # fmt: skip
SPARSE = 3  # of the tensors, one in so many is damaged
UNREAD = ("textual.", "log_scale", "visual.head", "visual_projection", "spiece_model")


@pytest.mark.parametrize(("layout", "part"), CASES)
def test_every_tensor_that_is_missing_renamed_or_of_another_shape_is_named(
    written: dict[str, dict[str, Path]], layout: str, part: str
) -> None:
    path = written[layout][part]
    weights = read_weights([path], str(path))
    look(StoredPart(part, (path,), str(path)))
    for name in [name for name in weights.names if not name.startswith(UNREAD)][::SPARSE]:
        one, others = weights.stored[name], {n: s for n, s in weights.stored.items() if n != name}
        longer = (*one.shape[:-1], one.shape[-1] + 1)
        changed = {
            "missing": others,
            "renamed": {**others, f"{name}_": one},
            "wide": {**others, name: replace(one, shape=longer)},
            "extra": {**weights.stored, f"{name}.odd": one},
        }
        if FREE.get(name.removeprefix(PREFIX)) in (-1, len(one.shape) - 1):
            del changed["wide"]
        for what, stored in changed.items():
            damaged = StoredPart(part, (path,), str(path))
            names = tuple(n for n in stored if n in weights.names or n[:-1] == name or "odd" in n)
            damaged.__dict__["weights"] = replace(weights, stored=stored, names=names)
            with pytest.raises(UserError) as caught:
                look(damaged)
            message = str(caught.value)
            named = f"{name}.odd" if what == "extra" else name
            assert f" {named}" in message, f"{what}: {message}"
            assert str(path) in message
