"""Train the LoRA of one edit: python train.py --config WORKSPACE/edit.toml (see --help)."""

from maskora.cli import train_entry

if __name__ == "__main__":
    train_entry()
