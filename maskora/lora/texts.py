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
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskora.errors import UserError
from maskora.lora.weights import LoraWeights
from maskora.models.folder import read_json

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
