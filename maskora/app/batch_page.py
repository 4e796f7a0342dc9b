"""The record and the page of a batch: batch.json and batch.html beside the results."""

import base64
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from jinja2 import Environment
from PIL import Image
from pydantic import BaseModel, ConfigDict, ValidationError

from maskora.errors import Fault, UserError
from maskora.files import read_small, write_text

NAME = "batch"  # of batch.json and batch.html; those of a part are batch-I-of-N
WIDEST = 320  # pixels of a picture in the page
TEMPLATE = """\
<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Batch of edits</title>
<style>
body { font: 15px sans-serif; margin: 2em; color-scheme: light dark }
td, th { padding: .4em 1em .4em 0; text-align: left; vertical-align: top }
img { margin-right: 4px } .failed td:nth-child(2) { color: #c33 }
</style>
<h1>Batch of edits</h1>
<p>{{ rows | selectattr("0.status", "equalto", "ok") | list | length }} of
{{ rows | length }} done</p>
<table><tr><th>job<th>result<th>seconds<th>first, middle and last frame, or what went wrong</tr>
{% for job, pictures in rows %}<tr class="{{ job.status }}"><td>{{ job.name }}<td>{{ job.status }}
<td>{{ "%.0f" | format(job.seconds) }}<td>
{% for picture in pictures %}<img src="{{ picture }}" alt="">
{% endfor %}{{ job.message }}</tr>
{% endfor %}</table></html>
"""


class JobRecord(BaseModel):
    """What became of a job.

    Attributes:
        stage: the one that runs, or ran last.
        message: what went wrong.
        inputs: digest of all that its results were made from, also where a later run has failed
            before it touched them.
        outputs: SHA-256 of each video, by path; what a store says of its content, by URL.
    """

    model_config = ConfigDict(extra="forbid")

    name: str
    status: Literal["waiting", "running", "ok", "failed"] = "waiting"
    stage: str = ""
    seconds: float = 0.0
    output: str
    message: str = ""
    inputs: str = ""
    outputs: dict[str, str] = {}


class BatchRecord(BaseModel):
    """batch.json."""

    model_config = ConfigDict(extra="forbid")

    jobs: list[JobRecord] = []


def read_record(out: Path) -> dict[str, list[JobRecord]]:
    """What earlier runs did, by job: of the whole and of parts, whichever was the last.

    Raises:
        UserError: a record is damaged.
    """
    found: dict[str, list[JobRecord]] = {}
    for path in sorted(out.glob(f"{NAME}*.json")):
        try:
            jobs = BatchRecord.model_validate_json(read_small(path)).jobs
        except ValidationError:
            raise UserError(f"{path} is damaged: remove it; its jobs are looked at anew") from None
        for job in jobs:
            found.setdefault(job.name, []).append(job)
    return found


def write_record(out: Path, jobs: Sequence[JobRecord], part: str = "") -> Path:
    """Write batch.json, or that of a part, as a whole; returns its path."""
    path, text = out / f"{NAME}{part}.json", BatchRecord(jobs=list(jobs)).model_dump_json(indent=2)
    write_text(path, text + "\n")
    return path


def write_page(
    out: Path, jobs: Sequence[JobRecord], videos: dict[str, list[Path]], part: str = ""
) -> Path:
    """Write the page of results; it needs no other file and no network. Returns its path.

    Args:
        videos: on this machine, of jobs that are done, by name.
    """
    rows = [
        (job, [picture for video in videos.get(job.name, []) for picture in _pictures(video)])
        for job in jobs
    ]
    page = Environment(autoescape=True).from_string(TEMPLATE).render(rows=rows)
    path = out / f"{NAME}{part}.html"
    write_text(path, page)
    return path


def _pictures(video: Path) -> list[str]:
    """The first, middle and last frame as data URLs; none where the video cannot be read."""
    from maskora.video.probe import probe
    from maskora.video.read import read_frames

    if not video.is_file():
        return []
    try:
        info = probe(video)
        numbers = sorted({0, info.frames // 2, info.frames - 1})
        frames = [next(iter(read_frames(info, number, 1))) for number in numbers]
    except (UserError, Fault):
        return []
    return [_data_url(Image.fromarray(frame_HWC)) for frame_HWC in frames]


def _data_url(picture: Image.Image) -> str:
    picture.thumbnail((WIDEST, WIDEST))
    file = io.BytesIO()
    picture.save(file, format="JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
