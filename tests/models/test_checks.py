"""Damaged and foreign configurations are refused by file and key, at the latest when they load."""

import inspect
import json
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
import transformers

from maskora.errors import UserError
from maskora.models import checks as shared
from maskora.models.checks import Settings
from maskora.models.hunyuan import checks as hunyuan
from maskora.models.hunyuan15 import checks as hunyuan15
from maskora.models.wan import checks as wan
from tests.models.bases import HUNYUAN as FULL
from tests.models.bases import HUNYUAN15 as NEWER
from tests.models.bases import MINIATURE, WAN, WAN22, copied, opened, update
from tests.models.conftest import Tiny

MISSING = object()
PUBLISHED = "take it as it was published"
SETTINGS: dict[str, Mapping[str, type[Settings]]] = {
    WAN: wan.WAN21,
    MINIATURE: wan.MINIATURE,
    FULL: hunyuan.HUNYUAN,
    NEWER: hunyuan15.HUNYUAN15,
}


def config_of(folder: Path, part: str) -> Path:
    return folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")


def changed(config: dict[str, Any], keys: tuple[str, ...], value: object) -> dict[str, Any]:
    """A configuration with one key, perhaps of an inner one, of another value."""
    first, *rest = keys
    if rest:
        return config | {first: changed(config[first], tuple(rest), value)}
    others = {key: one for key, one in config.items() if key != first}
    return others if value is MISSING else {**others, first: value}


def damaged(folder: Path, where: Path, part: str, key: str, value: object) -> tuple[Path, Path]:
    """A copy of a base with one key (`outer.inner`) changed, and the file that has it."""
    copy = copied(folder, where)
    path = config_of(copy, part)
    path.write_text(json.dumps(changed(json.loads(path.read_text()), tuple(key.split(".")), value)))
    return copy, path


def load(folder: Path, part: str) -> None:
    """Open a base, which must go well, and load its transformer, its VAE or an encoder."""
    model = opened(folder)
    if part == "transformer":
        model.load_transformer()
        return
    loads = {one.name: one.load for one in model.encoders()} | {"vae": model.vae}
    with loads[part]():
        pass


