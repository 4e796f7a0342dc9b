"""prepare: a video and a mask become a workspace, as a whole or not at all."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from maskora.app.exchange import exchange
from maskora.app.first_frame import make_first_frame
from maskora.app.following import carry_box, parse_follow
from maskora.app.masking import build_masks, draw_overview, given_silhouettes, share_inside
from maskora.app.shot_notes import describe_shots, unedited_shots_note
from maskora.app.workspace import (
    FrameRecord,
    ShotRecord,
    Source,
    Workspace,
    check_origin,
    recover,
    video_sha256,
    workspace_lock,
)
from maskora.config import Config, build_config, load_config, parse_size, render_config
from maskora.config.toml import with_preset
from maskora.errors import UserError
from maskora.files import digest_file, lies_in, remove, write_text
from maskora.frames import Frames, LazyFrames
from maskora.hub import find_file, find_local, is_hub_id
from maskora.models.files.model_files import resolve_base
from maskora.models.registry import FAMILIES, Grid, read_grid
from maskora.progress import track
from maskora.system import quoted
from maskora.video.fit import FramePlacement, auto_size, fit_image, place
from maskora.video.images import write_png
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames
from maskora.video.shots import ShotFinder

FEWEST, LONGEST = 5, 100_000  # frames of a clip
GRID_FILES = ["config.json", "vae/config.json", "transformer/config.json"]
Watch = Callable[[Iterable[np.ndarray], int], Iterable[np.ndarray]]


def with_a_bar(frames: Iterable[np.ndarray], total: int) -> Iterable[np.ndarray]:
    """Pass frames on, with a progress bar on the terminal."""
    return track(frames, "frames", total)


def prepare_workspace(
    video: Path,
    root: Path,
    mask: Path | None,
    box: str | None,
    base: Path | None,
    given: dict[str, Any],
    overrides: list[str],
    overwrite: bool,
    preset: str | None = None,
    watch: Watch = with_a_bar,
    follow: str | None = None,
) -> list[str]:
    """Write source/, masks/, edits/ (with a first frame, where a thing is removed), edit.toml.

    Args:
        mask, box: where the edit is; neither: it is clicked later (or mask.shape is "full").
        follow: what the box moves with: "background", or a point X,Y on a thing.
        given: settings from the command's own options, "table.key" -> value.
        overrides, preset: `--set` texts, and a method that they go before.
        watch: passes the frames on, and may show how many are through.

    Returns:
        what the person should know, a line each.

    Raises:
        UserError: any input is wrong; then nothing has been written.
    """
    workspace = Workspace.open(root)
    _check_target(workspace, [path for path in (video, mask) if path is not None], overwrite)
    config = _configuration(base, preset, given, overrides)
    config, info, grid, placement, notes = _placed(video, root, config)
    if config.mask.shape == "full" and (mask or box):
        notes.append('--mask and --box have no effect: [mask] shape is "full"')
    silhouettes_THW = given_silhouettes(mask, box, info, config, placement)
    followed = parse_follow(follow, box, config.motion.task)
    source = _source(info, config, placement, grid)
    with scaffold(workspace) as built:
        source = _write_source(built, info, source, watch)
        if followed and silhouettes_THW is not None:
            box_HW = silhouettes_THW[0] > 0
            silhouettes_THW, more = carry_box(built, box_HW, followed, config.tracker, source)
            notes += more
        share, mask_notes = _masks(built, silhouettes_THW, config, source)
        write_text(built.config, render_config(config, _header(root, video)))
    notes = [f"note: {note}" for note in (*notes, *mask_notes, *_shot_notes(workspace, source))]
    first_frame = None
    if silhouettes_THW is not None and config.motion.task == "remove":
        first_frame = make_first_frame(workspace, None, silhouettes_THW)
    return [*notes, *_next_steps(workspace, source, share, first_frame)]


def _placed(
    video: Path, root: Path, config: Config
) -> tuple[Config, VideoInfo, Grid, FramePlacement, list[str]]:
    """The video with the range and size that are used of it, and notes. Raises UserError."""
    info = probe(video, config.video.rate)
    config, notes = _fit_range(config, info)
    grid, more = _find_grid(config, root)
    size = _choose_size(config, info, grid)
    placement = place((info.width, info.height), size, config.video.fit)
    config = _with(config, "video", size=f"{size[0]}x{size[1]}")
    return config, info, grid, placement, [*info.notes, *notes, *more]


def _write_source(built: Workspace, info: VideoInfo, source: Source, watch: Watch) -> Source:
    """Write source/, and return its record with the shots that were found.

    Raises:
        UserError: the video is not the recorded one any more.
    """
    frames, finder = read_frames(info, source.start, source.frames, source.every), ShotFinder()
    for number, frame in enumerate(watch(frames, source.frames)):
        fitted_HWC = fit_image(frame, source.placement)
        write_png(built.source_frame(number), fitted_HWC)
        finder.add(fitted_HWC)
    check_origin(source)
    shots = tuple(ShotRecord(**asdict(change)) for change in finder.finish())
    source = Source.model_validate({**source.model_dump(), "shots": shots})
    files = [built.source_frame(number) for number in range(source.frames)]
    FrameRecord(digests=tuple(map(digest_file, files))).write(built.frame_record)
    built.write_source(source)
    return source


def _shot_notes(workspace: Workspace, source: Source) -> list[str]:
    """Where new shots begin, and what is to be done about them."""
    note = unedited_shots_note(workspace, source, edited=())
    return [f"{describe_shots(source)}; {note}"] if note else []


def _check_target(workspace: Workspace, inputs: list[Path], overwrite: bool) -> None:
    """The folder can become a workspace. Raises UserError where anything would be lost.

    Args:
        inputs: the video and the masks, which must not lie where they would be replaced.
        overwrite: an existing workspace may be prepared anew.
    """
    recover(workspace)
    root = workspace.root
    blocking = next((path for path in [root, *root.parents] if path.exists()), None)
    if blocking is not None and not blocking.is_dir():
        raise UserError(f"{root}: {blocking} is a file, not a folder")
    if workspace.config.exists() and not overwrite:
        raise UserError(
            f"{root} is a workspace already; choose another folder, or add --overwrite to prepare "
            f"it anew (edits/ stay; source/, masks/, clicks, candidates/ and "
            f"edit.toml are replaced)"
        )
    records = {
        workspace.source_dir: workspace.source_record,
        workspace.masks_dir: workspace.mask_record,
    }
    for folder, record in records.items():
        ours = overwrite and record.is_file() and not folder.is_symlink()
        if (folder.exists() or folder.is_symlink()) and not ours:
            raise UserError(f"{folder} is there and was not made by prepare: choose another folder")
    replaced = (workspace.tracking_dir, workspace.candidates_dir, workspace.results_dir)
    for folder in (*records, *replaced):
        for path in inputs:
            if lies_in(path, folder):
                raise UserError(f"{path} lies in {folder}, which is replaced: move it elsewhere")
    if workspace.edits_dir.exists() and not workspace.edits_dir.is_dir():
        raise UserError(f"{workspace.edits_dir} is a file; edited frames go into a folder there")


@contextmanager
def scaffold(workspace: Workspace) -> Iterator[Workspace]:
    """Yield a scratch workspace to fill; on success it becomes the workspace, whose edits/ stay.

    Raises:
        UserError: another program has the workspace open, or works in it.
    """
    root = workspace.root
    made, was_prepared = not root.exists(), workspace.config.exists()
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as undo:
        with workspace_lock(workspace):
            if workspace.config.exists() and not was_prepared:
                raise UserError(f"{root} was just prepared by another program: nothing is changed")
            if not was_prepared:
                locks = (workspace.lock, workspace.work_lock)
                undo.callback(unmake, workspace, *((root,) if made else locks))
            parts = [workspace.masks_dir, workspace.tracking_dir]  # these may come later
            if was_prepared:
                parts.append(workspace.candidates_dir)  # of frames that are others now
            with exchange(root, dropping=[part.name for part in parts]) as scratch:
                built = Workspace(scratch)
                yield built
                built.config.stat()  # without it there is nothing to exchange
                if not workspace.edits_dir.exists():
                    undo.callback(unmake, workspace, workspace.edits_dir)
                    workspace.edits_dir.mkdir()
        undo.pop_all()


def unmake(workspace: Workspace, *made: Path) -> None:
    """Remove what was made for a workspace, unless it stands: then what failed came after it."""
    if not workspace.config.exists():
        for path in made:
            remove(path)


def _masks(
    built: Workspace, silhouettes_THW: Frames | None, config: Config, source: Source
) -> tuple[float | None, tuple[str, ...]]:
    """Write the masks where the edit's place is known: their share of the picture, and notes."""
    if silhouettes_THW is None:
        empty_HW = np.zeros(source.size[::-1], np.uint8)
        draw_overview(built, LazyFrames(lambda _: empty_HW, (source.frames, *empty_HW.shape)))
        return None, ()
    labels_THW, notes = build_masks(built, silhouettes_THW, config.mask, source)
    return share_inside(labels_THW), notes


