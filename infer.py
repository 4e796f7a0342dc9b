"""Make the edited clip: python infer.py --config WORKSPACE/edit.toml (see --help)."""

from maskora.cli import infer_entry

if __name__ == "__main__":
    infer_entry()
