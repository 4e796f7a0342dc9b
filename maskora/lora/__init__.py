"""LoRA on a frozen transformer: train one, read and write the field's files, stack them.

Our own files are safetensors in diffusers' layout (`transformer.<module>.lora_A.weight`), with the
scale in the metadata key that diffusers reads, so that `pipe.load_lora_weights` takes them as they
are.
"""

from maskora.lora.adapter import fill, inject, save, trainable
from maskora.lora.files import LoraWeights, Update
from maskora.lora.merge import link, merge
from maskora.lora.read import read, read_metadata
from maskora.lora.stack import stack
from maskora.lora.write import LAYOUTS, write

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
