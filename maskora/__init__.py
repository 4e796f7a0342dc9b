"""maskora: carry an edit of a video's first frame through the whole clip."""

__version__ = "0.1.0"
