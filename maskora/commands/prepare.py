"""prepare: a video and a mask become a workspace, whole or not at all."""

import shutil
import tempfile
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from maskora.commands.masks import build_masks, silhouettes
from maskora.config import Config, build_config, load_config, parse_size, render_config
from maskora.errors import UserError
from maskora.files import write_text
from maskora.models import Grid, read_grid
from maskora.models.folder import locate
from maskora.video.fit import Placement, auto_size, fit_image, place
from maskora.video.images import write_png
from maskora.video.overview import contact_sheet
from maskora.video.probe import VideoInfo, probe
from maskora.video.read import read_frames
from maskora.workspace import Source, Workspace

# Published grid of each family, for machines that do not have the model's files yet; training and
# inference check the size against the files themselves.
PUBLISHED_GRIDS = {"wan2.1-i2v": Grid(cell=8, patch=2, temporal=4)}
OVERVIEW_FRAMES, FEWEST = 12, 5


def prepare_workspace(
    video: Path,
    root: Path,
    mask: Path | None,
    box: str | None,
    base: Path | None,
    given: dict[str, Any],
    overrides: list[str],
    overwrite: bool,
) -> None:
    """Write source/, masks/, an empty edits/ and edit.toml.

    Args:
        mask, box: where the edit is; one of the two (neither with mask.shape = "full").
        given: settings from the command's own options, "table.key" -> value.
        overrides: `--set` texts.

    Raises:
        UserError: any input is wrong; then nothing has been written.
    """
    workspace = Workspace(root)
    if workspace.config.exists() and not overwrite:
        raise UserError(
            f"{root} is a workspace already; choose another folder, or add --overwrite to prepare "
            f"it anew (edits/ stay, source/, masks/ and edit.toml are replaced)"
        )
    if root.exists() and not root.is_dir():
        raise UserError(f"{root} is a file; the workspace is a folder")
    config = _configuration(base, given, overrides)
    info = probe(video)
    notes = list(info.notes)
    config, more = fit_range(config, info, explicit="video.frames" in given)
    notes += more
    grid, more = find_grid(config, root)
    notes += more
    size = choose_size(config, info, grid)
    placement = place((info.width, info.height), size, config.video.fit)
    labels = silhouettes(mask, box, info, config, placement)
    source = _source(info, config, placement, grid)
    config = config.model_copy(
        update={"video": config.video.model_copy(update={"size": f"{size[0]}x{size[1]}"})}
    )
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=".prepare-") as scratch:
        built = Workspace(Path(scratch))
        shown = _write_frames(built, info, source, placement)
        labels_THW, more = build_masks(built, np.stack(labels), config.mask, source)
        notes += more
        numbers = sorted(shown)
        sheet = contact_sheet(
            [shown[n] for n in numbers], [labels_THW[n] for n in numbers], captions=numbers
        )
        write_png(built.overview, sheet)
        built.write_source(source)
        write_text(built.config, render_config(config, _header(root, video)))
        _move_in(built, workspace)
    _tell(workspace, source, labels_THW, notes)


def _configuration(base: Path | None, given: dict[str, Any], overrides: list[str]) -> Config:
    config = load_config(base) if base else Config()
    if base and (base.parent / config.model.path).is_dir():
        path = str((base.parent / config.model.path).resolve())
        config = config.model_copy(update={"model": config.model.model_copy(update={"path": path})})
    tables = config.model_dump()
    for name, value in given.items():
        table, _, key = name.partition(".")
        tables[table][key] = value
    return build_config(tables, overrides, "the given options")


