"""Train the small base that ships with maskora from nothing, and judge it.

    python -m research.miniature.pretrain OUTPUT [--minutes N] [--seed S] [--resume]

World -> autoencoder -> latents -> transformer -> a model folder, judged.
"""

import json
import math
from pathlib import Path
from typing import Annotated

import torch
import typer
from diffusers import AutoencoderKLWan

from maskora import devices
from maskora.cli import handle_errors
from maskora.errors import UserError
from maskora.files import write_text
from maskora.models.building import without_bars
from maskora.models.registry import open_model
from research.miniature.autoencoder import autoencoder_part, build_autoencoder, channels_last
from research.miniature.curves import draw_losses
from research.miniature.fitting import fit
from research.miniature.folder import finish_folder, hashes, save_part
from research.miniature.latent_set import encode_set, measure_latents
from research.miniature.transformer import build_transformer, transformer_part
from research.miniature.trial import draw_case, judge
from research.miniature.verdict import Verdict

AUTOENCODER_SHARE = 0.3  # of the time; the rest is the transformer's
ALL_CLIPS = 30.0  # minutes; in less, fewer clips are encoded
CASES = 24
SEEDS = 2**32


def pretrain_miniature(
    output: Annotated[Path, typer.Argument(help="the folder to create")],
    minutes: Annotated[float, typer.Option(help="of training; more are better")] = 60.0,
    seed: Annotated[int, typer.Option(help="of the weights and the batches")] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="continue what the folder holds")
    ] = False,
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
    work = output / "training"
    _keep_seed(work / "seed", seed)
    device = devices.for_small_models()
    _train_autoencoder(output, seed, 60 * minutes * AUTOENCODER_SHARE, device)
    if not (output / "transformer").exists():
        vae = AutoencoderKLWan.from_pretrained(output / "vae", torch_dtype=torch.float32)
        vae = channels_last(vae).to(device).eval()
        latents = encode_set(vae, work, min(1.0, minutes / ALL_CLIPS))
        transformer = build_transformer(seed).to(device)
        part = transformer_part(transformer, latents, seed)
        fit(part, 60 * minutes * (1 - AUTOENCODER_SHARE), work)
        draw_losses(work / "transformer.jsonl", output / "transformer.png", "transformer: flow")
        save_part(transformer, output / "transformer")
    finish_folder(output)
    verdict = try_out(output, device, CASES)
    record = {**verdict.record(), "sha256": hashes(output)}
    write_text(output / "gate.json", json.dumps(record, indent=2) + "\n")
    print("\n".join(closing(output, minutes, verdict)))


def closing(output: Path, minutes: float, verdict: Verdict) -> list[str]:
    """What is said at the end: the figures, and what to do where they are not good enough."""
    if verdict.passed:
        return [verdict.told()]
    return [
        verdict.told(),
        f"{output} has NOT passed the gate, so nothing should be shown with it: train another into "
        f"a new folder with more than --minutes {minutes:g} (--resume does not go on with one that "
        f"is finished)",
    ]


def _keep_seed(path: Path, seed: int) -> None:
    if not path.exists():
        write_text(path, f"{seed}\n")
    elif (begun := path.read_text(encoding="utf-8").strip()) != str(seed):
        raise UserError(f"{path}: this training was begun with --seed {begun}, and goes on with it")


def _train_autoencoder(output: Path, seed: int, seconds: float, device: str) -> None:
    if (output / "vae").exists():
        return
    work = output / "training"
    vae = build_autoencoder(seed).to(device)
    fit(autoencoder_part(vae, seed), seconds, work)
    draw_losses(work / "vae.jsonl", output / "vae.png", "autoencoder: absolute + 5 x squared error")
    mean_C, deviation_C = measure_latents(vae)
    vae.register_to_config(latents_mean=mean_C, latents_std=deviation_C)
    save_part(vae, output / "vae")


def try_out(folder: Path, device: str, cases: int) -> Verdict:
    """What a miniature reaches on unseen scenes."""
    model = open_model("miniature", folder, "float32", device)
    return judge(model, [draw_case(number) for number in range(cases)])


if __name__ == "__main__":
    typer.run(handle_errors(pretrain_miniature))
