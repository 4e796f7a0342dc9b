"""Write LoRA files in the layouts of diffusers, ComfyUI and musubi-tuner."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from safetensors.torch import save as serialise
from torch import Tensor

from maskora.errors import UserError
from maskora.files import write_bytes
from maskora.lora.files import (
    DIFFUSERS,
    JOINED,
    OWN,
    LoraWeights,
    Place,
    Update,
    describe,
    exchange_halves,
    for_other_tools,
    join,
    publish,
)
from maskora.models.names import Names
from maskora.models.wan.names import WAN

Content = tuple[dict[str, Tensor], dict[str, str]]  # tensors and metadata


def write(path: Path, weights: LoraWeights, layout: str, names: Names = WAN) -> None:
    """Write a LoRA file with its metadata, as a whole or not at all.

    Args:
        layout: one of LAYOUTS.
        names: of the kind of base that it is for.

    Raises:
        UserError: the layout has no place for something in it.
    """
    tensors, texts = LAYOUTS[layout](weights, names, path)
    texts["format"] = "pt"
    if weights.metadata:
        texts[OWN] = json.dumps(weights.metadata)
    separate = {name: tensor.cpu().contiguous().clone() for name, tensor in tensors.items()}
    write_bytes(path, _in_order(serialise(separate, metadata=texts)))


def _in_order(content: bytes) -> bytes:
    """The same safetensors file with its metadata sorted: the library writes it in any order.

    So equal LoRAs are equal files, and what depends on one by its content does not change.
    """
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + content[end:]


def _diffusers(weights: LoraWeights, names: Names, path: Path) -> Content:
    if weights.differences:
        raise UserError(
            f"{path}: diffusers' layout has no place for differences of weights, and this LoRA has "
            f"{len(weights.differences)} ({next(iter(weights.differences))}, …)"
        )
    prefix = "transformer."
    tensors = {f"{prefix}{name}": tensor for name, tensor in weights.tensors.items()}
    return tensors, {DIFFUSERS: describe(weights, prefix)}


def _comfyui(weights: LoraWeights, names: Names, path: Path) -> Content:
    tables = [table for table in (names.comfyui, names) if table is not None]
    tensors: dict[str, Tensor] = {}
    for place, update in _updates(weights, tables):
        module = f"diffusion_model.{place.name}"
        tensors[f"{module}.lora_A.weight"] = update.down_RI
        tensors[f"{module}.lora_B.weight"] = update.up_OR
        if update.alpha != update.rank:  # where it is left out, the scale is 1
            tensors[f"{module}.alpha"] = torch.tensor(update.alpha, dtype=torch.float64)
    for place, slot, tensor in _differences(weights, tables):
        tensors[f"diffusion_model.{place.name}.{slot}"] = tensor
    return tensors, _texts(weights, tables, names, path)


def _musubi(weights: LoraWeights, names: Names, path: Path) -> Content:
    tensors: dict[str, Tensor] = {}
    for place, update in _updates(weights, [names]):
        module = f"lora_unet_{place.name.replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = update.down_RI
        tensors[f"{module}.lora_up.weight"] = update.up_OR
        tensors[f"{module}.alpha"] = torch.tensor(update.alpha, dtype=torch.float64)
    for place, slot, tensor in _differences(weights, [names]):
        tensors[f"lora_unet_{place.name.replace('.', '_')}.{slot}"] = tensor
    return tensors, _texts(weights, [names], names, path)


LAYOUTS: dict[str, Callable[[LoraWeights, Names, Path], Content]] = {
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "musubi": _musubi,
}


def _updates(weights: LoraWeights, tables: Sequence[Names]) -> Iterator[tuple[Place, Update]]:
    """Each of the publisher's modules with its update."""
    for place in dict.fromkeys(_place(module, tables) for module in weights.updates):
        members = [weights.updates.get(member) for member in place.members]
        update = members[0]
        if len(members) > 1:
            ups = [None if one is None else one.up_OR for one in members]
            update = join(members, _rows(ups, place))
        assert update is not None
        if place.swapped:
            update = Update(update.down_RI, exchange_halves(update.up_OR), update.alpha)
        yield place, update


def _differences(
    weights: LoraWeights, tables: Sequence[Names]
) -> Iterator[tuple[Place, str, Tensor]]:
    """Each of the publisher's modules with what is added to its weight ("diff") or bias."""
    parts = [name.rpartition(".") for name in weights.differences]
    for place, slot in dict.fromkeys((_place(module, tables), slot) for module, _, slot in parts):
        members = [weights.differences.get(f"{member}.{slot}") for member in place.members]
        first = next(one for one in members if one is not None)
        whole = torch.cat(
            [
                first.new_zeros(rows, *first.shape[1:]) if one is None else one
                for one, rows in zip(members, _rows(members, place), strict=True)
            ]
        )
        yield place, slot, exchange_halves(whole) if place.swapped else whole


def _place(module: str, tables: Sequence[Names]) -> Place:
    place = publish(module, tables)
    if place is None:
        raise UserError(f"the publisher of this base has no module for {module}")
    return place


def _rows(members: Sequence[Tensor | None], place: Place) -> list[int]:
    """How many rows each member has, the absent ones by the table's proportion."""
    assert place.table is not None
    proportion = place.table.proportion(place.name)
    units = {
        len(one) / share for one, share in zip(members, proportion, strict=True) if one is not None
    }
    if len(units) != 1:
        raise UserError(f"the sizes of {', '.join(place.members)} do not make a {place.name}")
    (unit,) = units
    return [round(unit * share) for share in proportion]


def _texts(
    weights: LoraWeights, tables: Sequence[Names], names: Names, path: Path
) -> dict[str, str]:
    joined = {
        module: (update.rank, update.alpha)
        for module, update in weights.updates.items()
        if len(_place(module, tables).members) > 1
    }
    texts = for_other_tools(weights, names.architecture, path.stem)
    return texts | ({JOINED: json.dumps(joined)} if joined else {})
