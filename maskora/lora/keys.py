"""The names of a LoRA file's tensors: which module, and which part of its update.

    transformer.blocks.0.attn1.to_q.lora_A.weight           diffusers; also without the prefix
    base_model.model.blocks.0.attn1.to_q.lora_A.weight      peft
    diffusion_model.blocks.0.self_attn.q.lora_down.weight   ComfyUI: the publisher's modules
    lora_unet_blocks_0_self_attn_q.lora_down.weight         musubi-tuner and its kin

A file is known by these, never by its own name. Names without dots are looked up among the table's
modules; nothing is guessed.
"""

import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from maskora.models.names import Names

Slot = Literal["down", "up", "up_bias", "alpha", "diff", "diff_b"]
SUFFIXES: dict[str, Slot] = {
    "lora_A.weight": "down",
    "lora_B.weight": "up",
    "lora_B.bias": "up_bias",
    "lora_A.default.weight": "down",
    "lora_B.default.weight": "up",
    "lora_down.weight": "down",
    "lora_up.weight": "up",
    "lora.down.weight": "down",
    "lora.up.weight": "up",
    "alpha": "alpha",
    "diff": "diff",
    "diff_b": "diff_b",
}
# lightx2v's name of the difference of a parameter that belongs to no module.
MODULATION, LIGHTX2V = ".modulation.diff", ".diff_m"
KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, SUFFIXES))})")
PEFT = "base_model.model."
DOTTED = re.compile(r"(?:(?:base_model\.model|model|diffusion_model|transformer|transformer_2)\.)*")
FLAT = re.compile(r"lora_unet__?")


class Place(NamedTuple):
    """A file's module and what it stands for.

    Attributes:
        name: in the file, without the layout's prefix.
        members: the modules here whose rows it holds, in order.
        table: where it was found; None for a name that is used here as well.
    """

    name: str
    members: tuple[str, ...]
    table: Names | None

    @property
    def swapped(self) -> bool:
        """Whether its rows' halves are exchanged here."""
        return self.table is not None and self.table.is_swapped(self.name)


def parse(key: str) -> tuple[str, Slot] | None:
    """The module's name in the file, and the part; None where no LoRA has such a name."""
    if key.endswith(LIGHTX2V):
        key = key.removesuffix(LIGHTX2V) + MODULATION
    found = KEY.fullmatch(key)
    return found and (found[1], SUFFIXES[found[2]])


def locate(module: str, names: Names) -> Place | None:
    """Find a file's module; None where neither the publisher nor diffusers has such a one."""
    tables = [table for table in (names, names.comfyui) if table is not None]
    if flat := FLAT.match(module):
        name, tables = module[flat.end() :], [table.underscored for table in tables]
    else:
        prefix = DOTTED.match(module)
        assert prefix is not None
        name = module[prefix.end() :]
    for table in tables:
        if members := table.members(name):
            return Place(name, members, table)
    return Place(name, (name,), None) if names.published(name) and not flat else None


def publish(module: str, tables: Sequence[Names]) -> Place | None:
    """The publisher's module that holds one of ours, by the first table that has it."""
    for table in tables:
        if name := table.published(module):
            return Place(name, table.members(name) or (), table)
    return None