def fit_range(config: Config, info: VideoInfo, explicit: bool) -> tuple[Config, tuple[str, ...]]:
    """Fewer frames where the clip is shorter than asked for: the largest 4k+1 that it has."""
    video = config.video
    available = len(range(video.start, info.frames, video.every))
    if available < FEWEST:
        raise UserError(
            f"{info.path} has {info.frames} frames; from frame {video.start}, every "
            f"{video.every}, that leaves {available}, and {FEWEST} are the fewest that work"
        )
    frames = min(video.frames, (available - 1) // 4 * 4 + 1)
    notes = []
    if frames < video.frames:
        wish = "asked for" if explicit else "usual"
        notes.append(
            f"{frames} frames are used: of the {video.frames} {wish}, the clip has "
            f"{available} from frame {video.start} on, and the number must be 4k+1"
        )
    last = video.start + (frames - 1) * video.every
    if video.start or last < info.frames - 1:
        notes.append(
            f"frames {video.start} to {last} of 0 to {info.frames - 1} are used; "
            f"the rest is left out"
        )
    update = {"video": video.model_copy(update={"frames": frames})}
    return config.model_copy(update=update), tuple(notes)


def find_grid(config: Config, root: Path) -> tuple[Grid, tuple[str, ...]]:
    """The base's grid: from its own files, or as published where they are not here yet."""
    try:
        folder = locate(config.model.path, root, ["vae/config.json", "transformer/config.json"])
    except UserError as error:
        if "/" not in config.model.path or Path(config.model.path).is_absolute():
            raise
        grid = PUBLISHED_GRIDS[config.model.family]
        return grid, (
            f"{error} For now the published grid of {config.model.family} is used "
            f"(multiples of {grid.multiple}).",
        )
    return read_grid(config.model.family, folder), ()


def choose_size(config: Config, info: VideoInfo, grid: Grid) -> tuple[int, int]:
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


def _source(info: VideoInfo, config: Config, placement: Placement, grid: Grid) -> Source:
    return Source(
        origin=str(info.path.resolve()),
        start=config.video.start,
        every=config.video.every,
        frames=config.video.frames,
        fps=str(Fraction(info.fps) / config.video.every),
        original_size=(info.width, info.height),
        size=placement.size,
        cell=grid.cell,
        fit=config.video.fit,
        region=placement.region,
    )


def _write_frames(
    built: Workspace, info: VideoInfo, source: Source, placement: Placement
) -> dict[int, np.ndarray]:
    """Write the fitted frames; answer those for the overview."""
    count = min(OVERVIEW_FRAMES, source.frames)
    wanted = {int(n) for n in np.linspace(0, source.frames - 1, count).round()}
    shown = {}
    for number, frame in enumerate(read_frames(info, source.start, source.frames, source.every)):
        fitted = fit_image(frame, placement)
        write_png(built.source_frame(number), fitted)
        if number in wanted:
            shown[number] = fitted
    return shown


def _move_in(built: Workspace, workspace: Workspace) -> None:
    """Put the finished parts in place; edit.toml last, as the sign that all is there."""
    workspace.root.mkdir(exist_ok=True)
    for new, old in (
        (built.source_dir, workspace.source_dir),
        (built.masks_dir, workspace.masks_dir),
    ):
        if old.exists():
            shutil.rmtree(old)
        new.replace(old)
    workspace.edits_dir.mkdir(exist_ok=True)
    built.config.replace(workspace.config)


def _header(root: Path, video: Path) -> str:
    return (
        f"One edit of {video.name}. Every setting is here, each with its meaning.\n"
        f"  python train.py --config {root}/edit.toml\n"
        f"  python infer.py --config {root}/edit.toml"
    )


def _tell(workspace: Workspace, source: Source, labels_THW: np.ndarray, notes: list[str]) -> None:
    width, height = source.size
    share = float(np.mean(labels_THW > 0))
    for note in notes:
        print(f"note: {note}")
    print(
        f"{workspace.root}: {source.frames} frames of {width}x{height} at "
        f"{float(source.rate):.3f} fps, {share:.0%} of the picture inside the mask"
    )
    print(f"look at  {workspace.overview}")
    print(
        f"edit     {workspace.source_frame(0)}, inside the box, and save it as "
        f"{workspace.edits_dir / '00000.png'}"
    )
    print(f"then     python train.py --config {workspace.config}")
