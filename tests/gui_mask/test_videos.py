"""An uploaded video is kept with its workspace, and goes where there is none."""

from fractions import Fraction
from pathlib import Path

import pytest

from gui_mask.videos import OpenedVideo, keep_upload
from maskora.app.workspace import Workspace
from maskora.video.probe import probe
from maskora.video.write import write_mp4
from tests.ball import draw_frame


@pytest.fixture
def upload(tmp_path: Path) -> OpenedVideo:
    video = tmp_path / "upload.mp4"
    write_mp4(video, (draw_frame(n, (60, 120, 220)) for n in range(2)), Fraction(16))
    return OpenedVideo(probe(video), uploaded=True)


@pytest.mark.parametrize("stands", [False, True])
def test_an_upload_goes_where_no_workspace_stands(
    upload: OpenedVideo, tmp_path: Path, stands: bool
) -> None:
    """What fails after all of it is there, as the end of a lock may, takes nothing away."""
    workspace = Workspace(tmp_path / "ws")
    with pytest.raises(PermissionError), keep_upload(upload, workspace.root) as kept:  # noqa: PT012
        assert kept.read_bytes() == upload.info.path.read_bytes()
        if stands:
            workspace.config.touch()
        raise PermissionError(13, "not allowed")
    assert workspace.root.exists() == kept.exists() == stands
