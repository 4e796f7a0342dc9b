"""What a LoRA file says of itself, beside its tensors: texts by key in its header.

lora_adapter_metadata   rank, alpha and modules, as diffusers and peft read them
maskora                 what was trained: base, stage, steps, prompts, program
maskora_joined          rank and alpha of each module in fused matrices
modelspec.*, ss_*       what other tools show (stability.ai's model specification, kohya's)
"""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from maskora.errors import UserError
from maskora.models.files.folder import read_json
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


@dataclass(frozen=True)
class Update:
    """A low-rank update of one module's weight: scale * up @ down.

    Attributes:
        down_RI: (rank, in), or (rank, in, kernel …) of a convolution.
        up_OR: (out, rank), or the same with further dimensions of 1.
        alpha: the scale is alpha / rank.
    """

    down_RI: Tensor
    up_OR: Tensor
    alpha: float

    @property
    def rank(self) -> int:
        """How many rows `down` has."""
        return len(self.down_RI)

    @property
    def scale(self) -> float:
        """The factor of the product."""
        return self.alpha / self.rank

    @property
    def size(self) -> tuple[int, int]:
        """Rows and columns of what it updates; a convolution's kernel counts as columns."""
        return len(self.up_OR), math.prod(self.down_RI.shape[1:])

    def product(self) -> Tensor:
        """What it adds, in float32, of its size."""
        return self.scale * (self.up_OR.flatten(1).float() @ self.down_RI.flatten(1).float())


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file in memory.

    Attributes:
        updates: module path -> its low-rank update.
        differences: module path + ".diff" -> what is added to its weight, or + ".diff_b" -> to its
            bias. A parameter that belongs to no module of its own stands for the module.
        metadata: what maskora wrote about it (base, stage, steps, prompts), if it did.
    """

    updates: dict[str, Update]
    differences: dict[str, Tensor]
    metadata: dict[str, Any]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The updates' matrices as peft names them: `….lora_A.weight` and `….lora_B.weight`."""
        matrices = {f"{name}.lora_A.weight": one.down_RI for name, one in self.updates.items()}
        ups = {f"{name}.lora_B.weight": one.up_OR for name, one in self.updates.items()}
        return matrices | ups


# What `join` was given: rank and alpha of each member; None for one without an update.
Ranks = Sequence[tuple[int, float] | None]
CLOSE = 1e-5  # relative: files keep alphas in float32 or bfloat16


def join(members: Sequence[Update | None], rows: Sequence[int]) -> Update:
    """One update of all rows. Members of other scales than the first are multiplied in float64.

    Args:
        members: of the same input; None for one without an update.
        rows: how many each member has.
    """
    present = [member for member in members if member is not None]
    scale = present[0].scale
    down_RI = torch.cat([member.down_RI for member in present])
    alike = all(member.scale == scale for member in present)
    dtype = down_RI.dtype if alike else torch.float64
    up_OR = torch.zeros(sum(rows), len(down_RI), dtype=dtype)
    columns = 0
    for member, block in zip(members, up_OR.split(list(rows)), strict=True):
        if member is not None:
            block[:, columns : columns + member.rank] = _times(
                member.up_OR, member.scale / scale, alike, dtype
            )
            columns += member.rank
    return Update(down_RI, up_OR, scale * len(down_RI))


def cut(update: Update, rows: Sequence[int], ranks: Ranks) -> list[Update | None] | None:
    """The very members that were joined; None where these ranks are not what the update holds."""
    scales = [alpha / rank for rank, alpha in filter(None, ranks)]
    widths = [one[0] if one else 0 for one in ranks]
    if sum(widths) != update.rank or abs(update.scale / scales[0] - 1) > CLOSE:
        return None
    alike = all(scale == scales[0] for scale in scales)
    members: list[Update | None] = []
    for index, (one, block) in enumerate(zip(ranks, update.up_OR.split(list(rows)), strict=True)):
        before, _, after = block.split(
            [sum(widths[:index]), widths[index], sum(widths[index + 1 :])], dim=1
        )
        if before.any() or after.any():
            return None
        members.append(one and _member(update, block, before.shape[1], one, alike, scales[0]))
    return members


def _member(
    update: Update, block: Tensor, start: int, ranks: tuple[int, float], alike: bool, scale: float
) -> Update:
    rank, alpha = ranks
    columns = slice(start, start + rank)
    down_RI = update.down_RI[columns].contiguous()
    up_OR = _times(block[:, columns], scale / (alpha / rank), alike, down_RI.dtype)
    return Update(down_RI, up_OR.contiguous(), alpha)


def split(update: Update, rows: Sequence[int]) -> list[Update | None]:
    """Each member's rows, and of the columns those that they use; None where they use none."""
    members: list[Update | None] = []
    for block in update.up_OR.split(list(rows)):
        used_R = block.flatten(1).any(dim=0) if block.ndim == 2 else torch.ones(update.rank).bool()
        rank = int(used_R.sum())
        whole = rank == update.rank
        down_RI = update.down_RI if whole else update.down_RI[used_R]
        up_OR = block.contiguous() if whole else block[:, used_R]
        members.append(Update(down_RI, up_OR, update.scale * rank) if rank else None)
    return members


