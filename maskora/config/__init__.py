"""The configuration of one edit. Imports no torch: a mistyped key is answered at once."""

from maskora.config.tables import Config, LoraFile, Model, parse_size
from maskora.config.toml import build_config, load_config, render_config, set_values

__all__ = [
    "Config",
    "LoraFile",
    "Model",
    "build_config",
    "load_config",
    "parse_size",
    "render_config",
    "set_values",
]
