"""What each part must say is held against the real classes: their keys, and their defaults."""

import inspect
from typing import Any

import diffusers
import pytest
import transformers

from maskora.models import checks as shared
from maskora.models.checks import Settings
from maskora.models.hunyuan import checks as hunyuan
from maskora.models.hunyuan15 import checks as hunyuan15
from maskora.models.wan import checks as wan


def defaults_of(kind: Any) -> dict[str, Any]:
    """The settings that a class has by itself, and which it must be given in any case."""
    if issubclass(kind, transformers.PreTrainedConfig):
        return dict(kind().to_dict())
    parameters = inspect.signature(kind.__init__).parameters
    return {name: one.default for name, one in parameters.items() if name != "self"}


def as_tuple(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value


@pytest.mark.parametrize(
    ("settings", "kind"),
    [
        (wan.WanTransformer, diffusers.WanTransformer3DModel),
        (wan.WanVae, diffusers.AutoencoderKLWan),
        (wan.UMT5Encoder, transformers.UMT5Config),
        (shared.T5Encoder, transformers.T5Config),
        (shared.VisionTower, transformers.CLIPVisionConfig),
        (hunyuan.HunyuanTransformer, diffusers.HunyuanVideoTransformer3DModel),
        (hunyuan.HunyuanVae, diffusers.AutoencoderKLHunyuanVideo),
        (hunyuan.Llama, transformers.LlamaConfig),
        (hunyuan.ClipText, transformers.CLIPTextConfig),
        (hunyuan15.Hunyuan15Transformer, diffusers.HunyuanVideo15Transformer3DModel),
        (hunyuan15.Hunyuan15Vae, diffusers.AutoencoderKLHunyuanVideo15),
        (hunyuan15.Qwen, transformers.Qwen2_5_VLTextConfig),
        (hunyuan15.SiglipVision, transformers.SiglipVisionConfig),
    ],
)
def test_keys_and_defaults_are_the_classes_own(settings: type[Settings], kind: Any) -> None:
    theirs = defaults_of(kind)
    derived = {"return_dict", "dtype", "torch_dtype", "is_decoder", "model_type", "_class_name"}
    derived |= {"latents_mean", "latents_std"}
    derived |= {"head_dim", "num_key_value_heads"} if settings is hunyuan.Llama else set()
    derived |= {"rope_parameters", "rope_scaling", "rope_theta"}
    for key, field in ((one.alias or key, one) for key, one in settings.model_fields.items()):
        if key not in derived:
            assert key in theirs, f"{kind.__name__} has no {key}"
            assert field.is_required() or as_tuple(field.default) == as_tuple(theirs[key]), key
