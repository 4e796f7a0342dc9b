"""Long clips put to the test on the miniature: what is lost from segment to segment.

    python -m research.long              # the run; what is done already is not run again
    python -m research.long --report     # the table of docs/long-clips.md

A scene goes on for 193 frames, its sprite thrown back at the edges. Its first frame is edited, and
the clip generated in segments of 25 frames: chained (each is shown the end of the one before),
with an anchor as well, or with an anchor and an edited frame in the middle.
"""

import json
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from maskora.app.edits import Clip, Edit, EditedFrame
from maskora.app.generate import Encoded, Passage, encode
from maskora.app.passages import Reel, passage_of
from maskora.app.workspace import Source
from maskora.config import Config
from maskora.config.tables import Inference, Transfer
from maskora.errors import UserError
from maskora.files import write_text
from maskora.frames import StoredFrames
from maskora.latents import TensorCache
from maskora.method.conditioning import to_bytes
from maskora.method.segments import noise_seed, plan_segments
from maskora.miniature.world import SIZE
from maskora.models.registry import Transformer, VideoModel
from maskora.sampling import Denoising, Inversion, Lead, SourceBranch, draw_noise
from maskora.video.differences import Leakage
from research.claims import runs, trials
from research.claims.claims import HUES, LOOKING, Interval, Subject, Training, interval, kind
from research.claims.report import table
from research.claims.trials import CELL, SAMPLING, Bench, Recipe
from research.fidelity import BASES
from research.miniature import gate
from research.miniature.gate import Case, Frames, Score

HERE = Path(__file__).parent
FRAMES, SEGMENT, STRETCH, MIDDLE, FIRST = 193, 25, 48, 96, 4000
WAYS = ("chained", "anchored", "anchored, keyframe")
METHODS: Mapping[str, Transfer] = {"mask-aware LoRA": Transfer(), "instant": LOOKING}
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Job:
    """A clip: a scene, a seed, a method and a way from segment to segment."""

    model: Path
    recipe: Recipe
    method: str
    scene: int
    seed: int


@app.command()
def main(
    reporting: Annotated[bool, typer.Option("--report", help="print the table")] = False,
    scenes: Annotated[int, typer.Option(min=2, help="how many")] = 12,
    seeds: Annotated[int, typer.Option(min=1, help="per scene")] = 2,
    workers: Annotated[int, typer.Option(min=1)] = os.cpu_count() or 1,
    output: Annotated[Path, typer.Option(help="the results, a .json")] = HERE / "results/long.json",
) -> None:
    """Generate long clips in three ways, or tell how they came out."""
    base = BASES["boxes"]
    records = json.loads(output.read_text(encoding="utf-8")) if output.exists() else []
    if reporting:
        if not records:
            raise UserError(f"{output} is missing: run python -m research.long first")
        print("\n".join(report(records)))
        return
    chosen = runs.read_settings(base.settings, trials.base_name(trials.open_base(base.model)))
    recipe = chosen.recipes[trials.recipe_name("motion", "masked")]
    done = {(record["method"], record["scene"], record["seed"]) for record in records}
    jobs = [
        Job(base.model, recipe, method, scene, seed)
        for seed in range(seeds)
        for scene in chosen_scenes(scenes)
        for method in METHODS
        if (method, scene, seed) not in done
    ]
    with runs.pool(workers) as executor:
        for found in runs.finished(executor, run_job, jobs, "clips"):
            records += found
            write_text(output, json.dumps(records, indent=1) + "\n")


def chosen_scenes(count: int) -> list[int]:
    """Numbers of the first scenes in which the hue is edited, which no claim is tested on."""
    numbers = range(FIRST, FIRST + 3 * count)
    return [number for number in numbers if kind(number) in HUES][:count]


def run_job(job: Job) -> list[dict[str, Any]]:
    """All ways of a method on a scene, which share their LoRA."""
    model = trials.open_base(job.model)
    case, seed = trials.draw_task(job.scene, Subject(frames=FRAMES)), 100 * job.scene + job.seed
    transformer = model.load_transformer()
    with closing(transformer.streamed), tempfile.TemporaryDirectory() as folder:
        bench, training = Bench(model, case, Path(folder), seed), Training()
        if not METHODS[job.method].inverts:
            windows = bench.motion(training)
            trials.learn(model, transformer, bench, windows, job.recipe, training, seed)
        clips = {
            way: generated(model, transformer, case, way, METHODS[job.method], Path(folder), seed)
            for way in WAYS
        }
    return [
        {
            "method": job.method, "scene": job.scene, "seed": job.seed, "way": way,
            "stretches": [asdict(each) for each in stretches(frames_THWC, case)],
        }
        for way, frames_THWC in clips.items()
    ]  # fmt: skip


def generated(
    model: VideoModel, transformer: Transformer, case: Case, way: str, transfer: Transfer,
    folder: Path, seed: int,
) -> Frames:  # fmt: skip
    """A clip of many segments, as `maskora infer` generates and assembles it."""
    clip, edit = clip_of(case), edit_of(case, way)
    inference = Inference(
        steps=SAMPLING.steps, guidance=1.0, lock="model", segment=SEGMENT, anchor=way != "chained"
    )
    config = Config(inference=inference, transfer=transfer)
    segments = plan_segments(
        FRAMES, edit.all, (), segment=SEGMENT, overlap=inference.shared(FRAMES),
        anchored=inference.anchor,
    )  # fmt: skip
    cache = TensorCache(folder)
    reel = Reel(clip, inference, StoredFrames(folder / "frames", clip.frames_THWC.shape[1:]))
    for number, segment in enumerate(segments):
        shown = passage_of(segment, clip, edit, reel.end(segment), model.longest)
        encoded = encode(config, shown, model, cache)
        run = denoising(model, transformer, encoded, shown, config, noise_seed(seed, number))
        run.advance(transformer)
        with model.vae() as vae:
            reel.add(segment, to_bytes(vae.decode(run.result())).numpy())
    return reel.frames_THWC[:]


