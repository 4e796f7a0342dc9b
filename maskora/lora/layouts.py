"""LoRA files: read in any layout of the field, written in those of diffusers, ComfyUI and musubi.

A file's header says more than its tensors, in texts by key:

lora_adapter_metadata   rank, alpha and modules, as diffusers and peft read them
maskora                 what was trained: base, stage, steps, prompts, program
maskora_joined          rank and alpha of each module in fused matrices
modelspec.*, ss_*       what other tools show (stability.ai's model specification, kohya's)
"""

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from maskora.errors import UserError
from maskora.files import parse_json, write_bytes
from maskora.lora.update import LoraWeights, Update, cut, join, split
from maskora.models.files.folder import read_json
from maskora.models.names import Names
from maskora.models.wan.names import WAN
from maskora.streaming.header import read_header

log = logging.getLogger("maskora")
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
DIFFUSERS, OWN, JOINED = "lora_adapter_metadata", "maskora", "maskora_joined"
PEFT_CONFIG = "adapter_config.json"
# Settings of peft under which the same matrices mean another update.
UNSUPPORTED = ("use_dora", "use_qalora", "fan_in_fan_out")

Slot = Literal["down", "up", "up_bias", "alpha", "diff", "diff_b"]
Slots = dict[Slot, Tensor]
AlphaOf = Callable[[str, int], float]  # of a module by its name and rank; scale: alpha / rank
SUFFIXES: dict[str, Slot] = {
    **dict.fromkeys(("lora_down.weight", "lora.down.weight"), "down"),
    **dict.fromkeys(("lora_up.weight", "lora.up.weight"), "up"),
    "lora_A.weight": "down", "lora_B.weight": "up",
    "lora_B.bias": "up_bias", "alpha": "alpha", "diff": "diff", "diff_b": "diff_b",
}  # fmt: skip
# lightx2v's name of the difference of a parameter that belongs to no module.
MODULATION, LIGHTX2V = ".modulation.diff", ".diff_m"
KEY = re.compile(rf"(.+?)\.({'|'.join(map(re.escape, SUFFIXES))})")
PEFT = "base_model.model."
ADAPTER = re.compile(r"(?<=\.lora_[AB])\.\w+(?=\.(weight|bias)$)")  # peft's name of an adapter
# What torch calls a module that it has compiled, or wrapped for several GPUs.
WRAPPERS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
HOLDERS = (
    "base_model.model", "model", "diffusion_model", "transformer_2", "transformer", "pipe",
    "pipeline", "dit", "unet", "net", "denoiser", "module",
)  # fmt: skip
DOTTED = re.compile(rf"(?:(?:{'|'.join(map(re.escape, HOLDERS))})\.)*")
# The same where every dot has become an underscore, after the program's own word.
FLAT = re.compile(rf"((lora|lycoris|{'|'.join(one.replace('.', '_') for one in HOLDERS)})_+)*")
PATTERN = re.compile(r"\^?[\w.]+")


class FileModule(NamedTuple):
    """A file's module and what it stands for.

    Attributes:
        name: in the file, without the layout's prefix.
        members: the modules here whose rows it holds, in order.
        table: where it was found; None for a name that is used here as well.
    """

    name: str
    members: tuple[str, ...]
    table: Names | None

    def exchanged(self, rows_O: Tensor) -> Tensor:
        """Its rows in the order of here from that of the file, or the other way round."""
        if self.table is None or not self.table.is_swapped(self.name):
            return rows_O
        first, second = rows_O.chunk(2)
        return torch.cat([second, first])


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
    alpha_of = _read_alphas(texts, path, any(key.startswith(PEFT) for key in tensors))
    joined = _read_joined(texts, path)
    updates: dict[str, Update] = {}
    differences: dict[str, Tensor] = {}
    for held, module, slots in _known(_by_module(tensors, path), names, path):
        where = f"{path}: {module}"
        update = _update(slots, alpha_of, held.name, where)
        if update is not None:
            _add(updates, _divided_update(update, held, joined, where), path)
        for slot, tensor in _own_differences(slots, update):
            parts = _divided_rows(tensor, held, where)
            _add(differences, {f"{name}.{slot}": part for name, part in parts.items()}, path)
    if not updates and not differences:
        raise UserError(f"{path} is no LoRA: all that it would add is zero")
    return LoraWeights(updates, differences, _read_object(texts, OWN, path))


def read_metadata(path: Path) -> dict[str, Any]:
    """What maskora wrote about a file, if it did; reads no tensors. Raises UserError."""
    with _opened(path) as file:
        return _read_object(file.metadata() or {}, OWN, path)


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


