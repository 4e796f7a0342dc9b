"""A clip of several shots, for people: where they begin, and which frames still want an edit."""

from collections.abc import Collection

from maskora.app.workspace import ShotRecord, Source, Workspace


def describe_shots(source: Source) -> str:
    """How many shots a clip has and where they begin; empty where it has one."""
    if not source.shots:
        return ""
    begins = ", ".join(f"{shot.begins} ({_describe_change(shot)})" for shot in source.shots)
    return f"{len(source.shots) + 1} shots, new ones from frame {begins}"


def _describe_change(shot: ShotRecord) -> str:
    return "a cut" if shot.kind == "cut" else f"a fade, frames {shot.first} to {shot.last}"


def unedited_shots_note(
    workspace: Workspace, source: Source, edited: Collection[int]
) -> str | None:
    """What to do about shots whose first frame is not edited; None where there is none of these.

    The clip's first frame is edited anyway.

    Args:
        edited: numbers of the frames that have been edited.
    """
    begins = [begin for begin in source.shot_starts if begin not in edited]
    if not begins:
        return None
    frames = ", ".join(str(workspace.source_frame(begin)) for begin in begins)
    return (
        f"a shot whose first frame is not edited is shown the last edited frame before it, which "
        f"may not fit: where the thing is in it, edit {frames} as well, and save it under the same "
        f"name in {workspace.edits_dir}; or prepare one shot alone, with --start "
        f"and --frames (frame {begins[0]} is --start {source.start + begins[0] * source.every})"
    )
