"""LoRA on a frozen transformer: train one, read and write the field's files, stack, merge.

Our own files are safetensors in diffusers' layout (`transformer.<module>.lora_A.weight`), with the
scale in the metadata key that diffusers reads, so that `pipe.load_lora_weights` takes them as they
are.
"""

from maskora.lora.adapter import fill, inject, save, trainable
from maskora.lora.layouts import LAYOUTS, read, read_metadata, write
from maskora.lora.merge import link, merge
from maskora.lora.stack import stack
from maskora.lora.update import LoraWeights, Update

__all__ = [
    "LAYOUTS",
    "LoraWeights",
    "Update",
    "fill",
    "inject",
    "link",
    "merge",
    "read",
    "read_metadata",
    "save",
    "stack",
    "trainable",
    "write",
]
