"""Damaged configurations of parts: told by file and key before anything is loaded."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from maskora.errors import UserError
from maskora.models.checks import Settings
from maskora.models.hunyuan import checks as hunyuan
from maskora.models.hunyuan15 import checks as hunyuan15
from maskora.models.registry import open_model, read_settings
from maskora.models.wan import checks as wan
from tests.models.damaging import (
    FULL,
    MISSING,
    NEWER,
    PUBLISHED,
    WAN,
    WAN22,
    changed,
    config_of,
    copied,
    damaged,
    write_all,
)

SETTINGS: dict[str, Mapping[str, type[Settings]]] = {
    WAN: wan.WAN21,
    "miniature": wan.MINIATURE,
    FULL: hunyuan.HUNYUAN,
    NEWER: hunyuan15.HUNYUAN15,
}
ODD = (MISSING, None, "odd", [], -1, 0, 0.5, True)
CASES = [
    (WAN, "transformer", "num_layers", None, "num_layers is null, and it should be a valid int"),
    (WAN, "transformer", "num_layers", "40", 'num_layers is "40", and it should be a valid int'),
    (WAN, "transformer", "num_layers", -1, "num_layers is -1, and it should be greater than or"),
    (WAN, "transformer", "num_layers", 0, "num_layers is 0, and it should be greater than or"),
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
    (WAN, "vae", "scale_factor_temporal", 0, "scale_factor_temporal is 0, and it should be great"),
    (WAN, "vae", "temperal_downsample", [True], "has 1 values, and should have 3"),
    (WAN, "vae", "_class_name", "AutoencoderKL", '_class_name is "AutoencoderKL", and it should'),
    (WAN, "text_encoder", "return_dict", False, "return_dict is false, and it should be True"),
    (WAN, "text_encoder", "d_model", -32, "d_model is -32, and it should be greater than"),
    (WAN, "text_encoder", "vocab_size", "192", 'vocab_size is "192", and it should be a valid'),
    (WAN, "text_encoder", "relative_attention_max_distance", 8, "is 8, and should be above 8"),
    (WAN, "image_encoder", "num_attention_heads", 3, "is 3, and should divide hidden_size, 32"),
    (WAN, "image_encoder", "image_size", [224], "image_size is .224., and it should be a valid"),
    (WAN22, "transformer_2", "num_layers", None, "num_layers is null, and it should be a valid"),
    ("miniature", "transformer", "text_dim", None, "text_dim is null, and it should be a valid"),
    (FULL, "transformer", "rope_axes_dim", [4, 4, 4], "should add up to attention_head_dim, 16"),
    (FULL, "transformer", "num_single_layers", None, "num_single_layers is null, and it should"),
    (FULL, "vae", "scaling_factor", None, "scaling_factor is null, and it should be a valid num"),
    (FULL, "vae", "scaling_factor", 0.0, "scaling_factor is 0.0, and it should be greater than 0"),
    (FULL, "vae", "norm_num_groups", 3, "should have multiples of norm_num_groups, 3"),
    (FULL, "text_encoder", "text_config.num_hidden_layers", 2, "is 2, and it should be greater"),
    (FULL, "text_encoder", "vision_config.patch_size", "14", 'patch_size is "14", and it'),
    (FULL, "text_encoder", "text_config", None, "text_config is null, and it should be a valid"),
    (FULL, "text_encoder", "pad_token_id", None, "pad_token_id is null, and it should be a valid"),
    (FULL, "text_encoder_2", "max_position_embeddings", 64, "is 64, and it should be greater"),
    (NEWER, "transformer", "mlp_ratio", "4", 'mlp_ratio is "4", and it should be a valid number'),
    (NEWER, "vae", "scaling_factor", MISSING, "scaling_factor is missing"),
    (NEWER, "vae", "block_out_channels", [8, 16], "should have at least 5 items"),
    (NEWER, "vae", "spatial_compression_ratio", 8, "is 8, and it should be 16"),
    (NEWER, "text_encoder", "num_key_value_heads", 3, "is 3, and should divide num_attention_"),
    (NEWER, "text_encoder", "rope_parameters.mrope_section", [2, 2], "should add up to half of a"),
    (NEWER, "text_encoder", "rope_parameters.rope_type", "odd", 'rope_type is "odd", and it'),
    (NEWER, "text_encoder_2", "d_kv", None, "d_kv is null, and it should be a valid integer"),
    (NEWER, "image_encoder", "patch_size", 0, "patch_size is 0, and it should be greater"),
]  # fmt: skip


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("bases"))


@pytest.mark.parametrize(("family", "part", "key", "value", "told"), CASES)
def test_a_damaged_configuration_is_told_when_planned_and_when_opened(
    folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    part: str,
    key: str,
    value: object,
    told: str,
) -> None:
    copy, path = damaged(folders[family], tmp_path, part, key, value)
    for look in (read_settings, lambda *base: open_model(*base, "float32", "cpu")):
        with pytest.raises(UserError, match=f"^{path}: .*{told}.*{PUBLISHED}$"):
            look(family, copy)


@pytest.mark.parametrize(
    ("family", "key", "value", "told"),
    [
        (WAN, "flow_shift", None, "flow_shift is null, and it should be a valid number"),
        (WAN, "num_train_timesteps", "1000", 'num_train_timesteps is "1000", and it should be'),
        (WAN, "prediction_type", "epsilon", 'is "epsilon", and it should be .flow_prediction.'),
        (WAN, "use_flow_sigmas", False, "use_flow_sigmas is false, and it should be True"),
        (WAN, "solver_order", 0, "solver_order is 0, and it should be greater than or equal to 1"),
        ("miniature", "shift", 0, "shift is 0, and it should be greater than 0"),
        (FULL, "use_dynamic_shifting", True, "use_dynamic_shifting is true, and it should be Fal"),
        (NEWER, "use_karras_sigmas", None, "use_karras_sigmas is null, and it should be a valid"),
    ],
)
def test_a_damaged_schedule_is_told_when_the_base_is_opened(
    folders: dict[str, Path], tmp_path: Path, family: str, key: str, value: object, told: str
) -> None:
    copy, path = damaged(folders[family], tmp_path, "scheduler", key, value)
    with pytest.raises(UserError, match=f"^{path}: .*{told}.*{PUBLISHED}$"):
        open_model(family, copy, "float32", "cpu")


def test_all_that_is_wrong_is_told_at_once(folders: dict[str, Path], tmp_path: Path) -> None:
    copy = copied(folders[WAN], tmp_path)
    for part, change in (
        ("vae", {"z_dim": None, "base_dim": 0}),
        ("scheduler", {"flow_shift": -3}),
    ):
        path = config_of(copy, part)
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(UserError) as told:
        open_model(WAN, copy, "float32", "cpu")
    vae, scheduler = str(told.value).split("\n")
    assert "base_dim is 0" in vae
    assert "z_dim is null" in vae
    assert "scheduler_config.json: flow_shift is -3, and it should be greater than 0" in scheduler


def keys_of(config: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for key, value in config.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in keys_of(value))


@pytest.mark.parametrize("family", SETTINGS)
def test_no_change_of_any_key_is_more_than_told(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """Planned or opened, or refused with a sentence; anything else fails this test."""
    copy, told = copied(folders[family], tmp_path), []
    for part in SETTINGS[family]:
        path = config_of(copy, part)
        text = path.read_text()
        for keys in keys_of(json.loads(text)):
            for value in ODD:
                path.write_text(json.dumps(changed(json.loads(text), keys, value)))
                try:
                    read_settings(family, copy)
                    open_model(family, copy, "float32", "cpu")
                except UserError as error:
                    told.append(str(error))
        path.write_text(text)
    assert len(told) > 100
    assert all(str(copy) in one for one in told)