# ---- Reading: tensors by their keys


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    read_header(path)  # it is a plain file, not too large, and says of its tensors what can be so
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
        parsed = _parse(key)
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


def _parse(key: str) -> tuple[str, Slot] | None:
    """The module's name in the file, and the part; None where no LoRA has such a name."""
    if key.endswith(LIGHTX2V):
        key = key.removesuffix(LIGHTX2V) + MODULATION
    key = ADAPTER.sub("", key)
    found = KEY.fullmatch(key)
    return found and (found[1], SUFFIXES[found[2]])


def _known(
    modules: Mapping[str, Slots], names: Names, path: Path
) -> Iterator[tuple[FileModule, str, Slots]]:
    """The modules that the table knows; warns of the others."""
    found = {module: _locate(module, names) for module in modules}
    unknown = [module for module, held in found.items() if held is None]
    if len(unknown) == len(modules):
        raise UserError(
            f"{path} is for another kind of base: nothing here is called {unknown[0]!r}"
        )
    if unknown:
        log.warning(
            "note: %s: %d of %d modules are not known (%s, …) and skipped",
            path, len(unknown), len(modules), unknown[0],
        )  # fmt: skip
    return ((held, module, modules[module]) for module, held in found.items() if held)


def _locate(module: str, names: Names) -> FileModule | None:
    """Find a file's module; None where neither the publisher nor diffusers has such a one."""
    tables = [table for table in (names, names.comfyui) if table is not None]
    module = WRAPPERS.sub("", module)
    prefix = DOTTED.match(module)
    assert prefix is not None
    name = module[prefix.end() :]
    for table in tables:
        if members := table.members(name):
            return FileModule(name, members, table)
    if names.published(name):
        return FileModule(name, (name,), None)
    # Some or all of its dots are underscores, and what stands before the name is no fixed word.
    flat = module.replace(".", "_")
    head = FLAT.match(flat)
    assert head is not None
    starts = [0, *(at for at in range(1, head.end() + 1) if flat[at - 1] == "_")]
    found = (_locate_flat(flat[at:], names, tables) for at in starts)
    return next((one for one in found if one), None)


def _locate_flat(name: str, names: Names, tables: Sequence[Names]) -> FileModule | None:
    """The same for a name with underscores in place of its dots, without a prefix."""
    for table in tables:
        if members := table.underscored.members(name):
            return FileModule(name, members, table.underscored)
    own = names.own_underscored.members(name)
    return None if own is None else FileModule(own[0], own, None)


def _update(slots: Slots, alpha_of: AlphaOf, name: str, where: str) -> Update | None:
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
    alpha = alpha_of(name, len(down))
    if "alpha" in slots:
        alpha = float(slots["alpha"]) if slots["alpha"].numel() == 1 else 0.0
    if not 0 < alpha < math.inf:
        raise UserError(f"{where}: its alpha is not a positive number")
    return Update(down, up, alpha)


def _own_differences(slots: Slots, update: Update | None) -> Iterator[tuple[str, Tensor]]:
    """What is added to a module's weight and bias."""
    if "diff" in slots:
        yield "diff", slots["diff"]
    if "diff_b" in slots:
        yield "diff_b", slots["diff_b"]
    if "up_bias" in slots and update is not None:  # peft scales it with the update
        yield "diff_b", slots["up_bias"] * update.scale


def _divided_update(
    update: Update, held: FileModule, joined: Mapping[str, tuple[int, float]], where: str
) -> dict[str, Update]:
    """What each member gets of an update, if it gets any."""
    up_OR = held.exchanged(update.up_OR)
    dtype = torch.promote_types(update.down_RI.dtype, up_OR.dtype)
    alike = Update(update.down_RI.to(dtype), up_OR.to(dtype), update.alpha)
    if len(held.members) == 1:
        return dict.fromkeys(held.members, alike)
    rows = _rows_of_members(up_OR, held, where)
    ranks = [joined.get(member) for member in held.members]
    parts = None
    if any(ranks):
        parts = cut(Update(update.down_RI, up_OR, update.alpha), rows, ranks)
    members = zip(held.members, parts or split(alike, rows), strict=True)
    return {name: part for name, part in members if part is not None}


def _divided_rows(tensor: Tensor, held: FileModule, where: str) -> dict[str, Tensor]:
    """What each member gets of a difference; of several, those that get any."""
    tensor = held.exchanged(tensor)
    if len(held.members) == 1:
        return dict.fromkeys(held.members, tensor)
    parts = tensor.split(_rows_of_members(tensor, held, where))
    return {name: part for name, part in zip(held.members, parts, strict=True) if part.any()}


