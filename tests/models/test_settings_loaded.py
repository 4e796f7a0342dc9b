"""Parts that do not fit one another, and what is known only when a part is loaded."""

import json
import shutil
from pathlib import Path

import diffusers
import pytest
import torch

from maskora.errors import UserError
from maskora.models.registry import open_model
from tests.models.damaging import (
    FULL,
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_all(tmp_path_factory.mktemp("bases"))


def load(folder: Path, family: str, encoder: str) -> None:
    """Open a base, which must go well, and load one of its encoders."""
    model = open_model(family, folder, "float32", "cpu")
    (found,) = [one for one in model.encoders() if one.name == encoder]
    with found.load():
        pass


@pytest.mark.parametrize(
    ("family", "encoder", "part", "key", "value", "told"),
    [
        (WAN, "text", "text_encoder", "use_cache", None, "'use_cache' expected bool, got NoneType"),
        (WAN, "image", "image_encoder", "initializer_range", "x", "'initializer_range' expected f"),
        (FULL, "pooled", "text_encoder_2", "projection_dim", "x", "'projection_dim' expected int"),
        (FULL, "text", "text_encoder", "image_seq_length", "x", "'image_seq_length' expected int"),
        (NEWER, "text", "text_encoder", "max_window_layers", "x", "'max_window_layers' expected"),
        (NEWER, "glyphs", "text_encoder_2", "use_cache", 3, "'use_cache' expected bool, got int"),
        (NEWER, "image", "image_encoder", "attention_dropout", "x", "Field 'attention_dropout'"),
    ],
)
def test_what_only_the_parts_class_knows_is_told_when_it_is_loaded(
    folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    encoder: str,
    part: str,
    key: str,
    value: object,
    told: str,
) -> None:
    copy, path = damaged(folders[family], tmp_path, part, key, value)
    with pytest.raises(UserError, match=f"^{path}: .*{told}.*{PUBLISHED}$"):
        load(copy, family, encoder)


@pytest.mark.parametrize(
    ("family", "encoder", "part", "key", "value", "told"),
    [
        (WAN, "text", "text_encoder", "vocab_size", 99, r"shared.weight is \(192, 32\) instead of"),
        (
            FULL,
            "text",
            "text_encoder",
            "text_config.vocab_size",
            99,
            r"tokens.weight is \(489, 32\)",
        ),
        (FULL, "pooled", "text_encoder_2", "eos_token_id", 7, "eos_token_id is 7, and the token"),
        (NEWER, "text", "text_encoder", "vocab_size", 99, r"embed_tokens.weight is \(259, 32\)"),
        (NEWER, "glyphs", "text_encoder_2", "vocab_size", 99, r"shared.weight is \(384, 24\) inst"),
    ],
)
def test_words_that_do_not_fit_their_encoder_are_told(
    folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    encoder: str,
    part: str,
    key: str,
    value: int,
    told: str,
) -> None:
    copy, path = damaged(folders[family], tmp_path, part, key, value)
    with pytest.raises(UserError, match=f"{path.parent}.*{told}"):
        load(copy, family, encoder)


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
    folders: dict[str, Path], tmp_path: Path, family: str, part: str, key: str, value: int
) -> None:
    copy = copied(folders[family], tmp_path)
    path = config_of(copy, part)
    config = changed(json.loads(path.read_text()), tuple(key.split(".")), value)
    if part == "vae" and family == WAN:
        config |= {"latents_mean": value * [0.0], "latents_std": value * [1.0]}
    if part == "text_encoder" and family == NEWER:
        config |= {"num_attention_heads": 4}
    path.write_text(json.dumps(config))
    with pytest.raises(UserError, match=f"{copy}: what its {part} gives is {value} wide"):
        open_model(family, copy, "float32", "cpu")


