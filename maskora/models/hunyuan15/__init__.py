"""HunyuanVideo-1.5 image-to-video through diffusers' own classes."""
