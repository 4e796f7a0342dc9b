"""Train the small base that ships with maskora from nothing, and judge it.

    python -m research.miniature.pretrain OUTPUT [--shown first-frame|boxes] [--start FOLDER]
        [--minutes N] [--seed S] [--resume] [--fused]

World -> autoencoder -> latents -> transformer -> a model folder, judged.
"""

import json
import math
import shutil
import tempfile
from pathlib import Path
from typing import Annotated, Any

import diffusers
import torch
import typer
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanTransformer3DModel

from maskora import devices
from maskora.cli import handle_errors
from maskora.errors import UserError
from maskora.files import move, sha256_file, write_text
from maskora.models.building import without_bars
from maskora.models.registry import open_model
from research.miniature.autoencoder import autoencoder_part, build_autoencoder, channels_last
from research.miniature.gate import Shown, Verdict, draw_case, judge_model
from research.miniature.training import draw_losses, fit
from research.miniature.transformer import (
    SHIFT,
    build_transformer,
    encode_set,
    measure_latents,
    transformer_part,
)

AUTOENCODER_SHARE = 0.3  # of the time; the rest is the transformer's
ALL_CLIPS = 30.0  # minutes; in less, fewer clips are encoded
CASES = 24
SEEDS = 2**32
PARTS = ("transformer", "vae")
SIZES = {
    "vae": ("base_dim", "scale_factor_spatial", "z_dim"),
    "transformer": ("num_attention_heads", "attention_head_dim", "num_layers", "ffn_dim"),
}
INDEX = {
    "_class_name": "WanImageToVideoPipeline",
    "_diffusers_version": diffusers.__version__,
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "transformer": ["diffusers", "WanTransformer3DModel"],
    "vae": ["diffusers", "AutoencoderKLWan"],
}


@handle_errors
def main(
    output: Annotated[Path, typer.Argument(help="the folder to create")],
    minutes: Annotated[float, typer.Option(help="of training; more are better")] = 60.0,
    seed: Annotated[int, typer.Option(help="of the weights and the batches")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue what the folder holds")
    ] = False,
    shown: Annotated[
        Shown, typer.Option(help="what it learns to go by: boxes are shown in half of the samples")
    ] = "boxes",
    start: Annotated[
        Path | None,
        typer.Option(
            help="a miniature to go on from: its autoencoder is taken, nothing but its "
            "transformer trained"
        ),
    ] = None,
    fused: Annotated[
        bool,
        typer.Option("--fused", help="compile it: faster steps after minutes, by a C++ compiler"),
    ] = False,
) -> None:
    """Train the small base that ships with maskora, and judge it."""
    pretrain_miniature(output, minutes, seed, resume, shown, start, fused)


def pretrain_miniature(
    output: Path,
    minutes: float,
    seed: int,
    resume: bool,
    shown: Shown,
    start: Path | None,
    fused: bool = False,
) -> None:
    """Train a miniature for some minutes and write it to `output`, a folder in diffusers' layout.

    What is needed to go on lies in `output`/training, with the losses and their curves. Encoding
    the latents comes on top of the minutes.

    Raises:
        UserError: the folder holds something, and `resume` is not asked for; or it was begun with
            another seed; or there is no such time or seed.
    """
    if not 0 < 60 * minutes < math.inf:
        raise UserError(f"--minutes {minutes:g}: it must be a number above 0")
    if not 0 <= seed < SEEDS:
        raise UserError(f"--seed {seed}: it must be from 0 to {SEEDS - 1}")
    if not resume and output.exists() and any(output.iterdir()):
        raise UserError(f"{output} already holds something: name a new folder, or add --resume")
    without_bars()
    if start is not None:
        _check_start(start)
    begun = f"--seed {seed} --shown {shown}{'' if start is None else f' --start {start}'}"
    _keep_choices(output / "training" / "begun", begun)
    device = devices.for_small_models()
    seconds = 60 * minutes
    if start is not None:
        _take_autoencoder(start, output)
    else:
        if not (output / "vae").exists():
            _train_autoencoder(output, seed, seconds * AUTOENCODER_SHARE, device)
        seconds *= 1 - AUTOENCODER_SHARE
    if not (output / "transformer").exists():
        share = min(1.0, minutes / ALL_CLIPS)
        transformer = _first_transformer(start, seed).to(device)
        _train_transformer(transformer, output, shown, seed, seconds, share, fused)
    finish_folder(output)
    verdict = try_out(output, device, CASES, shown)
    record = {**verdict.record(), "sha256": hashes(output)}
    write_text(output / "gate.json", json.dumps(record, indent=2) + "\n")
    print("\n".join(closing(output, minutes, verdict)))


