"""maskora, of which one process finds its machine too small; run by a launcher."""

import os
from typing import Any

from maskora.app import train
from maskora.app.open_base import open_base
from maskora.cli import app
from maskora.errors import UserError


def refusing(*given: Any) -> Any:
    """As a plan does that does not fit beside what others have on the same GPU."""
    if os.environ["RANK"] == "1":
        raise UserError("this one's GPU is full")
    return open_base(*given)


if __name__ == "__main__":
    train.open_base = refusing  # type: ignore[attr-defined]
    app()
