"""The small edit that is tortured, and what its commands have to give."""

import hashlib
import json
import math
import re
import shutil
import subprocess
import wave
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
from safetensors.numpy import load_file

from maskora.models.tiny import write_tiny_model
from maskora.video.images import read_image, write_png
from maskora.video.write import AudioClip, write_mp4
from tests.ball import draw_frame
from tests.torture.commands import Answer, Commands

CONFIG = ("--config", "ws/edit.toml")
TRAIN, RESUME, INFER = ("train", *CONFIG), ("train", *CONFIG, "--resume"), ("infer", *CONFIG)
PREPARE = (
    "prepare", "ball.mp4", "ws", "--box", "16,64,120,96", "--size", "96x64", "--frames", 9,
    "--caption", "a blue ball", "--edited-caption", "an orange ball",
    *(word for one in (
        "model.path=model", "model.dtype=float32", "optimizer.type=adamw", "optimizer.lr=1e-3",
        "motion.steps=9", "motion.window=5", "appearance.steps=6", "training.checkpoint_every=3",
        "inference.steps=2", "inference.lossless=true",
    ) for word in ("--set", one)),
)  # fmt: skip
EXPORT = ("export", "ws", "lora.safetensors", "--overwrite")
TRACK = ("track", "ws", "--click", "0,76,112,+", "--overwrite")
EVALUATE = ("evaluate", "ws")
COMPARED = {"groups", "metrics", "curves", "verdicts"}  # of report.json


class SmallEdit:
    """A folder with a clip, a tiny base and a workspace in which everything was done once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True)
        _write_clip(folder / "ball.mp4")
        write_tiny_model(folder / "model")
        commands = Commands(folder)
        _succeed(commands.run(*PREPARE))
        for frame in (0, 8):
            repaint(folder / "ws", frame)
        shutil.copytree(folder / "ws", folder / "prepared")
        for words in (TRAIN, INFER, EVALUATE, EXPORT):
            _succeed(commands.run(*words))

    def copy(self, target: Path, workspace: str = "ws") -> Commands:
        """A copy to torture; `workspace` is "ws" with all done, or "prepared" with nothing yet."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        for name in ("ball.mp4", "model", "lora.safetensors"):
            source = self.folder / name
            (shutil.copytree if source.is_dir() else shutil.copyfile)(source, target / name)
        shutil.copytree(self.folder / workspace, target / "ws")
        for name in ("edit.toml", "source/source.json", "output/run.json"):
            record = target / "ws" / name
            if record.exists():  # it names its files by where they were
                record.write_text(record.read_text().replace(str(self.folder), str(target)))
        return Commands(target)


def repaint(workspace: Path, frame: int) -> None:
    """An edited frame: the middle of the source's with its colours exchanged."""
    image = read_image(workspace / "source" / f"{frame:05d}.png").copy()
    height, width = image.shape[:2]
    middle = np.s_[height // 4 : 3 * height // 4, width // 4 : 3 * width // 4]
    image[middle] = image[middle][..., ::-1]
    write_png(workspace / "edits" / f"{frame:05d}.png", image)


def loras(folder: Path) -> dict[str, str]:
    """Every LoRA of a workspace's runs, by content."""
    files = sorted((folder / "ws" / "runs").rglob("adapter.safetensors"))
    return {str(file.relative_to(folder)): _tensors(file) for file in files if file.is_file()}


def losses(folder: Path) -> list[list[str]]:
    """Every loss of a workspace's runs, in order."""
    files = sorted((folder / "ws" / "runs").rglob("metrics.jsonl"))
    lines = [file.read_text(errors="replace").splitlines() for file in files if file.is_file()]
    return [re.findall(r'"loss": [^,]+', line) for run in lines for line in run]


def clip(folder: Path) -> str:
    """The frames of the lossless result, by content."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-xerror", "-i"]
    command += [str(folder / "ws/output/edited.mkv"), "-map", "0:v", "-f", "framemd5", "-"]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout


def products(words: tuple[object, ...], folder: Path, answer: Answer) -> str:
    """What a command that worked has made, in a form that can be compared."""
    if words[0] == "train":
        return json.dumps([loras(folder), losses(folder)])
    if words[0] == "infer":
        return clip(folder)
    if words[0] == "export":
        return _tensors(folder / "lora.safetensors")
    if words[0] == "evaluate":
        report = json.loads((folder / "ws/output/report.json").read_text())
        return json.dumps({key: report[key] for key in report.keys() & COMPARED}, sort_keys=True)
    if words[0] == "track":
        masks = sorted((folder / "ws/masks").glob("*.png"))
        return " ".join(hashlib.sha256(mask.read_bytes()).hexdigest() for mask in masks)
    return ""


def _tensors(file: Path) -> str:
    total = hashlib.sha256()
    for name, array in sorted(load_file(file).items()):
        total.update(name.encode() + array.tobytes())
    return total.hexdigest()


def _write_clip(path: Path) -> None:
    """Nine frames of a rolling ball, with half a second of a tone."""
    tone = path.with_suffix(".wav")
    samples = [round(8000 * math.sin(2 * math.pi * 440 * at / 16000)) for at in range(9000)]
    with wave.open(str(tone), "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(np.array(samples, "<i2").tobytes())
    frames = (draw_frame(number, (60, 120, 220)) for number in range(9))
    write_mp4(path, frames, Fraction(16), audio=AudioClip(tone, 0.0, 9 / 16))
    tone.unlink()


def _succeed(answer: Answer) -> None:
    if answer.verdict != "works":
        raise RuntimeError(f"the edit to torture cannot be made: {answer.err[-2000:]}")