def closing(output: Path, minutes: float, verdict: Verdict) -> list[str]:
    """The last lines: the figures, and what to do where they are not good enough."""
    if verdict.passed:
        return [verdict.table()]
    return [
        verdict.table(),
        f"{output} has NOT passed the gate, so nothing should be shown with it: train another into "
        f"a new folder with more than --minutes {minutes:g} (--resume does not go on with one that "
        f"is finished)",
    ]


def _keep_choices(path: Path, chosen: str) -> None:
    if not path.exists():
        write_text(path, f"{chosen}\n")
    elif (begun := path.read_text(encoding="utf-8").strip()) != chosen:
        raise UserError(f"{path}: this training was begun with {begun}, and goes on with that")


def _check_start(start: Path) -> None:
    """Its parts are of the sizes that are trained here. Raises UserError."""
    built = {"vae": build_autoencoder(0), "transformer": build_transformer(0)}
    for part, module in built.items():
        file = start / part / "config.json"
        if not file.is_file() and part == "vae":
            raise UserError(f"--start {start}: there is no miniature (no vae folder)")
        config = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else module.config
        if other := [key for key in SIZES[part] if config[key] != module.config[key]]:
            raise UserError(f"--start {start}: its {part} has another {other[0]}: train one anew")


def _take_autoencoder(start: Path, output: Path) -> None:
    if not (output / "vae").exists():
        shutil.copytree(start / "vae", output / "vae")
    work = output / "training"
    for encoded in sorted((start / "training").glob("latents-*.safetensors")):
        if not (work / encoded.name).exists():
            shutil.copyfile(encoded, work / encoded.name)


def _first_transformer(start: Path | None, seed: int) -> WanTransformer3DModel:
    transformer = build_transformer(seed)
    if start is not None and (start / "transformer").is_dir():
        learned = WanTransformer3DModel.from_pretrained(
            start / "transformer", torch_dtype=torch.float32
        )
        transformer.load_state_dict(learned.state_dict())
    return transformer


def _train_autoencoder(output: Path, seed: int, seconds: float, device: str) -> None:
    work = output / "training"
    vae = build_autoencoder(seed).to(device)
    fit(autoencoder_part(vae, seed), seconds, work)
    draw_losses(work / "vae.jsonl", output / "vae.png", "autoencoder: absolute + 5 x squared error")
    mean_C, deviation_C = measure_latents(vae)
    vae.register_to_config(latents_mean=mean_C, latents_std=deviation_C)
    save_part(vae, output / "vae")


def _train_transformer(
    transformer: WanTransformer3DModel, output: Path, shown: Shown, seed: int, seconds: float,
    share: float, fused: bool,
) -> None:  # fmt: skip
    """Encode a share of the clips with the folder's autoencoder, and train on them."""
    work = output / "training"
    vae = AutoencoderKLWan.from_pretrained(output / "vae", torch_dtype=torch.float32)
    latents = encode_set(channels_last(vae).to(transformer.device).eval(), work, share)
    fit(transformer_part(transformer, latents, shown, seed, fused), seconds, work)
    draw_losses(work / "transformer.jsonl", output / "transformer.png", "transformer: flow")
    save_part(transformer, output / "transformer")


def try_out(folder: Path, device: str, cases: int, shown: Shown) -> Verdict:
    """Run the gate on a miniature: unseen scenes, judged."""
    model = open_model("miniature", folder, "float32", device)
    drawn = [draw_case(number, cell=model.grid.cell) for number in range(cases)]
    return judge_model(model, drawn, shown)


def save_part(part: Any, folder: Path) -> None:
    """Write a model of diffusers in half precision, as a whole or not at all.

    It has that precision afterwards.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".part-") as scratch:
        written = Path(scratch) / folder.name
        part.half().save_pretrained(written)
        for file in written.iterdir():
            file.chmod(0o644)  # else nobody but the writer could read the weights
        move(written, folder)


def hashes(folder: Path) -> dict[str, str]:
    """The SHA-256 of each file of weights, by its path in the folder."""
    files = [file for part in PARTS for file in sorted((folder / part).glob("*.safetensors"))]
    return {file.relative_to(folder).as_posix(): sha256_file(file) for file in files}


def finish_folder(output: Path) -> None:
    """Add what is beside the trained parts: the schedule, and which class is which."""
    FlowMatchEulerDiscreteScheduler(shift=SHIFT).save_pretrained(output / "scheduler")
    write_text(output / "model_index.json", json.dumps(INDEX, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
