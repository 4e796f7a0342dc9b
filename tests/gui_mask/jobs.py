"""What the supervising process has written down."""

from gui_mask.supervise import Job
from maskora.app.workspace import Workspace


def job_of(workspace: Workspace) -> Job:
    """A workspace's record."""
    return Job.model_validate_json(workspace.job_record.read_text())
