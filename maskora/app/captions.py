"""Captions: what a person has written, else what the captioner says, kept by the picture."""

import logging
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

from maskora.app.workspace import Workspace, caption_beside
from maskora.caption import KEY, TASK, Captioner, check_folder, open_captioner
from maskora.config import Config
from maskora.errors import UserError
from maskora.files import digest, read_small, remove, write_text
from maskora.hub import find_local, is_hub_id
from maskora.video.images import read_image

FORMAT = "1"
DIGEST = ".sha256"  # of a caption, beside it; those of earlier versions have none
log = logging.getLogger("maskora")


def settle_captions(
    config: Config, workspace: Workspace, images: Iterable[Path]
) -> dict[Path, str]:
    """The caption of each image: its .txt, else the key of [prompt], else the captioner's.

    The captioner is loaded once for all that is missing, and not at all where nothing is.

    Args:
        images: source/00000.png or edited frames.

    Raises:
        UserError: a caption is missing, and there is no captioner to write it; or what it wrote
            was changed.
    """
    given = {image: _given(config, workspace, image) for image in images}
    left = [image for image, text in given.items() if text is None]
    written = write_captions(config, workspace, left)
    return {image: text or written[image] for image, text in given.items()}


def source_caption(workspace: Workspace, config: Config) -> str:
    """The caption of the source's first frame."""
    image = workspace.source_frame(0)
    return settle_captions(config, workspace, [image])[image]


def write_captions(config: Config, workspace: Workspace, images: Iterable[Path]) -> dict[Path, str]:
    """The captioner's captions of some images, whatever a person has written about them.

    It is loaded once, for those which it has not seen yet. No .txt is written.

    Raises:
        UserError: an image cannot be read, there is no captioner, it finds no words, or what it
            wrote was changed.
    """
    texts = {image: _remembered(config, workspace, image) for image in images}
    missing = [image for image, text in texts.items() if text is None]
    written = {image: text for image, text in texts.items() if text is not None}
    if missing:
        _check_captioner(config, workspace, missing[0])
        with ExitStack() as stack:
            try:
                caption = stack.enter_context(open_captioner(config.caption.model, workspace.root))
            except UserError as error:
                advice = _advice(workspace, missing[0])
                raise UserError(f"{str(error).rstrip('.')}, {advice}") from None
            for image in missing:
                written[image] = _write(caption, config, workspace, image)
    return written


def foresee_caption(config: Config, workspace: Workspace, image: Path) -> str | None:
    """A line about the captioner's part in an image's caption, or None; loads nothing.

    Raises:
        UserError: the caption is missing, and there is no captioner to write it.
    """
    if _given(config, workspace, image) is not None:
        return None
    text = _remembered(config, workspace, image)
    if text is not None:
        return f'caption of {image}: "{text}" (by {config.caption.model})'
    _check_captioner(config, workspace, image)
    return f"caption of {image}: {config.caption.model} will write it"


def _given(config: Config, workspace: Workspace, image: Path) -> str | None:
    """The caption that a person has written; None where it is left to the captioner."""
    key, what = _place(workspace, image)
    text: str = caption_beside(image) or getattr(config.prompt, key)
    if not text.strip():
        raise UserError(f'[prompt] {key} is empty: say what {what} shows, or set it to "auto"')
    return None if text == "auto" else text


def _place(workspace: Workspace, image: Path) -> tuple[str, str]:
    """The key of [prompt] that speaks of an image, and what the image is."""
    is_source = image == workspace.source_frame(0)
    return ("caption", "the source") if is_source else ("edited_caption", "the edited frame")


def _check_captioner(config: Config, workspace: Workspace, image: Path) -> None:
    """Check what can be known of the captioner without asking the hub. Raises UserError."""
    model, advice = config.caption.model, _advice(workspace, image)
    if model == "none":
        key, _ = _place(workspace, image)
        raise UserError(
            f'[prompt] {key} is "auto", and {KEY} is "none": name a captioner there (a local '
            f"folder or a hub id), {advice}"
        )
    try:
        if folder := find_local(model, workspace.root):
            check_folder(folder)
        elif not is_hub_id(model):
            raise UserError(f"{KEY}: {model!r} is neither a folder nor a hub id (owner/name)")
    except UserError as error:
        raise UserError(f"{error}, {advice}") from None


def _advice(workspace: Workspace, image: Path) -> str:
    """A sentence about doing without the captioner."""
    key, what = _place(workspace, image)
    return (
        f"or say yourself what {what} shows, either in {image.with_suffix('.txt')} or as "
        f'{key} = "…" in edit.toml'
    )


def _write(caption: Captioner, config: Config, workspace: Workspace, image: Path) -> str:
    """Have one caption written, keep it and log it."""
    text = caption(read_image(image))
    if not text:
        advice = _advice(workspace, image)
        raise UserError(f"{config.caption.model} finds no words for {image}: change it, {advice}")
    path = _file(config, workspace, image)
    write_text(path.with_suffix(DIGEST), digest(text))
    write_text(path, text)
    log.info('caption of %s: "%s"', image, text)
    return text


def _remembered(config: Config, workspace: Workspace, image: Path) -> str | None:
    """The captioner's earlier caption of this very picture; a file that is none counts as absent.

    Raises:
        UserError: it says something else than the captioner did.
    """
    path = _file(config, workspace, image)
    beside = path.with_suffix(DIGEST)
    if not path.exists():
        return None
    try:
        text = " ".join(read_small(path).decode("utf-8-sig").split())
        written = read_small(beside).decode() if beside.exists() else digest(text)
    except (IsADirectoryError, UnicodeDecodeError):
        text = written = ""
    if not text or not written:
        log.warning("note: %s is damaged, and is written again", path)
        for damaged in (path, beside):
            remove(damaged)
        return None
    if written != digest(text):
        raise UserError(
            f"{path} is not what {config.caption.model} wrote: it was changed by hand, or damaged. "
            f"Remove it, and it is written again, {_advice(workspace, image)}"
        )
    return text


def _file(config: Config, workspace: Workspace, image: Path) -> Path:
    """The file of a caption, named by the captioner as it is configured and by the pixels."""
    picture_HWC = read_image(image)
    shape = str(picture_HWC.shape)
    name = digest(FORMAT, TASK, config.caption.model, shape, picture_HWC.tobytes())
    return workspace.captions_dir / f"{name}.txt"
