"""A rendered scene as a workspace with a finished result, and its truth as a folder."""

import json
from fractions import Fraction
from pathlib import Path

import numpy as np

from maskora.app.workspace import Source, Workspace
from maskora.files import digest, sha256_file
from maskora.masks.files import write_labels
from maskora.video.images import write_png
from maskora.video.write import write_lossless, write_mp4
from tests.evaluation.scenes import FRAMES, HEIGHT, WIDTH, Scene


def write_workspace(
    root: Path,
    scene: Scene,
    result: np.ndarray,
    *,
    lossless: bool = True,
    seed: int = 0,
    edits: dict[int, np.ndarray] | None = None,
) -> Workspace:
    """What prepare, a person and infer would have left.

    Args:
        edits: edited frames; by default the true first frame.
    """
    workspace = Workspace(root)
    source = Source(
        origin="rendered", start=0, every=1, frames=FRAMES, fps="16",
        original_size=(WIDTH, HEIGHT), size=(WIDTH, HEIGHT), cell=16, fit="crop",
        region=(0, 0, WIDTH, HEIGHT),
    )  # fmt: skip
    workspace.write_source(source)
    labels = scene.box.astype(np.uint8)
    for number in range(FRAMES):
        write_png(workspace.source_frame(number), scene.source[number])
        write_labels(workspace.mask(number), labels[number])
    edited: dict[str, dict[str, str]] = {}
    edits = edits or {0: scene.truth[0]}
    for number, picture in edits.items():
        path = workspace.edited_frame(None, number, ".png")
        write_png(path, picture)
        edited[str(number)] = {"path": str(path), "sha256": sha256_file(path)}
    output = workspace.output_dir(None, None)
    if lossless:
        write_lossless(output / "edited.mkv", iter(result), Fraction(16))
    write_mp4(output / "edited.mp4", iter(result), Fraction(16))
    record = {
        "seed": seed,
        "config": {"appearance": {"spill": "source"}, "inference": {"lock": "pixel"}},
        "inputs": {
            "source": source.model_dump(mode="json"),
            "frames": digest(scene.source.tobytes()),
            "masks": digest(labels.tobytes()),
            "edited": edited,
        },
    }
    (output / "run.json").write_text(json.dumps(record))
    return workspace


def write_truth(folder: Path, scene: Scene) -> Path:
    """The truth as maskora evaluate reads it."""
    for number in range(FRAMES):
        name = f"{number:05d}.png"
        write_png(folder / name, scene.truth[number])
        write_png(folder / "background" / name, scene.background[number])
        write_labels(folder / "masks" / name, scene.object[number].astype(np.uint8))
    return folder
