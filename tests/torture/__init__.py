"""Faults, damage and hostile files, in numbers: `make torture`. See docs/reliability.md."""
