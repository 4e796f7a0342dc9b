"""How the pages' events are set up."""

from typing import Any

# What the page does is for the page alone: none of it is offered as an API.
PRIVATE: dict[str, Any] = {"api_visibility": "private"}
# The same, without a sign that something is under way: for what happens by itself.
SILENT: dict[str, Any] = {**PRIVATE, "show_progress": "hidden"}
