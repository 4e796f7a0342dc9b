"""The runs of a benchmark: a case by a preset each; what is done is not done again."""

import json
import logging
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO

import numpy as np

import maskora
from maskora.app.edit_line import EditLine, place_edit, split_words
from maskora.app.processes import INTERRUPTED, crash_message, last_line, run_maskora
from maskora.app.workspace import Workspace, read_record, working
from maskora.config.toml import load_config, with_preset
from maskora.errors import Fault, UserError
from maskora.evaluation.clip import find_clip, open_pictures
from maskora.files import digest, parse_json, remove, replacing, sha256_file, write_text
from maskora.progress import Progress, track
from maskora.training.report import read_metrics
from maskora.video.images import read_image, write_png
from research.benchmark import cases
from research.benchmark.distance import encode_clip, measure_distance
from research.benchmark.page import write_results
from research.benchmark.results import CaseResults, Distance, Outcome, Results

log = logging.getLogger("maskora")
OWN_NAMES = ("source", "edited", "truth", "prepare", "work")  # of files beside those of the presets
LEARNED_FROM = {"adapter", "optimizer", "training", "motion", "appearance"}  # tables of a LoRA


@dataclass(frozen=True)
class Benchmark:
    """What is run.

    Attributes:
        folders: a case each.
        presets: by name, as `--preset` takes them.
        contents: what they say, as JSON.
        options: of `maskora edit`, for every case.
    """

    folders: list[Path]
    output: Path
    presets: dict[str, str]
    contents: dict[str, str]
    options: list[str]
    clip: str | None
    quality: str | None

    @classmethod
    def of(
        cls,
        home: Path,
        output: Path,
        presets: Sequence[str],
        clip: str | None,
        quality: str | None,
        options: list[str],
    ) -> "Benchmark":
        """Check what can be known before any work. Raises UserError."""
        folders = cases.find_cases(home)
        if home.resolve() in (output.resolve(), *output.resolve().parents):
            raise UserError(f"{output} lies in {home}: the results go into a folder outside of it")
        named = {Path(preset).stem: preset for preset in presets}
        if len(named) != len(presets):
            raise UserError(f"--presets {','.join(presets)}: two of them have one name")
        for name in named:
            Workspace(output).edit_dir(name)  # each is an edit of its own
            if name in OWN_NAMES:
                raise UserError(f"--presets {name}: the benchmark uses this name: rename the file")
        for base in split_words(options)[1]["--base"]:
            if not Path(base).is_file():
                raise UserError(f"--base {base}: no such file")
        contents = {n: json.dumps(with_preset({}, preset)) for n, preset in named.items()}
        return cls(folders, output, named, contents, options, clip, quality)

    @property
    def scoring(self) -> list[str]:
        """Words for `evaluate`."""
        given = {"--clip": self.clip, "--quality": self.quality}
        return [word for name, value in given.items() if value for word in (name, value)]


@dataclass(frozen=True)
class CaseRuns:
    """The runs of one case, and where their files are."""

    benchmark: Benchmark
    case: Path

    @property
    def folder(self) -> Path:
        return self.benchmark.output / self.case.name

    @property
    def workspace(self) -> Workspace:
        return Workspace(self.folder / "work")

    def file(self, preset: str, suffix: str) -> Path:
        return self.folder / f"{preset}{suffix}"

    def outcome(self, preset: str) -> Outcome:
        """How far a preset is. Raises UserError where its record is damaged."""
        path = self.file(preset, ".json")
        if not path.is_file():
            return Outcome()
        return read_record(Outcome, path, "remove it, and the run begins anew")

    @cached_property
    def prepared_from(self) -> str:
        """Content name of what the workspace is prepared from."""
        options = self.benchmark.options
        bases = [sha256_file(Path(base)) for base in split_words(options)[1]["--base"]]
        case = cases.digest_case(self.case, judging=False)
        return digest(maskora.__version__, case, *options, *bases)

    @cached_property
    def judged_by(self) -> str:
        """Content name of what all its clips are judged by."""
        case = cases.digest_case(self.case, judging=True)
        return digest(case, *self.benchmark.scoring)

    def made_from(self, preset: str) -> str:
        """Content name of what a preset's clip is made from."""
        return digest(self.prepared_from, self.benchmark.contents[preset])

    def judged_from(self, preset: str) -> str:
        """Content name of what a preset's figures are made from."""
        return digest(self.made_from(preset), self.judged_by)

    def is_made(self, preset: str) -> bool:
        """True where a preset's clip is there, made from what there is now."""
        made = self.outcome(preset).made_from == self.made_from(preset)
        return made and self.file(preset, ".mp4").is_file()

    def is_done(self, preset: str) -> bool:
        """True where a preset's clip is made and judged."""
        outcome = self.outcome(preset)
        judged = outcome.judged_from == self.judged_from(preset) and not outcome.failed
        return judged and self.is_made(preset)


