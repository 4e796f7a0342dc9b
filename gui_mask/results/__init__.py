"""What came of the work, as HTML: previews in a row, the newest clip, its versions, the queue.

What is pressed in it is answered by `act`, with plain data; an error among them.
"""

import html
import time
from importlib.resources import files
from pathlib import Path
from typing import Any

from gui_mask import jobs, words
from gui_mask.errors import caught
from gui_mask.session import Session
from gui_mask.state import AppState
from gui_mask.waiting import Queue, read_queue
from maskora.app.edit_frame import take_result
from maskora.app.retouching import FrameEdit
from maskora.app.versions import (
    Version,
    disk_use,
    find_versions,
    remove_version,
    set_star,
)
from maskora.app.workspace import PREVIEW_NAME
from maskora.errors import UserError


def script(name: str) -> str:
    """A file beside this one, as text."""
    return files(__name__).joinpath(name).read_text(encoding="utf-8")


def act(state: AppState, request: dict[str, Any]) -> dict[str, Any]:
    """Do what was pressed; what went wrong comes back as "error"."""
    with caught() as problem:
        session = state.session(str(request.get("token")))
        _do(state, session, request)
    return {"error": problem.text} if problem.text else {}


def _do(state: AppState, session: Session, request: dict[str, Any]) -> None:
    name, edit = request.get("name"), str(request.get("edit") or "") or None
    if name == "withdraw":
        ticket = str(request.get("ticket"))
        found = [one for one in read_queue().waiting if one.name == ticket]
        for one in found:
            state.guard.check(one.root)
            jobs.withdraw(one.name)
        return
    version = _number(request, "version") or None
    _check_shown(session, edit, version, _number(request, "made"))
    if name == "star":
        set_star(session.workspace, edit, version, request.get("on") is True)
    elif name == "remove" and version is not None:
        remove_version(session.workspace, edit, version)
    elif name == "wrong":
        frame = _number(request, "frame")
        take_result(FrameEdit(session.workspace, session.config, edit, frame), version)
    else:
        raise UserError(f"the page asked for {name!r}, which is nothing: load it again")


def _check_shown(session: Session, edit: str | None, number: int | None, made: int) -> None:
    """Raises UserError: since a page was drawn, the version has become another one, or has gone."""
    versions = find_versions(session.workspace, edit)
    if not any((one.number, _stamp(one)) == (number, made) for one in versions):
        raise UserError(words.OTHER_VERSION)


def _stamp(version: Version) -> int:
    """What tells a version from another one in the same place."""
    return int(version.made * 1000)


def _number(request: dict[str, Any], key: str) -> int:
    value = request.get(key)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise UserError(f"the page sent no whole number as {key}: load it again")
    return value


def previews_html(session: Session, edit: str) -> str:
    """The clips that were made while training, each with its step; empty where there are none."""
    width, height = session.source.size
    clips = []
    for path in session.workspace.previews(edit or None):
        named = PREVIEW_NAME.fullmatch(path.name)
        assert named is not None
        link = (
            f"maskora/{session.token}/previews/{path.name}?edit={edit}&at={path.stat().st_mtime_ns}"
        )
        clips.append(
            f'<figure><video src="{link}" loop muted autoplay playsinline '
            f'style="aspect-ratio: {width} / {height}"></video>'
            f"<figcaption>{words.after_step(named[1], int(named[2]))}</figcaption></figure>"
        )
    if not clips:
        return ""
    return f'<h4>{words.WHILE_TRAINING}</h4><div class="previews">{"".join(clips)}</div>'


def result_html(session: Session, edit: str) -> str:
    """An edit's newest clip, fetched from the workspace; its time makes the browser fetch anew."""
    with caught() as problem:
        if (result := jobs.result(session.workspace, edit or None)) is not None:
            versions = find_versions(session.workspace, edit or None)
            return _clip(session, result, edit, versions)
    return html.escape(problem.text)


def _clip(session: Session, result: Path, edit: str, versions: list[Version]) -> str:
    stat, token = result.stat(), session.token
    further = ("comparison.mp4", "strip.png") if result.name == "edited.mp4" else ()
    there = [name for name in further if result.with_name(name).is_file()]
    links = {
        name: f"maskora/{token}/output/{name}?edit={edit}&at={stat.st_mtime_ns}"
        for name in (result.name, *there)
    }
    title = html.escape(words.result_of(edit or None, _when(stat.st_mtime)))
    shown = f'<video controls loop muted autoplay style="width: 100%" src="{links[result.name]}">'
    anchors = [f'<a href="{link}" download>{name}</a>' for name, link in links.items()]
    folder = html.escape(str(result.parent))
    below = f"<p>{' &nbsp; '.join(anchors)} &nbsp; in {folder}</p>"
    return (
        f'<div class="results" data-token="{token}" data-edit="{edit}">'
        f"<h4>{title}</h4>{shown}</video>{_compared(session, edit, versions)}{below}"
        f'<p class="note" role="alert"></p>{_versions(session, versions)}</div>'
    )


