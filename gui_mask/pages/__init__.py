"""The pages, in the order in which they are used. Widgets only: what they do is done elsewhere."""

from typing import Any

# What the page does is for the page alone: none of it is offered as an API.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# The same, without a sign that something is under way: for what happens by itself.
SILENT: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
