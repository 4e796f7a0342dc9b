"""Reading a base's checkpoint: diffusers' folders, publishers' layouts, single files."""
