"""What an edit in a line is made from, by content: whether it is the same as before."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import maskora
from maskora.app.edit_line import EditLine, files_in, parse_edit_line, split_words, words_of
from maskora.app.first_frame import made_first_frame
from maskora.app.masking import masks_are_by_hand
from maskora.app.remembered import known_sha256
from maskora.app.remote import find_version, is_remote, printable_url
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES, digest, is_hidden


def input_files(words: Sequence[str]) -> list[Path]:
    """Every file of this machine that a line of `maskora edit` names to be read."""
    return [path for path in files_in(*_named(words)) if path.is_file()]


def _named(words: Sequence[str]) -> list[str]:
    positional, given = split_words(words)
    named = [*positional[:-1][:1], *positional[-2:-1], *given["--mask"], *given["--base"]]
    named += [text.partition("=")[2] for text in given["--keyframe"]]
    return named + [text for text in given["--preset"] if text.endswith(".toml")]


def inputs_digest(words: Sequence[str]) -> str:
    """The content name of what a job is made from: its line, and the content of its files.

    Of what lies in a store it is what the store says of the content. Where copies of it are kept
    does not count.

    Raises:
        UserError: a file in a store is not there; or the line names a workspace in place of a
            video, and that is none.
        Fault: a store does not answer.
    """
    positional, given = split_words(words)
    line = positional + words_of(given, *(name for name in given if name != "--scratch"))
    found = [known_sha256(file) for file in sorted(input_files(line))]
    found += map(_version, filter(is_remote, _named(line)))
    if len(positional) == 1:
        found += workspace_contents(parse_edit_line(line))
    return digest(maskora.__version__, *line, *found)


def _version(url: str) -> str:
    """As of `find_version`. Raises UserError where nothing is there."""
    if (version := find_version(url)) is None:
        raise UserError(f"no such file: {printable_url(url)}")
    return version


def workspace_contents(line: EditLine) -> Iterator[str]:
    """The files of a workspace that a line in it begins with: name and content of each.

    What the line itself makes there is left out, so that a run does not change it: edits that it
    places, a first frame that a removal makes, and masks that are made of silhouettes or clicks.

    Raises:
        UserError: it is no prepared workspace.
    """
    workspace, root = line.workspace, line.workspace.root
    source = workspace.read_source()
    placed = {path for frame in line.edits for path in workspace.edited_files(None, frame)}
    if made_first_frame(workspace, None):
        placed.update(workspace.edited_files(None, 0))
    edits = sorted(path for path in workspace.edits_dir.glob("*") if path not in placed)
    count = range(source.frames)
    finals, raws = [[path(n) for n in count] for path in (workspace.mask, workspace.silhouette)]
    by_hand = masks_are_by_hand(workspace, source)
    masks = finals if by_hand or not all(path.is_file() for path in raws) else raws
    if line.clicks and not by_hand:
        masks = []
    frames = [workspace.source_frame(number) for number in count]
    for path in (workspace.config, workspace.source_record, *frames, *masks, *edits):
        if path.is_file() and not is_hidden(path):
            yield f"{path.relative_to(root).as_posix()} {known_sha256(path)}"
    origin = Path(source.origin)  # of a folder its pictures alone: a stranger may have named it
    pictures = sorted(origin.iterdir()) if origin.is_dir() else []
    for path in [origin, *(one for one in pictures if one.suffix.lower() in IMAGE_SUFFIXES)]:
        if path.is_file():
            yield known_sha256(path)
