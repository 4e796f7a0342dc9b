"""Wan2.1, Wan2.1-Fun, Wan2.2 and the miniature, through diffusers' own classes."""
