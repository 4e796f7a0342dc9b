"""The configuration of one edit. Imports no torch: a mistyped key is answered at once."""

from maskora.config.tables import parse_size
from maskora.config.toml import (
    Config,
    build_config,
    load_config,
    preset_tables,
    render_config,
    set_values,
)

__all__ = [
    "Config", "build_config", "load_config", "parse_size", "preset_tables", "render_config",
    "set_values",
]  # fmt: skip