def _configuration(
    base: Path | None, preset: str | None, given: dict[str, Any], overrides: list[str]
) -> Config:
    """Settings of the base, the preset, the options and `--set`, of which the last wins.

    Local paths become absolute.
    """
    tables = with_preset((load_config(base) if base else Config()).model_dump(), preset)
    for name, value in given.items():
        table, _, key = name.partition(".")
        tables[table][key] = value
    config = build_config(tables, overrides, "the given options")
    home = base.parent if base else Path()
    for table, key in (("model", "path"), ("tracker", "checkpoint"), ("caption", "model")):
        named = getattr(getattr(config, table), key)
        if named and (local := _local(named, home)):
            config = _with(config, table, **{key: local})
    loras = tuple(
        item.model_copy(update={"path": str((home / item.path).resolve())})
        if (home / item.path).is_file()
        else item
        for item in config.inference.loras
    )
    files = {part: str(find_file(path, home) or path) for part, path in config.model.files.items()}
    return _with(_with(config, "model", files=files), "inference", loras=loras)


def _local(path: str, home: Path) -> str | None:
    """A folder's or a file's absolute path; None where the text names neither."""
    file = home / Path(path).expanduser()
    folder = file.resolve() if file.is_file() else find_local(path, home)
    return str(folder) if folder else None