def _rows_of_members(tensor: Tensor, held: FileModule, where: str) -> list[int]:
    assert held.table is not None
    rows = held.table.divide(held.name, len(tensor)) if tensor.ndim else None
    if rows is None:
        raise UserError(f"{where}: its rows cannot be divided among {', '.join(held.members)}")
    return list(rows)


def _add(all_: dict[str, Any], some: Mapping[str, Any], path: Path) -> None:
    for name, value in some.items():
        if name in all_:
            raise UserError(f"{path} holds {name} twice, under several names")
        all_[name] = value


# ---- Reading: the header's texts


def _read_alphas(texts: Mapping[str, str], path: Path, is_peft: bool) -> AlphaOf:
    """How peft scales a file's updates, where the file says so.

    Args:
        is_peft: the file is peft's own, which keeps its settings in a file beside it.

    Raises:
        UserError: that is damaged or not supported.
    """
    beside = path.with_name(PEFT_CONFIG)
    if is_peft and beside.is_file():
        described, path = read_json(beside), beside
    else:
        described = {
            key.removeprefix("transformer.").removeprefix("transformer_2."): value
            for key, value in _read_object(texts, DIFFUSERS, path).items()
        }
    if odd := [key for key in UNSUPPORTED if described.get(key)]:
        raise UserError(f"{path} uses {', '.join(odd)}, which is not supported")
    try:
        given, patterns = described.get("lora_alpha"), described.get("alpha_pattern", {})
        usual = None if given is None else float(given)
        # How modules' names end, with a dot before (and "^" where they begin).
        ends = {_end(pattern): float(alpha) for pattern, alpha in patterns.items()}
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its alphas are damaged or not supported: {error}") from None

    def alpha_of(module: str, rank: int) -> float:
        if usual is None:
            return float(rank)
        alphas = (alpha for end, alpha in ends.items() if f"^.{module}".endswith(end))
        alpha = next(alphas, usual)
        return alpha * math.sqrt(rank) if described.get("use_rslora") else alpha

    return alpha_of


def _end(pattern: str) -> str:
    """With what a module's name, after a dot, ends. Raises ValueError for other expressions."""
    if not PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} is no module's name")
    return pattern.replace("^", "^.") if pattern.startswith("^") else f".{pattern}"


def _read_joined(texts: Mapping[str, str], path: Path) -> dict[str, tuple[int, float]]:
    """Rank and alpha of the modules in fused matrices. Raises UserError where it is damaged."""
    try:
        return {
            module: (int(rank), float(alpha))
            for module, (rank, alpha) in _read_object(texts, JOINED, path).items()
            if rank > 0 and alpha > 0
        }
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its metadata {JOINED!r} is damaged: {error}") from None