def run_all(benchmark: Benchmark) -> int:
    """Do what is not done; tables and page are written after every run.

    Returns:
        0 where all runs are done, 1 where some have failed.

    Raises:
        KeyboardInterrupt: a stage was interrupted; run again, it continues.
    """
    runs = [CaseRuns(benchmark, case) for case in benchmark.folders]
    todo = {one.case: [p for p in benchmark.presets if not one.is_done(p)] for one in runs}
    total, waiting = len(runs) * len(benchmark.presets), sum(map(len, todo.values()))
    benchmark.output.mkdir(parents=True, exist_ok=True)
    with Progress("benchmark", total, "run", done=total - waiting) as progress:
        for one in runs:
            if todo[one.case]:
                run_case(one, todo[one.case], runs, progress)
    results = replace(results_of(runs), distances=distances_of(benchmark, runs))
    log.info("%s", write_results(results, benchmark.output))
    return int(any(one.outcome(preset).failed for one in runs for preset in benchmark.presets))


def run_case(
    one: CaseRuns, todo: Sequence[str], runs: Sequence[CaseRuns], progress: Progress
) -> None:
    """Prepare a case and run presets on it; those that train alike follow each other."""
    try:
        line = prepare(one)
        order = sorted(todo, key=lambda preset: training_of(one, preset))
    except (UserError, Fault) as error:
        for preset in todo:
            fail(one, preset, error)
        progress.advance(len(todo))
        return
    for preset in order:
        try:
            if not one.is_made(preset) or not has_result(one, preset):
                make(one, line, preset)
            judge(one, preset)
        except (UserError, Fault) as error:
            fail(one, preset, error)
        progress.advance()
        write_results(results_of(runs), one.benchmark.output)


def fail(one: CaseRuns, preset: str, error: Exception) -> None:
    """Record why a run has failed, beside what it has."""
    log.warning("%s, %s: failed: %s", one.case.name, preset, error)
    outcome = one.outcome(preset).model_copy(update={"failed": str(error)})
    outcome.write(one.file(preset, ".json"))


def prepare(one: CaseRuns) -> EditLine:
    """The case's workspace, prepared; and what is asked for there. Raises UserError, Fault."""
    workspace, marker = one.workspace, one.folder / "prepared-from"
    line = cases.read_case(one.case, one.benchmark.options, workspace.root)
    root, stages = str(workspace.root), []
    if not workspace.config.is_file():
        write_text(marker, one.prepared_from)
        stages.append(["prepare", line.video, root, *line.region, *line.options, *line.settings])
    elif not marker.is_file() or marker.read_text(encoding="utf-8") != one.prepared_from:
        raise UserError(
            f"{root} was prepared from other files or options, or by another version: remove "
            f"{one.folder}, or name another folder for the results"
        )
    if line.clicks and not workspace.mask_record.is_file():
        stages.append(["track", root, *line.clicks, *line.settings])
    if stages:
        with one.file("prepare", ".log").open("wb") as file:
            for words in stages:
                run_stage(file, *words)
    source = workspace.read_source()
    write_png(one.file("edited", ".png"), read_image(Path(line.edits[0])))
    cases.write_clip(workspace.source_dir, source, one.file("source", ".mp4"))
    return line


def training_of(one: CaseRuns, preset: str) -> str:
    """What decides a preset's LoRA: presets with the same share it. Raises UserError."""
    config = load_config(one.workspace.config, (), one.benchmark.presets[preset])
    if config.inference.lora == "none":
        return ""
    return json.dumps(config.model_dump(mode="json", include=LEARNED_FROM), sort_keys=True)


def has_result(one: CaseRuns, preset: str) -> bool:
    """True where the workspace, which may have been removed since, still has a preset's result."""
    return (one.workspace.output_dir(preset, None) / "run.json").is_file()


def make(one: CaseRuns, line: EditLine, preset: str) -> None:
    """Train and generate; each preset is an edit of its own. Raises UserError, Fault."""
    workspace, output = one.workspace, one.file(preset, ".mp4")
    with working(workspace):
        for frame, image in line.edits.items():
            place_edit(workspace, preset, frame, Path(image))
    words = ["--config", str(workspace.config), "--preset", one.benchmark.presets[preset]]
    words += ["--edit", preset, *line.device]
    with one.file(preset, ".log").open("wb") as file:
        run_stage(file, "train", *words, "--stage", "all", "--resume")
        run_stage(file, "infer", *words, "--output", str(output))
    for stale in one.folder.glob(f"{preset}.*.npy"):
        remove(stale)
    record = parse_json((workspace.output_dir(preset, None) / "run.json").read_bytes())
    untrained = record["config"]["inference"]["lora"] == "none"
    Outcome(
        made_from=one.made_from(preset),
        prompt=record["prompt"],
        training=0.0 if untrained else seconds_of_training(workspace, preset),
        generating=math.fsum(record["timings"].values()),
    ).write(one.file(preset, ".json"))