def _with(config: Config, table: str, **values: Any) -> Config:
    changed = getattr(config, table).model_copy(update=values)
    return config.model_copy(update={table: changed})


def _fit_range(config: Config, info: VideoInfo) -> tuple[Config, list[str]]:
    """As many frames as the clip has, where that is fewer than asked for; and notes."""
    video = config.video
    available = len(range(video.start, info.frames, video.every))
    if available < FEWEST:
        raise UserError(
            f"{info.path} has {info.frames} frames; from frame {video.start}, every "
            f"{video.every}, that leaves {available}, and {FEWEST} are the fewest that work"
        )
    frames = available if video.frames == "all" else min(video.frames, available)
    if frames > LONGEST:
        raise UserError(
            f"{info.path}: {frames} frames are asked for, and a workspace holds {LONGEST} at most: "
            f"take a part, with --start and --frames"
        )
    notes = []
    if video.frames not in ("all", frames):
        notes.append(
            f"{frames} frames are used instead of {video.frames}: from frame {video.start} on the "
            f"clip has no more"
        )
    last = video.start + (frames - 1) * video.every
    if video.start or last + video.every < info.frames:
        notes.append(
            f"frames {video.start} to {last} of 0 to {info.frames - 1} are used; "
            f"the rest is left out"
        )
    return _with(config, "video", frames=frames), notes


def _find_grid(config: Config, root: Path) -> tuple[Grid, list[str]]:
    """The base's grid: from its own files, or as published where they cannot be had yet."""
    family = config.model.family
    try:
        return read_grid(family, resolve_base(config.model, root, GRID_FILES)), []
    except UserError as error:
        if not is_hub_id(config.model.path):
            raise
        grid = FAMILIES[family].grid
        note = f"{error} Until then the published grid of {family} counts: {grid.multiple} pixels."
        return grid, [note]


def _choose_size(config: Config, info: VideoInfo, grid: Grid) -> tuple[int, int]:
    """The workspace's (width, height): as set and on the grid, or by the clip's aspect."""
    if config.video.is_auto:
        return auto_size(info.width, info.height, grid.multiple, config.video.area)
    width, height = parse_size(config.video.size)
    if width % grid.multiple or height % grid.multiple:
        near = [max(1, round(side / grid.multiple)) * grid.multiple for side in (width, height)]
        raise UserError(
            f"[video] size: {width}x{height} is not on the model's grid of {grid.multiple} pixels; "
            f"the nearest is {near[0]}x{near[1]}"
        )
    return width, height


def _source(info: VideoInfo, config: Config, placement: FramePlacement, grid: Grid) -> Source:
    return Source(
        origin=str(info.path.resolve()),
        origin_sha256=video_sha256(info.path),
        origin_frames=info.frames,
        start=config.video.start,
        every=config.video.every,
        frames=config.video.count,
        fps=str(Fraction(info.fps) / config.video.every),
        original_size=(info.width, info.height),
        size=placement.size,
        cell=grid.cell,
        fit=config.video.fit,
        region=placement.region,
    )


def _header(root: Path, video: Path) -> str:
    name = "".join(letter if letter.isprintable() else "?" for letter in video.name)
    config = quoted(root / "edit.toml")
    return (
        f"One edit of {name}. Every setting is here, each with its meaning.\n"
        f"  python train.py --config {config}\n"
        f"  python infer.py --config {config}"
    )


def _next_steps(
    workspace: Workspace, source: Source, share: float | None, first_frame: str | None
) -> list[str]:
    """What was prepared, and what comes next.

    Args:
        share: of the picture inside the mask; None where there is no mask yet.
        first_frame: about the edited one, where it was made here.
    """
    width, height = source.size
    made = f"{source.frames} frames of {width}x{height} at {float(source.rate):.3f} fps"
    root = quoted(workspace.root)
    if share is None:
        return [
            f"{workspace.root}: {made}; where the edit is, is not said yet",
            f"click    maskora gui {root}",
            f"or       maskora track {root} --click {quoted('FRAME,X,Y,+')}   "
            f"(pixels of the original)",
        ]
    edited = workspace.edits_dir / "00000.png"
    by_hand = f"edit     {workspace.source_frame(0)}, inside the box, and save it as {edited}"
    return [
        f"{workspace.root}: {made}, {share:.0%} of the picture inside the mask",
        f"look at  {workspace.overview}",
        f"look at  {first_frame}" if first_frame else by_hand,
        f"then     python train.py --config {quoted(workspace.config)}",
    ]
