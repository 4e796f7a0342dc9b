"""A part's content name: of what is read, and of nothing else."""

import json
import shutil
from pathlib import Path

from safetensors.torch import load_file, save_file

from maskora.models.registry import open_model, open_source


def named(base: Path) -> str:
    return open_model("wan2.1-i2v", open_source(base), "float32", "cpu").identity("transformer")


def test_weights_left_over_from_another_cutting_are_no_part_of_the_identity(
    tiny_model: Path, tmp_path: Path
) -> None:
    base = shutil.copytree(tiny_model, tmp_path / "base")
    part, stem = base / "transformer", "diffusion_pytorch_model"
    whole = part / f"{stem}.safetensors"
    tensors = load_file(whole)
    names = sorted(tensors)
    halves = names[::2], names[1::2]
    weight_map = {}
    for number, half in enumerate(halves, start=1):
        file = f"{stem}-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in half}, part / file)
        weight_map |= dict.fromkeys(half, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (part / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    with_leftover = named(base)
    whole.unlink()
    assert named(base) == with_leftover
    (part / file).write_bytes((part / file).read_bytes() + b" ")
    assert named(base) != with_leftover