def _compared(session: Session, edit: str, versions: list[Version]) -> str:
    """Two pictures of the clip under a line that is moved, beside each other, or their difference.

    A version's comparison.mp4 has source, mask and edit, so that one video keeps both in step.
    """
    clips = [one for one in reversed(versions) if (one.folder / "comparison.mp4").is_file()]
    if not clips:
        return ""
    options = "".join(
        f'<option value="{one.number or 0}" data-made="{_stamp(one)}" '
        f'data-src="{_link(session, edit, one)}">'
        f"{html.escape(version_name(one, versions))}</option>"
        for one in clips
    )
    source, rate = session.source, float(session.source.rate)
    views = "".join(f'<option value="{key}">{name}</option>' for key, name in words.VIEWS)
    return (
        f'<details class="compare" data-rate="{rate}" data-count="{source.frames}">'
        f"<summary>{words.COMPARE}</summary>"
        f'<div class="bar"><label>{words.LEFT}<select data-side="left">'
        f'<option value="">{words.THE_VIDEO}</option>{options}</select></label>'
        f'<label>{words.RIGHT}<select data-side="right">{options}</select></label>'
        f"<label>{words.VIEW}<select data-view>{views}</select></label></div>"
        '<video class="left" loop muted playsinline hidden preload="none"></video>'
        '<video class="right" loop muted playsinline hidden preload="none"></video>'
        "<canvas></canvas>"
        f"<label>{words.EDGE}<input type=range min=0 max=100 step=0.1 value=50></label>"
        f"<label>{words.TIME}<input type=range min=0 max={source.frames - 1} step=1 value=0>"
        '<output class="frame">0</output></label>'
        f'<button type="button" data-wrong title="{words.WRONG_HINT}">{words.WRONG}</button>'
        "</details>"
    )


def _link(session: Session, edit: str, version: Version) -> str:
    number = "" if version.number is None else version.number
    return (
        f"maskora/{session.token}/output/comparison.mp4?edit={edit}&version={number}"
        f"&at={_stamp(version)}"
    )


def version_name(version: Version, versions: list[Version]) -> str:
    """A version's place in the order of their making."""
    return words.version(versions.index(version) + 1, version.number is None)


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _versions(session: Session, versions: list[Version]) -> str:
    """The versions, the newest first, and what the project takes of the disk."""
    items = "".join(_version(one, versions) for one in reversed(versions))
    use = {name: size for name, size in disk_use(session.workspace).items() if size}
    total = html.escape(words.disk(use))
    heading = f"<h4>{words.VERSIONS}</h4>" if versions else ""
    return f'{heading}<ol class="versions">{items}</ol><p class="disk">{total}</p>'


def _version(version: Version, versions: list[Version]) -> str:
    changes = "; ".join(version.changes) or version.settings
    shown = words.changed(changes) if version.changes else changes
    star = words.UNSTAR if version.starred else words.STAR
    remove = ""
    if version.number is not None:
        remove = (
            f'<button type="button" data-remove="{words.REMOVE_SURE}">{words.REMOVE}'
            f" ({words.size(version.nbytes)})</button>"
        )
    can = (version.folder / "comparison.mp4").is_file()
    show = f'<button type="button" data-show>{words.COMPARE_IT}</button>' if can else ""
    return (
        f'<li data-version="{version.number or 0}" data-made="{_stamp(version)}">'
        f'<button type="button" class="star" data-star="{int(not version.starred)}" '
        f'aria-pressed="{str(version.starred).lower()}" title="{star}" aria-label="{star}">'
        f"{'★' if version.starred else '☆'}</button>"
        f"<div><b>{html.escape(version_name(version, versions))}, {_when(version.made)}</b>"
        f"<span>{html.escape(shown)}</span></div>{show}{remove}</li>"
    )


def queue_html(state: AppState, session: Session, queue: Queue) -> str:
    """Who works and who waits, in order; folders that the page may not use are not named."""
    if not queue.waiting:
        return ""
    items = []
    if queue.latest is not None:
        items.append(f"<li>{_named(state, queue.latest)} <span>{words.WORKS_NOW}</span></li>")
    for ticket in queue.waiting:
        work = words.WORKS[ticket.what] + (f" ({ticket.edit})" if ticket.edit else "")
        leave = (
            f'<button type="button" data-token="{session.token}" data-ticket="{ticket.name}">'
            f"{words.LEAVE}</button>"
        )
        shown = leave if _may_use(state, ticket.root) else ""
        items.append(
            f"<li>{_named(state, ticket.root)} <span>{html.escape(work)}</span>{shown}</li>"
        )
    return f'<h4>{words.QUEUE}</h4><ol class="queue">{"".join(items)}</ol>'


def _named(state: AppState, root: Path) -> str:
    name = root.name if _may_use(state, root) else words.ANOTHER
    return f"<b>{html.escape(name)}</b>"


def _may_use(state: AppState, root: Path) -> bool:
    with caught() as hidden:
        state.guard.check(root)
    return not hidden.text