def test_the_second_transformer_is_of_the_same_kind(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    copy = copied(folders[WAN22], tmp_path)
    path = config_of(copy, "transformer_2")
    path.write_text(json.dumps(json.loads(path.read_text()) | {"in_channels": 16}))
    with pytest.raises(UserError, match="takes 16 input channels"):
        open_model(WAN22, copy, "float32", "cpu")


@pytest.mark.parametrize("content", ['{"a": ', "", "[]"])
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
    folders: dict[str, Path], tmp_path: Path, family: str, name: str, content: str
) -> None:
    copy = copied(folders[family], tmp_path)
    (copy / name).unlink()
    (copy / name).write_text(content)
    with pytest.raises(UserError, match=f"^{copy / name} is damaged: "):
        open_model(family, copy, "float32", "cpu")


@pytest.mark.parametrize(
    ("family", "encoder", "name", "content"),
    [
        (WAN, "text", "tokenizer/tokenizer.json", {}),
        (WAN, "text", "tokenizer/tokenizer.json", {"model": {"type": "Unigram", "vocab": []}}),
        (WAN, "image", "image_processor/preprocessor_config.json", {"size": "x"}),
        (FULL, "text", "tokenizer/tokenizer.json", {}),
        (FULL, "pooled", "tokenizer_2/tokenizer.json", {}),
        (NEWER, "text", "tokenizer/tokenizer.json", {}),
    ],
)
def test_files_of_another_kind_are_told(
    folders: dict[str, Path],
    tmp_path: Path,
    family: str,
    encoder: str,
    name: str,
    content: dict[str, object],
) -> None:
    copy = copied(folders[family], tmp_path)
    (copy / name).unlink(missing_ok=True)
    (copy / name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"^{(copy / name).parent} cannot be read as a .*published"):
        load(copy, family, encoder)


SOLVERS = [
    name for name in dir(diffusers) if name.endswith("Scheduler") and not name.startswith("Flax")
]


@pytest.mark.parametrize("family", [WAN, FULL, NEWER])
def test_a_scheduler_that_a_base_opens_with_makes_steps_by_the_seed_alone(
    folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    copy = copied(folders[family], tmp_path)
    path = config_of(copy, "scheduler")
    flow = {"use_flow_sigmas": True, "prediction_type": "flow_prediction"}
    opened = []
    for name in SOLVERS:
        path.write_text(json.dumps({"_class_name": name, **flow}))
        try:
            model = open_model(family, copy, "float32", "cpu")
        except UserError:
            continue
        opened.append(name)
        results = []
        for _ in range(2):
            scheduler, sample = model.scheduler(3, 5.0), torch.ones(1, 2, 3)
            for timestep in scheduler.timesteps:
                sample = scheduler.step(sample / 2, timestep, sample).prev_sample
            results.append(sample)
        assert torch.equal(*results), name
        assert results[0].isfinite().all(), name
    assert {"FlowMatchEulerDiscreteScheduler", "UniPCMultistepScheduler"} <= set(opened)
    assert len(opened) == (6 if family == WAN else 2)


@pytest.mark.parametrize(
    ("key", "value"), [("stochastic_sampling", True), ("algorithm_type", "sde-dpmsolver++")]
)
def test_a_scheduler_that_draws_noise_of_its_own_is_refused(
    folders: dict[str, Path], tmp_path: Path, key: str, value: object
) -> None:
    copy, path = damaged(folders[WAN], tmp_path, "scheduler", key, value)
    with pytest.raises(UserError, match=f"{path}: {key} is "):
        open_model(WAN, copy, "float32", "cpu")


@pytest.mark.parametrize("key", ["prediction_type", "use_flow_sigmas"])
def test_a_solver_that_would_not_take_the_answer_as_a_flow_is_refused(
    tiny_model: Path, tmp_path: Path, key: str
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    path = folder / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text())
    del settings[key]
    path.write_text(json.dumps(settings))
    with pytest.raises(UserError, match=f"{path}: {key} missing"):
        open_model("wan2.1-i2v", folder, "float32", "cpu")