def seconds_of_training(workspace: Workspace, preset: str) -> float:
    """The seconds of all steps behind a preset's LoRAs."""
    motion, appearance = workspace.metrics("motion"), workspace.metrics("appearance", preset)
    files = (*motion.values(), *appearance.values())
    return math.fsum(entry.seconds for path in files for entry in read_metrics(path))


def judge(one: CaseRuns, preset: str) -> None:
    """Evaluate a preset's clip. Raises UserError, Fault."""
    workspace, source = one.workspace, one.workspace.read_source()
    words = ["evaluate", str(workspace.root), "--edit", preset, *one.benchmark.scoring]
    truth = cases.find_one(one.case, cases.TRUTHS)
    if truth is not None:
        if truth.is_file():
            cases.write_truth(truth, source, one.folder / "truth")
            truth = one.folder / "truth"
        cases.write_clip(truth, source, one.folder / "truth.mp4")
        words += ["--truth", str(truth)]
    reference = cases.find_one(one.case, cases.REFERENCES)
    if reference is not None and one.benchmark.clip is not None:
        words += ["--reference", str(reference)]
    with one.file(preset, ".log").open("ab") as file:
        run_stage(file, *words)
    folder = workspace.output_dir(preset, None)
    shutil.copyfile(folder / "report.html", one.file(preset, ".html"))
    report = parse_json((folder / "report.json").read_bytes())
    judged = {
        "judged_from": one.judged_from(preset),
        "failed": "",
        "means": report["means"],
        "signs": tuple(sign["title"] for sign in report["verdict"]["signs"]),
    }
    one.outcome(preset).model_copy(update=judged).write(one.file(preset, ".json"))


def run_stage(file: IO[bytes], *words: str) -> None:
    """Run a command of maskora, its output going into a log.

    Raises:
        UserError: it failed; with its last line.
        KeyboardInterrupt: it was interrupted.
    """
    file.write(f"$ maskora {' '.join(words)}\n".encode())
    file.flush()
    status = run_maskora(words, file)
    if status == INTERRUPTED:
        raise KeyboardInterrupt
    if status:
        said = last_line(Path(file.name)).removeprefix("maskora: ")
        raise UserError(crash_message(words[0], status) or said)


def results_of(runs: Sequence[CaseRuns]) -> Results:
    """Everything that is known now, for the table and the page."""
    benchmark = runs[0].benchmark
    facts = {
        "maskora": maskora.__version__,
        "options": " ".join(benchmark.options) or None,
        "clip": benchmark.clip,
        "quality": benchmark.quality,
    }
    return Results(
        presets=list(benchmark.presets),
        facts=facts,
        cases=[
            CaseResults(
                name=one.case.name,
                is_prepared=one.file("source", ".mp4").is_file(),
                has_truth=one.file("truth", ".mp4").is_file(),
                outcomes={preset: one.outcome(preset) for preset in benchmark.presets},
            )
            for one in runs
        ],
    )


def distances_of(benchmark: Benchmark, runs: Sequence[CaseRuns]) -> dict[str, Distance]:
    """CLIP-FD by preset, over all its cases that are done; nothing without a CLIP.

    Raises:
        UserError: the CLIP cannot be had.
    """
    done = {p: [one for one in runs if one.outcome(p).is_judged] for p in benchmark.presets}
    if benchmark.clip is None:
        return {}
    mark = digest(benchmark.clip)[:8]
    wanted = {one.file(name, ".mp4") for p in done for one in done[p] for name in (p, "source")}
    missing = sorted(video for video in wanted if not video.with_suffix(f".{mark}.npy").is_file())
    if missing:
        with open_pictures(find_clip(benchmark.clip, "--clip"), "--clip") as encode:
            for video in track(missing, "CLIP-FD", len(missing), "clip"):
                with replacing(video.with_suffix(f".{mark}.npy")) as scratch:
                    np.save(scratch, encode_clip(video, encode))
    features = {video: np.load(video.with_suffix(f".{mark}.npy")) for video in wanted}
    return {
        preset: measure_distance(
            [features[one.file(preset, ".mp4")] for one in some],
            [features[one.file("source", ".mp4")] for one in some],
        )
        for preset, some in done.items()
        if some
    }
