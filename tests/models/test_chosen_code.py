"""Whoever made a base's folder does not choose what code reads it: every part of every family."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.models.registry import Cue, VideoModel, open_model
from maskora.models.tiny import write_tiny_model
from tests.models import tiny_hunyuan, tiny_hunyuan15

FOLDERS: dict[str, Callable[[Path], object]] = {
    "wan2.1-i2v": write_tiny_model,
    "hunyuan-video-i2v": tiny_hunyuan.write,
    "hunyuan-video-1.5-i2v": tiny_hunyuan15.write,
}
CODE = "from pathlib import Path\n\nPath({trace!r}).write_text('run')\n\nclass Own:\n    pass\n"


@pytest.fixture(scope="module", params=FOLDERS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny base; the folder is called as its family."""
    path = tmp_path_factory.mktemp("bases") / request.param
    FOLDERS[request.param](path)
    return path


def opened(folder: Path) -> VideoModel:
    return open_model(folder.name, folder, "float32", "cpu")


def encoded(model: VideoModel) -> dict[str, Tensor]:
    """What the encoders and the VAE give."""
    picture = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    found: dict[str, Tensor] = {}
    for encoder in model.encoders():
        with encoder.load() as encode:
            (context,) = encode([Cue('a "word" on a wall', picture)])
            found |= context
    with model.vae() as vae:
        found["latents"] = vae.encode(picture[:, None])
    found["timesteps"] = torch.as_tensor(model.scheduler(3, None).timesteps)
    model.load_transformer().streamed.close()
    return found


def change(value: Any, more: dict[str, Any]) -> Any:
    """Settings, and those of the models in them, with more."""
    if not isinstance(value, dict):
        return value
    return {key: change(inner, more) for key, inner in value.items()} | more


def test_settings_that_name_code_are_without_effect(folder: Path, tmp_path: Path) -> None:
    copy, trace = shutil.copytree(folder, tmp_path / folder.name), tmp_path / "trace"
    chosen = {
        "attn_implementation": "owner/repo", "_attn_implementation": "owner/repo",
        "experts_implementation": "owner/repo", "trust_remote_code": True,
        "auto_map": dict.fromkeys(("AutoTokenizer", "AutoModel", "AutoImageProcessor"), "own.Own"),
    }  # fmt: skip
    for path in copy.glob("*/*.json"):
        told = json.loads(path.read_text())
        inside = change(told, chosen) if path.name == "config.json" else {**told, **chosen}
        if path.name != "tokenizer.json" and "index" not in path.name and "vocab" not in path.name:
            path.write_text(json.dumps(inside))
    for part in copy.glob("*/"):
        (part / "own.py").write_text(CODE.format(trace=str(trace)))
    expected = encoded(opened(folder))
    ours = encoded(opened(copy))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not trace.exists()


def test_a_tokenizer_of_another_class_is_read_as_the_family_has_it(
    folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    for path in copy.glob("tokenizer*/tokenizer_config.json"):
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, "tokenizer_class": "BertTokenizer"}))
    expected, ours = encoded(opened(folder)), encoded(opened(copy))
    assert all(torch.equal(ours[name], expected[name]) for name in expected)


@pytest.mark.parametrize("inner", [False, True])
def test_foreign_quantisation_is_refused_in_every_part(
    folder: Path, tmp_path: Path, inner: bool
) -> None:
    foreign = {"quantization_config": {"quant_method": "bitsandbytes"}}
    for place in folder.glob("*/config.json"):
        copy = shutil.copytree(folder, tmp_path / place.parent.name / folder.name)
        path = copy / place.parent.name / "config.json"
        told = json.loads(path.read_text())
        path.write_text(json.dumps({**told, **({"text_config": foreign} if inner else foreign)}))
        with pytest.raises(UserError, match="quantised by other software"):
            encoded(opened(copy))


@pytest.mark.parametrize("name", ["DiffusionPipeline", "os", None])
def test_a_scheduler_that_is_none_is_refused(
    folder: Path, tmp_path: Path, name: str | None
) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    path = copy / "scheduler" / "scheduler_config.json"
    told = json.loads(path.read_text()) | {"_class_name": name}
    path.write_text(json.dumps({key: value for key, value in told.items() if value is not None}))
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: _class_name .*{name or ''}"):
        opened(copy)
