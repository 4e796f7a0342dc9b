"""Whoever made a model's folder does not choose what code reads it."""

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from maskora.caption import open_captioner
from maskora.config.tables import Tracker
from maskora.errors import UserError
from maskora.masks.prompts import Click
from maskora.masks.trackers import open_tracker
from tests.conftest import REPOSITORY
from tests.masks.trackers.tiny_sam2 import write_tiny_sam2
from tests.tiny_florence import write_tiny_florence

FRAMES = np.zeros((2, 48, 64, 3), np.uint8)


def caption(folder: Path) -> None:
    with open_captioner(str(folder), folder.parent) as captioner:
        captioner(FRAMES[0])


def track(folder: Path) -> None:
    tracker = open_tracker(Tracker(type="sam2", checkpoint=str(folder)), FRAMES, folder.parent)
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


def calls() -> Iterator[tuple[str, str, dict[str, ast.expr]]]:
    """Every call in what is installed: where, the function as written, its named arguments."""
    for room in ("maskora", "gui_mask"):
        for path in sorted((REPOSITORY / room).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    where = f"{path.relative_to(REPOSITORY)}:{node.lineno}"
                    named = {one.arg: one.value for one in node.keywords if one.arg}
                    yield where, ast.unparse(node.func), named


def test_nothing_that_runs_what_a_file_says_is_called() -> None:
    """Pickles are read as plain tensors alone; no text is run, no model's own code, no shell."""
    runs = {
        "eval",
        "exec",
        "pickle.load",
        "pickle.loads",
        "pickle.Unpickler",
        "os.system",
        "np.load",
    }
    runs |= {"shutil.unpack_archive", "yaml.load", "joblib.load", "marshal.loads"}
    found, loads = [], 0
    for where, function, named in calls():
        is_true = {name for name, value in named.items() if ast.unparse(value) == "True"}
        if function == "torch.load":
            loads += 1
            found += [] if "weights_only" in is_true else [where]
        elif function in runs or function.endswith((".extractall", "import_module")):
            found.append(where)
        found += [where for name in ("trust_remote_code", "shell", "allow_pickle") if name in named]
    assert found == []
    assert loads >= 3


def test_models_are_read_as_safetensors_alone() -> None:
    found = [
        where
        for where, function, named in calls()
        if function.endswith(".from_pretrained")
        and "Tokenizer" not in function
        and "Processor" not in function
        and not ("use_safetensors" in named and ast.unparse(named["use_safetensors"]) == "True")
    ]
    # A tokenizer or a processor, whose class is an argument there.
    assert [where.partition(":")[0] for where in found] == ["maskora/models/building.py"]
