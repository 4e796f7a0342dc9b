"""Whoever made a base's folder does not choose what code reads it: every part of every family."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.models.registry import PromptInput, VideoModel
from tests.models.bases import HUNYUAN, HUNYUAN15, WAN, copied, opened, update
from tests.models.conftest import Tiny

CODE = "from pathlib import Path\n\nPath({trace!r}).write_text('run')\n\nclass Own:\n    pass\n"


@pytest.fixture(scope="module", params=[WAN, HUNYUAN, HUNYUAN15])
def folder(request: pytest.FixtureRequest, tiny: Tiny) -> Path:
    """A tiny base; the folder is called as its family."""
    return tiny(request.param)


def encoded(model: VideoModel) -> dict[str, Tensor]:
    """What the encoders and the VAE give."""
    picture = torch.linspace(-1, 1, 3 * 64 * 64).view(3, 64, 64)
    found: dict[str, Tensor] = {}
    for encoder in model.encoders():
        with encoder.load() as encode:
            (context,) = encode([PromptInput('a "word" on a wall', picture)])
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


def test_settings_that_name_code_or_another_tokenizer_are_without_effect(
    folder: Path, tmp_path: Path
) -> None:
    copy, trace = shutil.copytree(folder, tmp_path / folder.name), tmp_path / "trace"
    chosen = {
        "attn_implementation": "owner/repo", "_attn_implementation": "owner/repo",
        "experts_implementation": "owner/repo", "trust_remote_code": True,
        "auto_map": dict.fromkeys(("AutoTokenizer", "AutoModel", "AutoImageProcessor"), "own.Own"),
    }  # fmt: skip
    for path in copy.glob("*/*.json"):
        settings = json.loads(path.read_text())
        inside = change(settings, chosen) if path.name == "config.json" else {**settings, **chosen}
        if path.name == "tokenizer_config.json":
            inside["tokenizer_class"] = "BertTokenizer"
        if path.name != "tokenizer.json" and "index" not in path.name and "vocab" not in path.name:
            path.write_text(json.dumps(inside))
    for part in copy.glob("*/"):
        (part / "own.py").write_text(CODE.format(trace=str(trace)))
    expected, ours = encoded(opened(folder)), encoded(opened(copy))
    assert ours.keys() == expected.keys()
    assert all(torch.equal(ours[name], expected[name]) for name in expected)
    assert not trace.exists()


@pytest.mark.parametrize("inner", [False, True])
def test_foreign_quantisation_is_refused_in_every_part(
    folder: Path, tmp_path: Path, inner: bool
) -> None:
    foreign = {"quantization_config": {"quant_method": "bitsandbytes"}}
    for place in folder.glob("*/config.json"):
        copy = copied(folder, tmp_path / place.parent.name)
        update(
            copy / place.parent.name / "config.json",
            **{"text_config": foreign} if inner else foreign,
        )
        with pytest.raises(UserError, match="quantised by other software"):
            encoded(opened(copy))


@pytest.mark.parametrize("name", ["DiffusionPipeline", "os", None])
def test_a_scheduler_that_is_none_is_refused(
    folder: Path, tmp_path: Path, name: str | None
) -> None:
    copy = copied(folder, tmp_path)
    path = copy / "scheduler" / "scheduler_config.json"
    settings = json.loads(path.read_text()) | {"_class_name": name}
    path.write_text(
        json.dumps({key: value for key, value in settings.items() if value is not None})
    )
    with pytest.raises(UserError, match=f"^{re.escape(str(path))}: _class_name .*{name or ''}"):
        opened(copy)