def _times(matrix: Tensor, factor: float, alike: bool, dtype: torch.dtype) -> Tensor:
    """A product that float64 keeps so well that its inverse finds the same float32 values."""
    return matrix.to(dtype) if alike else (matrix.double() * factor).to(dtype)


def exchange_halves(rows_O: Tensor) -> Tensor:
    """The second half of the rows, then the first."""
    first, second = rows_O.chunk(2)
    return torch.cat([second, first])


DIFFUSERS, OWN, JOINED = "lora_adapter_metadata", "maskora", "maskora_joined"
PEFT_CONFIG = "adapter_config.json"
# Settings of peft under which the same matrices mean another update.
UNSUPPORTED = ("use_dora", "use_qalora", "fan_in_fan_out")
PATTERN = re.compile(r"\^?[\w.]+")


@dataclass(frozen=True)
class Settings:
    """How peft scales the updates, where a file says so.

    Attributes:
        alpha: of modules that no pattern names; None where the file says nothing.
        ends: how modules' names end, with a dot before (and "^" where they begin) -> their alpha.
        rank_stabilised: the scale is alpha / sqrt(rank), not alpha / rank.
    """

    alpha: float | None = None
    ends: Mapping[str, float] = field(default_factory=dict)
    rank_stabilised: bool = False

    def alpha_of(self, module: str, rank: int) -> float:
        """A module's alpha, for a scale of alpha / rank."""
        if self.alpha is None:
            return float(rank)
        alphas = (alpha for end, alpha in self.ends.items() if f"^.{module}".endswith(end))
        alpha = next(alphas, self.alpha)
        return alpha * math.sqrt(rank) if self.rank_stabilised else alpha


def read_object(texts: Mapping[str, str], key: str, path: Path) -> dict[str, Any]:
    """The JSON object under a key; empty where there is none. Raises UserError."""
    try:
        content = json.loads(texts.get(key, "{}"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: its metadata {key!r} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: its metadata {key!r} is damaged: no JSON object")
    return content


def read_settings(texts: Mapping[str, str], path: Path, is_peft: bool) -> Settings:
    """How peft scales a file's updates.

    Args:
        is_peft: the file is peft's own, which keeps its settings in a file beside it.

    Raises:
        UserError: they are damaged, or mean something that is not supported.
    """
    beside = path.with_name(PEFT_CONFIG)
    if is_peft and beside.is_file():
        described, path = read_json(beside), beside
    else:
        described = {
            key.removeprefix("transformer.").removeprefix("transformer_2."): value
            for key, value in read_object(texts, DIFFUSERS, path).items()
        }
    if odd := [key for key in UNSUPPORTED if described.get(key)]:
        raise UserError(f"{path} uses {', '.join(odd)}, which is not supported")
    try:
        alpha = described.get("lora_alpha")
        return Settings(
            alpha=None if alpha is None else float(alpha),
            ends={_end(key): float(one) for key, one in described.get("alpha_pattern", {}).items()},
            rank_stabilised=bool(described.get("use_rslora")),
        )
    except (TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path}: its alphas are damaged or not supported: {error}") from None


def _end(pattern: str) -> str:
    """With what a module's name, after a dot, ends. Raises ValueError for other expressions."""
    if not PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} is no module's name")
    return pattern.replace("^", "^.") if pattern.startswith("^") else f".{pattern}"


def read_joined(texts: Mapping[str, str], path: Path) -> dict[str, tuple[int, float]]:
    """Rank and alpha of the modules in fused matrices. Raises UserError where it is damaged."""
    try:
        return {
            module: (int(rank), float(alpha))
            for module, (rank, alpha) in read_object(texts, JOINED, path).items()
            if rank > 0 and alpha > 0
        }
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its metadata {JOINED!r} is damaged: {error}") from None


def describe(weights: LoraWeights, prefix: str) -> str:
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


def for_other_tools(weights: LoraWeights, architecture: str, title: str) -> dict[str, str]:
    """What tools of the field show of a file.

    Args:
        architecture: of the base, as they name it.
        title: of the file.
    """
    metadata = weights.metadata
    ranks = {one.rank for one in weights.updates.values()}
    alphas = {one.alpha for one in weights.updates.values()}
    shown = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": f"{architecture}/lora",
        "modelspec.implementation": "diffusers",
        "modelspec.title": title,
        "modelspec.trigger_phrase": metadata.get("token"),
        "ss_sd_model_name": metadata.get("base"),
        "ss_steps": metadata.get("step"),
        "ss_network_dim": max(ranks) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": max(alphas) if len(alphas) == 1 else "Dynamic",
    }
    return {key: str(value) for key, value in shown.items() if value is not None}