CASES = [
    (WAN, "transformer", "num_layers", None, "num_layers is null, and it should be a valid int"),
    (WAN, "transformer", "num_layers", "40", 'num_layers is "40", and it should be a valid int'),
    (WAN, "transformer", "num_layers", -1, "num_layers is -1, and it should be greater than or"),
    (WAN, "transformer", "num_layers", True, "num_layers is true, and it should be a valid int"),
    (WAN, "transformer", "num_layers", 10**9, "num_layers is 1000000000, and it should be less"),
    (WAN, "transformer", "num_layers", MISSING, "num_layers is missing"),
    (WAN, "transformer", "out_channels", None, "out_channels is null, and it should be a valid"),
    (WAN, "transformer", "attention_head_dim", 25, "is 25, and it should be a multiple of 2"),
    (WAN, "transformer", "patch_size", [1, 2], r"patch_size is \[1, 2\], and .* at least 3 items"),
    (WAN, "transformer", "patch_size", [2, 2, 2], "should be square, of one frame"),
    (WAN, "transformer", "patch_size", [1, 0, 0], "patch_size.1 is 0, and it should be greater"),
    (WAN, "transformer", "eps", "tiny", 'eps is "tiny", and it should be a valid number'),
    (WAN, "vae", "latents_std", None, "latents_std is null, and it should be a valid list"),
    (WAN, "vae", "latents_std", 15 * [1.0], r"latents_std has 15 values, and should have 16"),
    (WAN, "vae", "latents_std", 15 * [1.0] + [0.0], "latents_std.15 is 0.0, and it should be grea"),
    (WAN, "vae", "latents_mean", 17 * [0.0], r"latents_mean has 17 values, and should have 16"),
    (WAN, "vae", "latents_mean", [], r"latents_mean has 0 values, and should have 16"),
    (WAN, "vae", "latents_mean", 16 * [float("nan")], "latents_mean.0 is NaN, and .* finite"),
    (WAN, "vae", "z_dim", 0, "z_dim is 0, and it should be greater"),
    (WAN, "vae", "scale_factor_spatial", 16, "is 16, and should be 8 for this temperal_downsample"),
    (WAN, "vae", "temperal_downsample", [True], "is 8, and should be 2 for this temperal_downsam"),
    (WAN, "vae", "_class_name", "AutoencoderKL", '_class_name is "AutoencoderKL", and it should'),
    (WAN, "text_encoder", "return_dict", False, "return_dict is false, and it should be True"),
    (WAN, "text_encoder", "d_model", -32, "d_model is -32, and it should be greater than"),
    (WAN, "text_encoder", "vocab_size", "192", 'vocab_size is "192", and it should be a valid'),
    (WAN, "image_encoder", "image_size", [224], "image_size is .224., and it should be a valid"),
    (WAN22, "transformer_2", "num_layers", None, "num_layers is null, and it should be a valid"),
    (MINIATURE, "transformer", "text_dim", None, "text_dim is null, and it should be a valid"),
    (FULL, "transformer", "num_single_layers", None, "num_single_layers is null, and it should"),
    (FULL, "vae", "scaling_factor", None, "scaling_factor is null, and it should be a valid num"),
    (FULL, "vae", "scaling_factor", 0.0, "scaling_factor is 0.0, and it should be greater than 0"),
    (FULL, "text_encoder", "text_config.num_hidden_layers", 2, "is 2, and it should be greater"),
    (FULL, "text_encoder", "vision_config.patch_size", "14", 'patch_size is "14", and it'),
    (FULL, "text_encoder", "text_config", None, "text_config is null, and it should be a valid"),
    (FULL, "text_encoder", "text_config.model_type", "mistral", 'is "mistral", and it should'),
    (FULL, "text_encoder", "pad_token_id", None, "pad_token_id is null, and it should be a valid"),
    (FULL, "text_encoder_2", "max_position_embeddings", 64, "is 64, and it should be greater"),
    (NEWER, "transformer", "mlp_ratio", "4", 'mlp_ratio is "4", and it should be a valid number'),
    (NEWER, "vae", "block_out_channels", [8, 16], "should have at least 5 items"),
    (NEWER, "text_encoder", "rope_parameters.rope_type", "odd", 'rope_type is "odd", and it'),
    (NEWER, "text_encoder_2", "d_kv", None, "d_kv is null, and it should be a valid integer"),
    (NEWER, "image_encoder", "patch_size", 0, "patch_size is 0, and it should be greater"),
    (NEWER, "vae", "scaling_factor", MISSING, "scaling_factor is missing"),
    (NEWER, "vae", "spatial_compression_ratio", 8, "is 8, and it should be 16"),
    (WAN, "scheduler", "flow_shift", None, "flow_shift is null, and it should be a valid number"),
    (WAN, "scheduler", "num_train_timesteps", "1000", 'is "1000", and it should be'),
    (WAN, "scheduler", "prediction_type", "epsilon", "it should be .flow_prediction."),
    (WAN, "scheduler", "prediction_type", MISSING, "prediction_type missing"),
    (WAN, "scheduler", "use_flow_sigmas", False, "use_flow_sigmas is false, and it should be True"),
    (WAN, "scheduler", "use_flow_sigmas", MISSING, "use_flow_sigmas missing"),
    (WAN, "scheduler", "solver_order", 0, "solver_order is 0, and it should be greater than or"),
    (WAN, "scheduler", "stochastic_sampling", True, "stochastic_sampling is true"),
    (WAN, "scheduler", "algorithm_type", "sde-dpmsolver++", 'algorithm_type is "sde-dpmsolver'),
    (MINIATURE, "scheduler", "shift", 0, "shift is 0, and it should be greater than 0"),
    (FULL, "scheduler", "use_dynamic_shifting", True, "use_dynamic_shifting is true, and it shou"),
    (NEWER, "scheduler", "use_karras_sigmas", None, "use_karras_sigmas is null, and it should be"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_configuration_is_refused_when_a_base_is_opened(
    tiny: Tiny, tmp_path: Path, case: tuple[str, str, str, object, str]
) -> None:
    family, part, key, value, message = case
    copy, path = damaged(tiny(family), tmp_path, part, key, value)
    with pytest.raises(UserError, match=f"^{path}: .*{message}.*{PUBLISHED}$"):
        opened(copy)


def test_all_that_is_wrong_is_told_at_once(tiny: Tiny, tmp_path: Path) -> None:
    copy, path = damaged(tiny(WAN), tmp_path, "scheduler", "flow_shift", -3)
    path = config_of(copy, "vae")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"z_dim": None, "patch_size": 0}))
    with pytest.raises(UserError) as caught:
        opened(copy)
    vae, scheduler = str(caught.value).split("\n")
    assert "patch_size is 0" in vae
    assert "z_dim is null" in vae
    assert "scheduler_config.json: flow_shift is -3, and it should be greater than 0" in scheduler


