"""Reading a picture as a person gives it: from a file."""

import tempfile
from pathlib import Path

from PIL import Image

from maskora.masks import Labels
from maskora.masks.files import read_mask_folder


def mask_to_labels(image: Image.Image) -> Labels:
    """The labels of one picture, saved as PNG and read back."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mask.png"
        image.save(path)
        return read_mask_folder(path)[0]