def _read_object(texts: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object under a key; empty where there is none. Raises UserError."""
    try:
        content = parse_json(texts.get(key, "{}"))
    except ValueError as error:
        raise UserError(f"{path}: its metadata {key!r} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: its metadata {key!r} is damaged: no JSON object")
    return content


# ---- Writing: the layouts

Content = tuple[dict[str, Tensor], dict[str, str]]  # tensors and texts


def _diffusers(weights: LoraWeights, names: Names, path: Path) -> Content:
    if weights.differences:
        raise UserError(
            f"{path}: diffusers' layout has no place for differences of weights, and this LoRA has "
            f"{len(weights.differences)} ({next(iter(weights.differences))}, …)"
        )
    prefix = "transformer."
    tensors = {f"{prefix}{name}": tensor for name, tensor in weights.tensors.items()}
    return tensors, {DIFFUSERS: _describe(weights, prefix)}


def _comfyui(weights: LoraWeights, names: Names, path: Path) -> Content:
    tables = [table for table in (names.comfyui, names) if table is not None]
    tensors: dict[str, Tensor] = {}
    for held, update in _updates(weights, tables):
        module = f"diffusion_model.{held.name}"
        tensors[f"{module}.lora_A.weight"] = update.down_RI
        tensors[f"{module}.lora_B.weight"] = update.up_OR
        if update.alpha != update.rank:  # where it is left out, the scale is 1
            tensors[f"{module}.alpha"] = torch.tensor(update.alpha, dtype=torch.float64)
    for held, slot, tensor in _differences(weights, tables):
        tensors[f"diffusion_model.{held.name}.{slot}"] = tensor
    return tensors, _texts(weights, tables, names, path)


def _musubi(weights: LoraWeights, names: Names, path: Path) -> Content:
    tensors: dict[str, Tensor] = {}
    for held, update in _updates(weights, [names]):
        module = f"lora_unet_{held.name.replace('.', '_')}"
        tensors[f"{module}.lora_down.weight"] = update.down_RI
        tensors[f"{module}.lora_up.weight"] = update.up_OR
        tensors[f"{module}.alpha"] = torch.tensor(update.alpha, dtype=torch.float64)
    for held, slot, tensor in _differences(weights, [names]):
        tensors[f"lora_unet_{held.name.replace('.', '_')}.{slot}"] = tensor
    return tensors, _texts(weights, [names], names, path)


LAYOUTS: dict[str, Callable[[LoraWeights, Names, Path], Content]] = {
    "diffusers": _diffusers,
    "comfyui": _comfyui,
    "musubi": _musubi,
}


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


def _updates(weights: LoraWeights, tables: Sequence[Names]) -> Iterator[tuple[FileModule, Update]]:
    """Each of the publisher's modules with its update."""
    for held in dict.fromkeys(_publish(module, tables) for module in weights.updates):
        members = [weights.updates.get(member) for member in held.members]
        update = members[0]
        if len(members) > 1:
            ups = [None if one is None else one.up_OR for one in members]
            update = join(members, _rows_to_join(ups, held))
        assert update is not None
        yield held, Update(update.down_RI, held.exchanged(update.up_OR), update.alpha)


def _differences(
    weights: LoraWeights, tables: Sequence[Names]
) -> Iterator[tuple[FileModule, str, Tensor]]:
    """Each of the publisher's modules with what is added to its weight ("diff") or bias."""
    parts = [name.rpartition(".") for name in weights.differences]
    for held, slot in dict.fromkeys((_publish(module, tables), slot) for module, _, slot in parts):
        members = [weights.differences.get(f"{member}.{slot}") for member in held.members]
        first = next(one for one in members if one is not None)
        whole = torch.cat(
            [
                first.new_zeros(rows, *first.shape[1:]) if one is None else one
                for one, rows in zip(members, _rows_to_join(members, held), strict=True)
            ]
        )
        yield held, slot, held.exchanged(whole)


def _publish(module: str, tables: Sequence[Names]) -> FileModule:
    """The publisher's module that holds one of ours, by the first table that has it."""
    for table in tables:
        if name := table.published(module):
            return FileModule(name, table.members(name) or (), table)
    raise UserError(f"the publisher of this base has no module for {module}")


def _rows_to_join(members: Sequence[Tensor | None], held: FileModule) -> list[int]:
    """How many rows each member has, the absent ones by the table's proportion."""
    assert held.table is not None
    proportion = held.table.proportion(held.name)
    units = {
        len(one) / share for one, share in zip(members, proportion, strict=True) if one is not None
    }
    if len(units) != 1:
        raise UserError(f"the sizes of {', '.join(held.members)} do not make a {held.name}")
    (unit,) = units
    return [round(unit * share) for share in proportion]


# ---- Writing: the header's texts


def _describe(weights: LoraWeights, prefix: str) -> str:
    """The settings as diffusers and peft read them; patterns name what differs from the most."""
    ranks = {name: one.rank for name, one in weights.updates.items()}
    alphas = {name: one.alpha for name, one in weights.updates.items()}
    rank, alpha = (Counter(kind.values()).most_common(1)[0][0] for kind in (ranks, alphas))
    described: dict[str, Any] = {
        "r": rank,
        "lora_alpha": alpha,
        "target_modules": sorted(weights.updates),
    }
    for key, usual, kind in (("rank_pattern", rank, ranks), ("alpha_pattern", alpha, alphas)):
        if others := {f"^{name}": value for name, value in kind.items() if value != usual}:
            described[key] = others
    return json.dumps({f"{prefix}{key}": value for key, value in described.items()})


def _texts(
    weights: LoraWeights, tables: Sequence[Names], names: Names, path: Path
) -> dict[str, str]:
    """What other tools show of a file, and what it takes to divide its fused matrices again."""
    metadata, updates = weights.metadata, weights.updates
    ranks = {one.rank for one in updates.values()}
    alphas = {one.alpha for one in updates.values()}
    joined = {
        module: (update.rank, update.alpha)
        for module, update in updates.items()
        if len(_publish(module, tables).members) > 1
    }
    texts = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{names.architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": path.stem,
        "modelspec.trigger_phrase": metadata.get("token"),
        "ss_sd_model_name": metadata.get("base"),
        "ss_steps": metadata.get("step"),
        "ss_network_dim": max(ranks) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": max(alphas) if len(alphas) == 1 else "Dynamic",
        JOINED: json.dumps(joined) if joined else None,
    }
    return {key: str(text) for key, text in texts.items() if text is not None}