def keys_of(kind: type[Settings]) -> Iterator[tuple[str, ...]]:
    """The keys that are checked, those of inner configurations too."""
    for name, field in kind.model_fields.items():
        yield (field.alias or name,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            yield from ((name, *rest) for rest in keys_of(field.annotation))


@pytest.mark.parametrize("family", SETTINGS)
def test_no_change_of_a_key_that_is_read_is_more_than_refused(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    """Opened, or refused with a sentence; anything else fails this test."""
    copy, refused = copied(tiny(family), tmp_path), []
    for part, kind in SETTINGS[family].items():
        path = config_of(copy, part)
        text = path.read_text()
        for keys in keys_of(kind):
            for value in (MISSING, None, "odd", [], -1, 0, 0.5, True):
                config = json.loads(text)
                if len(keys) == 2 and keys[0] not in config:
                    continue
                path.write_text(json.dumps(changed(config, keys, value)))
                try:
                    opened(copy)
                except UserError as error:
                    refused.append(str(error))
        path.write_text(text)
    assert len(refused) > 100
    assert all(str(copy) in one for one in refused)


# Keys that no class has as such, or whose default depends on others.
DERIVED = {
    "return_dict", "dtype", "torch_dtype", "is_decoder", "model_type", "_class_name", "head_dim",
    "latents_mean", "latents_std", "rope_parameters", "rope_scaling", "rope_theta",
}  # fmt: skip


def class_defaults(kind: Any) -> dict[str, Any]:
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
    theirs = class_defaults(kind)
    derived = DERIVED | ({"num_key_value_heads"} if settings is hunyuan.Llama else set())
    for key, field in ((one.alias or key, one) for key, one in settings.model_fields.items()):
        if key not in derived:
            assert key in theirs, f"{kind.__name__} has no {key}"
            assert field.is_required() or as_tuple(field.default) == as_tuple(theirs[key]), key


# Of what only a part's class or its tensors know.
LOADED = [
    (WAN, "image", "image_encoder", "num_attention_heads", 3, "ValueError: The hidden size"),
    (NEWER, "image", "image_encoder", "num_attention_heads", 3, "ValueError: .* divisible by"),
    (FULL, "vae", "vae", "norm_num_groups", 3, "ValueError: num_channels .* divisible by num"),
    (NEWER, "text", "text_encoder", "num_key_value_heads", 3, r"self_attn.k_proj.weight is \("),
    (WAN, "transformer", "transformer", "ffn_dim", 7, r"ffn.net.0.proj.weight is \("),
    (WAN, "text", "text_encoder", "use_cache", None, "'use_cache' expected bool, got NoneType"),
    (WAN, "image", "image_encoder", "initializer_range", "x", "'initializer_range' expected f"),
    (FULL, "pooled", "text_encoder_2", "projection_dim", "x", "'projection_dim' expected int"),
    (FULL, "text", "text_encoder", "image_seq_length", "x", "'image_seq_length' expected int"),
    (NEWER, "text", "text_encoder", "max_window_layers", "x", "'max_window_layers' expected"),
    (NEWER, "glyphs", "text_encoder_2", "use_cache", 3, "'use_cache' expected bool, got int"),
    (NEWER, "image", "image_encoder", "attention_dropout", "x", "Field 'attention_dropout'"),
    (WAN, "text", "text_encoder", "vocab_size", 99, r"shared.weight is \(192, 32\) instead of"),
    (FULL, "text", "text_encoder", "text_config.vocab_size", 99, r"tokens.weight is \(489, 32"),
    (FULL, "pooled", "text_encoder_2", "eos_token_id", 7, "eos_token_id is 7, and the token"),
    (NEWER, "text", "text_encoder", "vocab_size", 99, r"embed_tokens.weight is \(259, 32\)"),
    (NEWER, "glyphs", "text_encoder_2", "vocab_size", 99, r"shared.weight is \(384, 24\) inst"),
]  # fmt: skip


@pytest.mark.parametrize("case", LOADED)
def test_what_only_a_part_itself_knows_is_told_when_it_is_loaded(
    tiny: Tiny, tmp_path: Path, case: tuple[str, str, str, str, object, str]
) -> None:
    family, encoder, part, key, value, message = case
    copy, path = damaged(tiny(family), tmp_path, part, key, value)
    with pytest.raises(UserError, match=f"{path.parent}.*{message}") as caught:
        load(copy, encoder)
    if " is " not in message:  # it is about the configuration
        assert re.fullmatch(f"{path}: .*{PUBLISHED}", str(caught.value))


@pytest.mark.parametrize(
    ("family", "part", "key", "value"),
    [
        (WAN, "vae", "z_dim", 12),
        (WAN, "text_encoder", "d_model", 64),
        (WAN, "image_encoder", "hidden_size", 64),
        (FULL, "vae", "latent_channels", 8),
        (FULL, "text_encoder", "text_config.hidden_size", 64),
        (FULL, "text_encoder_2", "hidden_size", 64),
        (NEWER, "vae", "latent_channels", 16),
        (NEWER, "text_encoder", "hidden_size", 64),
        (NEWER, "text_encoder_2", "d_model", 64),
        (NEWER, "image_encoder", "hidden_size", 64),
    ],
)
def test_parts_that_do_not_fit_the_transformer_are_told(
    tiny: Tiny, tmp_path: Path, family: str, part: str, key: str, value: int
) -> None:
    copy, path = damaged(tiny(family), tmp_path, part, key, value)
    if (family, part) == (WAN, "vae"):
        more = {"latents_mean": value * [0.0], "latents_std": value * [1.0]}
        path.write_text(json.dumps(json.loads(path.read_text()) | more))
    with pytest.raises(UserError, match=f"{copy}: what its {part} gives is {value} wide"):
        opened(copy)


@pytest.mark.parametrize(
    ("family", "part", "changes", "message"),
    [
        (FULL, "transformer", {"image_condition_type": "token_replace", "in_channels": 16},
         r"of 16 channels.*HunyuanVideo-I2V-33ch \(latent-concat\)"),
        (FULL, "transformer", {"image_condition_type": None, "in_channels": 16},
         r"is a text-to-video.*HunyuanVideo-I2V-33ch \(latent-concat\)"),
        (FULL, "transformer", {"in_channels": 32},
         r"takes 32 input channels, hunyuan-video-i2v takes 33.*-I2V-33ch \(latent-concat\)"),
        (NEWER, "transformer", {"task_type": "t2v"},
         r"text-to-video.*use HunyuanVideo-1\.5-Diffusers-480p_i2v"),
        (NEWER, "transformer", {"use_meanflow": True},
         r"use_meanflow is set.*use HunyuanVideo-1\.5-Diffusers-480p_i2v"),
        (NEWER, "transformer", {"in_channels": 32},
         r"takes 32 input channels, .* takes 65.*use HunyuanVideo-1\.5-Diffusers-480p_i2v"),
        (WAN22, "transformer_2", {"in_channels": 16}, "takes 16 input channels"),
    ],
)  # fmt: skip
def test_a_checkpoint_of_another_kind_is_refused_with_what_to_use(
    tiny: Tiny, tmp_path: Path, family: str, part: str, changes: dict[str, object], message: str
) -> None:
    copy = copied(tiny(family), tmp_path)
    update(config_of(copy, part), **changes)
    if family == FULL:
        shutil.rmtree(copy / "image_processor")  # text-to-video checkpoints have none
    with pytest.raises(UserError, match=message):
        opened(copy)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (WAN, "image_processor/preprocessor_config.json"),
        (WAN, "tokenizer/tokenizer.json"),
        (FULL, "tokenizer_2/tokenizer_config.json"),
        (NEWER, "feature_extractor/preprocessor_config.json"),
        (NEWER, "tokenizer/tokenizer_config.json"),
    ],
)
def test_a_cut_file_of_a_tokenizer_or_a_processor_is_told(
    tiny: Tiny, tmp_path: Path, family: str, name: str
) -> None:
    copy = copied(tiny(family), tmp_path)
    (copy / name).unlink()
    for content in ('{"a": ', "", "[]"):
        (copy / name).write_text(content)
        with pytest.raises(UserError, match=f"^{copy / name} is damaged: "):
            opened(copy)


