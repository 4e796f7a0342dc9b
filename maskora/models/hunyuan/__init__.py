"""HunyuanVideo-I2V through diffusers' own classes."""