def denoising(
    model: VideoModel, transformer: Transformer, encoded: Encoded, shown: Passage, config: Config,
    seed: int,
) -> Denoising:  # fmt: skip
    """A segment at its noise, the source inverted before where it is taken from."""
    branch, transfer = None, config.transfer
    if encoded.source is not None and encoded.source_CTHW is not None:
        inversion = Inversion(
            model, encoded.source, encoded.source_CTHW, config.inference, transfer
        )
        inversion.advance(transformer, model.experts[0])
        branch = SourceBranch(encoded.source, inversion.result())
    shape = (model.latent_channels, *encoded.sample.condition_CTHW.shape[1:])
    return Denoising(
        model, encoded.sample, encoded.negative, draw_noise(shape, seed), config.inference,
        None, Lead(transfer, branch),
    )  # fmt: skip


def clip_of(case: Case) -> Clip:
    """A case's source, as a workspace would hold it."""
    source = Source(
        origin="scene", start=0, every=1, frames=FRAMES, fps="8", original_size=(SIZE, SIZE),
        size=(SIZE, SIZE), cell=CELL, fit="crop", region=(0, 0, SIZE, SIZE),
    )  # fmt: skip
    labels_THW = (case.keep_THW.numpy() == 0).astype(np.uint8)
    return Clip(source, case.source_THWC, labels_THW)


def edit_of(case: Case, way: str) -> Edit:
    """The edited first frame and, where a way has it, the one in the middle."""
    nothing = Leakage(0.0, 0.0, np.zeros((SIZE, SIZE), np.uint8))

    def frame(number: int) -> EditedFrame:
        picture_HWC = case.edited_THWC[number]
        return EditedFrame(Path(), picture_HWC, picture_HWC, picture_HWC, nothing, "", "")

    return Edit(frame(0), {MIDDLE: frame(MIDDLE)} if way.endswith("keyframe") else {})


def stretches(frames_THWC: Frames, case: Case) -> list[Score]:
    """The figures of every 48 frames after the first."""
    found = []
    for begin in range(0, FRAMES - 1, STRETCH):
        part = slice(begin, begin + STRETCH + 1)  # the first of these has no score
        own = {
            field.name: value[part]
            for field in fields(Case)
            if (value := getattr(case, field.name)) is not None
        }
        found.append(gate.score(frames_THWC[part], replace(case, **own)))
    return found


SHOWN = {"hit": 2, "strict": 2, "centroid": 1, "angle": 0, "inside_db": 1, "background_db": 1}


def report(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """The figures by stretch, and how much of the fall an anchor and a keyframe save."""
    lines: list[str] = []
    for method in METHODS:
        mine = [record for record in records if record["method"] == method]
        if not mine:
            continue
        rows = []
        for way in WAYS:
            own = [record for record in mine if record["way"] == way]
            for number, begin in enumerate(range(0, FRAMES - 1, STRETCH)):
                values = [record["stretches"][number] for record in own]
                cells = [f"{np.nanmean([v[k] for v in values]):.{d}f}" for k, d in SHOWN.items()]
                rows.append((way, f"{begin + 1}-{begin + STRETCH}", *cells))
        count = len({record["scene"] for record in mine}), len({r["seed"] for r in mine})
        lines += [f"**{method}**, {count[0]} scenes x {count[1]} seeds:", ""]
        lines += [*table(("", "frames", *SHOWN), rows), ""]
        lines += [_fall(mine, "strict", way) for way in WAYS]
        lines += [_saved(mine, "strict", way) for way in WAYS[1:]] + [""]
    return lines


def falls(records: Sequence[Mapping[str, Any]], figure: str, way: str) -> dict[int, float]:
    """By how much a figure is lower in the last stretch than in the first, by scene."""
    own = [record for record in records if record["way"] == way]
    return {
        scene: float(
            np.mean(
                [
                    r["stretches"][0][figure] - r["stretches"][-1][figure]
                    for r in own
                    if r["scene"] == scene
                ]
            )
        )
        for scene in {record["scene"] for record in own}
    }


def _fall(records: Sequence[Mapping[str, Any]], figure: str, way: str) -> str:
    found = interval(list(falls(records, figure, way).values()))
    return f"- {way}: {figure} falls by {_shown(found)} from the first stretch to the last"


def _saved(records: Sequence[Mapping[str, Any]], figure: str, way: str) -> str:
    chained, own = falls(records, figure, WAYS[0]), falls(records, figure, way)
    halves = interval([chained[scene] / 2 - own[scene] for scene in chained])
    verdict = "yes" if halves.low > 0 else "no" if halves.high < 0 else "undecided"
    return f"- {way}: at most half of the chained fall? {verdict} ({_shown(halves)} to spare)"


def _shown(found: Interval) -> str:
    return f"{found.mean:+.2f} [{found.low:+.2f}, {found.high:+.2f}]"


if __name__ == "__main__":
    app()
