"""What a page shows of a session, as plain data for the viewer."""

from typing import Any

from gui_mask.overlay import marks, outlines
from gui_mask.region import RegionPreview
from gui_mask.session import Session


class View:
    """A session as the viewer's data; only what is newer than the page's version is sent."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._preview = RegionPreview(session.source)

    def since(self, version: int, regions: int) -> dict[str, Any]:
        """Everything that changed after a version, and after the one that its regions are of.

        0 stands for a page that has nothing yet.
        """
        session, markup = self.session, self.session.markup
        following = session.following
        data: dict[str, Any] = {
            "token": session.token,
            "version": session.version,
            "message": session.message,
            "objects": markup.objects,
            "pointed": sorted({prompt.frame for prompt in markup.prompts}),
            "following": [following.done, following.total] if following else None,
            "frames": {
                str(frame): {
                    "silhouettes": outlines(markup.shown_THW[frame]),
                    "marks": marks(markup.prompts, frame),
                }
                for frame, changed in enumerate(session.versions)
                if changed > version
            },
        }
        if version == 0:
            width, height = session.source.size
            data |= {"width": width, "height": height, "count": session.source.frames}
            data["fps"] = float(session.source.rate)
        if following is None:
            data |= self._settled(regions)
        return data

    def _settled(self, regions: int) -> dict[str, Any]:
        """What is only worked out while nothing is under way."""
        session = self.session
        data: dict[str, Any] = {"saved": session.is_saved}
        if regions < session.version:
            data["regions"], data["notes"] = self._preview.outlines(
                session.markup.shown_THW,
                session.version,
                session.region,
                session.config.mask.min_area,
            )
        return data
