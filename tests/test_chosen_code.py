"""Whoever made a model's folder does not choose what code reads it."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from maskora.caption import open_captioner
from maskora.errors import UserError
from maskora.masks.prompts import Click
from maskora.masks.trackers import open_tracker
from tests.masks.trackers.tiny_sam2 import write_tiny_sam2
from tests.tiny_florence import write_tiny_florence

FRAMES = np.zeros((2, 48, 64, 3), np.uint8)


def caption(folder: Path) -> None:
    with open_captioner(str(folder), folder.parent) as captioner:
        captioner(FRAMES[0])


def track(folder: Path) -> None:
    tracker = open_tracker("sam2", str(folder), FRAMES, folder.parent)
    tracker.segment(0, [Click(0, 20, 20)], np.zeros((48, 64), np.uint8))
    tracker.close()


Use = Callable[[Path], None]
MODELS = [(write_tiny_florence, caption), (write_tiny_sam2, track)]


def change(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


@pytest.mark.parametrize(("write", "use"), MODELS)
def test_foreign_attention_is_not_fetched(write: Use, use: Use, tmp_path: Path) -> None:
    write(tmp_path / "model")
    change(tmp_path / "model", attn_implementation="owner/repo", _attn_implementation="owner/repo")
    use(tmp_path / "model")


@pytest.mark.parametrize(("write", "use"), MODELS)
def test_foreign_quantisation_is_refused(write: Use, use: Use, tmp_path: Path) -> None:
    write(tmp_path / "model")
    change(tmp_path / "model", quantization_config={"quant_method": "bitsandbytes"})
    with pytest.raises(UserError, match="quantised by other software"):
        use(tmp_path / "model")
