"""Read LoRA files in any of the field's layouts."""

import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from maskora.errors import UserError
from maskora.lora.files import (
    OWN,
    PEFT,
    LoraWeights,
    Place,
    Settings,
    Slot,
    Update,
    cut,
    exchange_halves,
    locate,
    parse,
    read_joined,
    read_object,
    read_settings,
    split,
)
from maskora.models.names import Names
from maskora.models.wan.names import WAN

log = logging.getLogger("maskora")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
Slots = dict[Slot, Tensor]


def read(path: Path, names: Names = WAN) -> LoraWeights:
    """Read a LoRA file, whatever its layout; modules get the names that are used here.

    Args:
        names: of the kind of base that it is for.

    Raises:
        UserError: it is none, is damaged, is of a kind that is not supported, or is for another
            kind of base.
    """
    with _opened(path) as file:
        texts = file.metadata() or {}
        # Copies: what is still mapped can be neither replaced nor removed on Windows.
        tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    if not tensors:
        raise UserError(f"{path} is no LoRA: it is empty")
    settings = read_settings(texts, path, any(key.startswith(PEFT) for key in tensors))
    joined = read_joined(texts, path)
    updates: dict[str, Update] = {}
    differences: dict[str, Tensor] = {}
    for place, module, slots in _known(_by_module(tensors, path), names, path):
        update = _update(slots, settings, place.name, f"{path}: {module}")
        if update is not None:
            members = _members(update, place, joined, f"{path}: {module}")
            _add(updates, {n: one for n, one in members.items() if one is not None}, path)
        for slot, tensor in _differences(slots, update):
            parts = _rows(tensor, place, f"{path}: {module}")
            _add(differences, {f"{name}.{slot}": part for name, part in parts.items()}, path)
    if not updates and not differences:
        raise UserError(f"{path} is no LoRA: all that it would add is zero")
    return LoraWeights(updates, differences, read_object(texts, OWN, path))


def read_metadata(path: Path) -> dict[str, Any]:
    """What maskora wrote about a file, if it did; reads no tensors. Raises UserError."""
    with _opened(path) as file:
        return read_object(file.metadata() or {}, OWN, path)


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, "pt") as file:
            yield file
    except FileNotFoundError:
        raise UserError(f"LoRA file {path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file: {error}") from None


def _by_module(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Slots]:
    """The file's tensors, each checked, by module and part."""
    modules: dict[str, Slots] = {}
    for key, tensor in tensors.items():
        parsed = parse(key)
        if parsed is None:
            raise UserError(
                f"{path}: {key!r} belongs to no LoRA of a kind that is supported (low-rank updates "
                f"and differences of weights; not DoRA, LoHa, LoKr and others)"
            )
        module, slot = parsed
        slots = modules.setdefault(module, {})
        if slot in slots:
            raise UserError(f"{path} holds {key!r} twice, under several names")
        if tensor.dtype not in (FLOATS if slot != "alpha" else (*FLOATS, *INTEGERS)):
            raise UserError(f"{path}: {key!r} is stored as {tensor.dtype}, which is not supported")
        if not tensor.isfinite().all():
            raise UserError(f"{path}: {key!r} holds values that are infinite or not numbers")
        slots[slot] = tensor
    return modules


def _known(
    modules: Mapping[str, Slots], names: Names, path: Path
) -> Iterator[tuple[Place, str, Slots]]:
    """What the table knows; says what it does not."""
    places = {module: locate(module, names) for module in modules}
    unknown = [module for module, place in places.items() if place is None]
    if len(unknown) == len(modules):
        raise UserError(
            f"{path} is for another kind of base: nothing here is called {unknown[0]!r}"
        )
    if unknown:
        log.warning(
            "note: %s: %d of %d modules are not known (%s, …) and skipped",
            path, len(unknown), len(modules), unknown[0],
        )  # fmt: skip
    return ((place, module, modules[module]) for module, place in places.items() if place)


def _update(slots: Slots, settings: Settings, name: str, where: str) -> Update | None:
    """The low-rank update of a module, if it has one."""
    down, up = slots.get("down"), slots.get("up")
    if down is None and up is None and slots.keys() & {"diff", "diff_b"}:
        return None
    if down is None or up is None:
        raise UserError(f"{where} lacks one of the two matrices of a low-rank update, or both")
    fits = down.ndim == up.ndim >= 2 and len(down) == up.shape[1] > 0
    if not fits or any(size != 1 for size in up.shape[2:]):
        shapes = f"{tuple(down.shape)} and {tuple(up.shape)}"
        raise UserError(f"{where}: its matrices {shapes} do not belong together")
    alpha = settings.alpha_of(name, len(down))
    if "alpha" in slots:
        alpha = float(slots["alpha"]) if slots["alpha"].numel() == 1 else 0.0
    if not 0 < alpha < math.inf:
        raise UserError(f"{where}: its alpha is not a positive number")
    return Update(down, up, alpha)


def _members(
    update: Update, place: Place, joined: Mapping[str, tuple[int, float]], where: str
) -> dict[str, Update | None]:
    """What each of the place's members gets of an update."""
    if place.swapped:
        update = Update(update.down_RI, exchange_halves(update.up_OR), update.alpha)
    alike = _alike(update)
    if len(place.members) == 1:
        return dict.fromkeys(place.members, alike)
    rows = _divided(update.up_OR, place, where)
    ranks = [joined.get(member) for member in place.members]
    parts = cut(update, rows, ranks) if any(ranks) else None
    return dict(zip(place.members, parts or split(alike, rows), strict=True))


def _alike(update: Update) -> Update:
    """With both matrices in one precision."""
    dtype = torch.promote_types(update.down_RI.dtype, update.up_OR.dtype)
    return Update(update.down_RI.to(dtype), update.up_OR.to(dtype), update.alpha)


def _differences(slots: Slots, update: Update | None) -> Iterator[tuple[str, Tensor]]:
    """What is added to a module's weight and bias."""
    if "diff" in slots:
        yield "diff", slots["diff"]
    if "diff_b" in slots:
        yield "diff_b", slots["diff_b"]
    if "up_bias" in slots and update is not None:  # peft scales it with the update
        yield "diff_b", slots["up_bias"] * update.scale


def _rows(tensor: Tensor, place: Place, where: str) -> dict[str, Tensor]:
    """What each of the place's members gets of a difference; of several, those that get one."""
    if place.swapped:
        tensor = exchange_halves(tensor)
    if len(place.members) == 1:
        return dict.fromkeys(place.members, tensor)
    parts = tensor.split(_divided(tensor, place, where))
    return {name: part for name, part in zip(place.members, parts, strict=True) if part.any()}


def _divided(tensor: Tensor, place: Place, where: str) -> list[int]:
    """How many rows each member has."""
    assert place.table is not None
    rows = place.table.divide(place.name, len(tensor)) if tensor.ndim else None
    if rows is None:
        raise UserError(f"{where}: its rows cannot be divided among {', '.join(place.members)}")
    return list(rows)


def _add(all_: dict[str, Any], some: Mapping[str, Any], path: Path) -> None:
    for name, value in some.items():
        if name in all_:
            raise UserError(f"{path} holds {name} twice, under several names")
        all_[name] = value