OTHER_KINDS = [
    (WAN, "text", "tokenizer/tokenizer.json", {}),
    (WAN, "text", "tokenizer/tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}),
    (WAN, "image", "image_processor/preprocessor_config.json", {"size": "x"}),
    (FULL, "text", "tokenizer/tokenizer.json", {}),
    (FULL, "pooled", "tokenizer_2/tokenizer.json", {}),
    (NEWER, "text", "tokenizer/tokenizer.json", {}),
]


@pytest.mark.parametrize("case", OTHER_KINDS)
def test_files_of_another_kind_are_told(
    tiny: Tiny, tmp_path: Path, case: tuple[str, str, str, dict[str, object]]
) -> None:
    family, encoder, name, content = case
    copy = copied(tiny(family), tmp_path)
    (copy / name).unlink(missing_ok=True)
    (copy / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{(copy / name).parent} cannot be read as a .*published"):
        load(copy, encoder)


SOLVERS = [
    name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")
]


@pytest.mark.parametrize("family", [WAN, FULL, NEWER])
def test_a_scheduler_that_a_base_opens_with_makes_steps_by_the_seed_alone(
    tiny: Tiny, tmp_path: Path, family: str
) -> None:
    copy = copied(tiny(family), tmp_path)
    path = config_of(copy, "scheduler")
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    usable = []
    for name in SOLVERS:
        path.write_text(json.dumps({"_class_name": name, **flow}))
        try:
            model = opened(copy)
        except UserError:
            continue
        usable.append(name)
        results = []
        for _ in range(2):
            scheduler, sample = model.scheduler(3, 5.0), torch.ones(1, 2, 3)
            for timestep in scheduler.timesteps:
                sample = scheduler.step(sample / 2, timestep, sample).prev_sample
            results.append(sample)
        assert torch.equal(*results), name
        assert results[0].isfinite().all(), name
    assert {"FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"} <= set(usable)
    assert len(usable) == (6 if family == WAN else 2)
