"""Bases in the files that people own: Wan's original layout, and single files as of ComfyUI."""
