"""gui: start the window, within the limits that the person sets."""

import socket
from pathlib import Path

from maskora.app.workspace import Workspace
from maskora.errors import UserError
from maskora.files import IMAGE_SUFFIXES
from maskora.video.untrusted import Limits


def start_gui(
    workspace: Path | None, host: str, port: int, allow: list[Path], limits: Limits, browser: bool
) -> None:
    """Serve the window until Ctrl-C.

    Args:
        workspace: to begin with; its folder, and its video's, may be used.
        allow: further folders that the page may use; the current one always may.

    Raises:
        UserError: the gui extra is not installed, the workspace is none, or the port is taken.
    """
    allowed = [Path.cwd(), *(folder.resolve() for folder in allow)]
    if missing := [str(folder) for folder in allow if not folder.is_dir()]:
        raise UserError(f"--allow {', '.join(missing)}: no such folder")
    if workspace is not None:
        origin = Path(Workspace.open(workspace).read_source().origin)
        allowed += [workspace.resolve(), *_video_of(origin)]
    try:
        from gui_mask.server import serve
    except ModuleNotFoundError as error:
        if error.name not in ("gradio", "fastapi", "uvicorn"):
            raise
        raise UserError(
            'the window needs the gui extra: pip install -e ".[gui]" -c constraints.txt'
        ) from None
    _check_port(host, port)
    first = "" if workspace is None else str(workspace.resolve())
    serve(first, host, port, list(dict.fromkeys(allowed)), limits, browser)


def _video_of(origin: Path) -> list[Path]:
    """The workspace's own video: a file, or a folder of images and nothing wider."""
    if origin.is_dir() and not any(p.suffix.lower() in IMAGE_SUFFIXES for p in origin.iterdir()):
        return []
    return [origin] if origin.exists() else []


def _check_port(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as trial:
        # On Windows, SO_REUSEADDR would share the port with whoever has it.
        sharing = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        trial.setsockopt(socket.SOL_SOCKET, sharing, 1)
        try:
            trial.bind((host, port))
        except OSError as error:
            raise UserError(
                f"{host}:{port} cannot be listened on ({error.strerror}): name another with --port"
            ) from None
