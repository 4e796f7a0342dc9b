"""The resident step where the whole model does not fit: one resident block does all visits.

The computation is that of the whole model (every block has the same shapes), and nothing moves; the
weights are random.
"""

import json
import os
import shutil
from pathlib import Path

from torch import nn

from benchmarks.random_weights import WeightFile, stored_entries, write_weights
from maskora.files import write_text
from maskora.models.files.folder import read_json
from maskora.models.registry import Transformer


def one_block_folder(folder: Path, target: Path, dtype: str) -> Path:
    """A model folder like another, whose transformer has one block, with random weights.

    Args:
        folder: the model.
        target: the folder to make; its other parts are links, or copies where links are refused.
        dtype: of the transformer's weights.

    Returns:
        `target`.
    """
    part = target / "transformer"
    part.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name != part.name:
            _share(path.resolve(), target / path.name)
    config = read_json(folder / "transformer" / "config.json") | {"num_layers": 1}
    write_text(part / "config.json", json.dumps(config, indent=2) + "\n")
    shards = WeightFile.of(stored_entries(part, dtype), "diffusion_pytorch_model")
    write_weights(part, shards, seed=0)
    return target


def _share(path: Path, name: Path) -> None:
    """Let a file or folder be found under another name too."""
    try:
        name.symlink_to(path)
    except OSError:  # Windows lets few people make them
        if path.is_dir():
            shutil.copytree(path, name, copy_function=_link_or_copy)
        else:
            _link_or_copy(path, name)


def _link_or_copy(path: str | Path, name: str | Path) -> None:
    try:
        os.link(path, name)
    except OSError:  # another disk, or one that has no links
        shutil.copy2(path, name)


def repeat_block(transformer: Transformer, count: int) -> None:
    """Let the only block of a transformer stand for `count` of them."""
    (block,) = transformer.blocks
    transformer.blocks = nn.ModuleList([block] * count)
