"""LoRA on a frozen transformer through peft: inject, save, load, stack.

Files are safetensors in diffusers' layout (`transformer.<module>.lora_A.weight`), with the scale in
the metadata key that diffusers reads, so that `pipe.load_lora_weights` takes them as they are.
"""

import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from maskora.errors import UserError
from maskora.files import write_bytes
from maskora.models import Transformer

PREFIX = "transformer."
DIFFUSERS_METADATA = "lora_adapter_metadata"
OWN_METADATA = "maskora"
TRAINED = "default"
# LoraConfig settings under which the same matrices mean another update.
UNSUPPORTED = ("use_rslora", "use_dora", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class LoraWeights:
    """A LoRA file in memory.

    Attributes:
        tensors: module path + ".lora_A.weight" (rank, in) or ".lora_B.weight" (out, rank).
        rank: of every update.
        alpha: the update is scaled by alpha / rank.
        metadata: what maskora wrote about it (base, stage, steps, prompts), if it did.
    """

    tensors: dict[str, Tensor]
    rank: int
    alpha: float
    metadata: dict[str, Any]


def inject(transformer: Transformer, rank: int, alpha: float, targets: str, seed: int) -> None:
    """Add a fresh trainable LoRA (A random from the seed, B zero) in float32.

    Args:
        transformer: the frozen base, a diffusers model.
        targets: a regular expression of the modules that carry it.
    """
    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules=targets)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer.add_adapter(config, adapter_name=TRAINED)
    _in_float32(transformer, TRAINED)


def _in_float32(transformer: Transformer, name: str) -> None:
    """Keep an adapter's matrices in float32, and multiply them in the precision of their input.

    peft would turn the input into float32 instead, and keep that copy of it for backward: at 16
    bits, a quarter of what a block holds in training.
    """
    for layer in transformer.modules():
        if isinstance(layer, LoraLayer) and name in layer.lora_A:
            layer.cast_input_dtype_enabled = False
            for matrices in (layer.lora_A, layer.lora_B):
                matrices[name] = _CastLinear.of(matrices[name])


class _CastLinear(nn.Linear):
    """A Linear without a bias that multiplies in its input's precision."""

    @classmethod
    def of(cls, linear: nn.Linear) -> "_CastLinear":
        """The same matrix, in float32."""
        with torch.device("meta"):
            cast = cls(linear.in_features, linear.out_features, bias=False)
        values, trains = linear.weight.data.float(), linear.weight.requires_grad
        cast.weight = nn.Parameter(values, requires_grad=trains)
        return cast

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight.to(input.dtype))


def trainable(transformer: Transformer) -> list[nn.Parameter]:
    """The LoRA's parameters, in a fixed order."""
    return [parameter for parameter in transformer.parameters() if parameter.requires_grad]


def save(path: Path, transformer: Transformer, metadata: dict[str, Any]) -> None:
    """Write the trained LoRA with its metadata, as a whole or not at all."""
    state = get_peft_model_state_dict(transformer, adapter_name=TRAINED)
    config = transformer.peft_config[TRAINED]
    described = {
        f"{PREFIX}r": config.r,
        f"{PREFIX}lora_alpha": config.lora_alpha,
        f"{PREFIX}target_modules": sorted({name.rpartition(".lora_")[0] for name in state}),
    }
    texts = {
        "format": "pt",
        DIFFUSERS_METADATA: json.dumps(described),
        OWN_METADATA: json.dumps(metadata),
    }
    tensors = {f"{PREFIX}{name}": tensor.contiguous().cpu() for name, tensor in state.items()}
    write_bytes(path, serialise(tensors, metadata=texts))


def read(path: Path) -> LoraWeights:
    """Read a LoRA file in diffusers' layout. Raises UserError where it is none."""
    try:
        with safe_open(path, "pt") as file:
            texts = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise UserError(f"LoRA file {path} does not exist") from None
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is no readable safetensors file: {error}") from None
    described, own = (_metadata(texts, key, path) for key in (DIFFUSERS_METADATA, OWN_METADATA))
    if odd := [key for key in UNSUPPORTED if described.get(f"{PREFIX}{key}")]:
        raise UserError(f"{path} uses {', '.join(odd)}, which is not supported yet")
    strange = [
        name
        for name in tensors
        if not (name.startswith(PREFIX) and name.endswith((".lora_A.weight", ".lora_B.weight")))
    ]
    if strange or not tensors:
        found = f"found {strange[0]!r}" if strange else "it is empty"
        raise UserError(
            f"{path} is not a LoRA in diffusers' layout (transformer.….lora_A.weight): {found}"
        )
    ranks = {
        tensor.shape[0 if "lora_A" in name else 1]
        for name, tensor in tensors.items()
        if tensor.ndim == 2
    }
    if len(ranks) != 1 or any(tensor.ndim != 2 for tensor in tensors.values()):
        raise UserError(f"{path}: its matrices have ranks {sorted(ranks)}; one rank is supported")
    (rank,) = ranks
    return LoraWeights(
        tensors={name.removeprefix(PREFIX): tensor for name, tensor in tensors.items()},
        rank=rank,
        alpha=float(described.get(f"{PREFIX}lora_alpha", rank)),
        metadata=own,
    )


def _metadata(texts: dict[str, str], key: str, path: Path) -> dict[str, Any]:
    try:
        content = json.loads(texts.get(key, "{}"))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: its metadata {key!r} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: its metadata {key!r} is damaged: no JSON object")
    return content


def fill(transformer: Transformer, weights: LoraWeights, where: Path) -> None:
    """Put a file's values into the injected trainable LoRA. Raises UserError where they differ."""
    own = {
        n: t.shape for n, t in get_peft_model_state_dict(transformer, adapter_name=TRAINED).items()
    }
    given = {name: tensor.shape for name, tensor in weights.tensors.items()}
    if own != given:
        names = sorted(own.keys() | given.keys())
        odd = [name for name in names if own.get(name) != given.get(name)]
        raise UserError(
            f"{where} does not fit [adapter] and the base: {len(odd)} tensors differ ({odd[0]}, …)"
        )
    set_peft_model_state_dict(transformer, weights.tensors, adapter_name=TRAINED)


def stack(transformer: Transformer, files: Sequence[tuple[Path, float]]) -> None:
    """Load LoRA files side by side for inference, each with its strength; all frozen.

    Raises:
        UserError: a file is no LoRA or does not fit the base.
    """
    names = []
    for index, (path, _) in enumerate(files):
        weights = read(path)
        modules = {name.rpartition(".lora_")[0] for name in weights.tensors}
        _check_fit(transformer, weights, modules, path)
        config = LoraConfig(
            r=weights.rank, lora_alpha=weights.alpha, target_modules=sorted(modules)
        )
        names.append(f"lora_{index}")
        with warnings.catch_warnings():  # several adapters side by side are what is wanted
            warnings.filterwarnings("ignore", message="Already found a `peft_config`")
            transformer.add_adapter(config, adapter_name=names[-1])
        _in_float32(transformer, names[-1])
        set_peft_model_state_dict(transformer, weights.tensors, adapter_name=names[-1])
    if names:
        transformer.set_adapters(names, [strength for _, strength in files])
    transformer.requires_grad_(False)


def _check_fit(
    transformer: Transformer, weights: LoraWeights, modules: set[str], path: Path
) -> None:
    known = dict(transformer.named_modules())
    for module in sorted(modules):
        a = weights.tensors.get(f"{module}.lora_A.weight")
        b = weights.tensors.get(f"{module}.lora_B.weight")
        if a is None or b is None:
            raise UserError(f"{path}: {module} has only one of lora_A and lora_B")
        base = getattr(known.get(module), "weight", None)
        if base is None or tuple(base.shape) != (b.shape[0], a.shape[1]):
            raise UserError(
                f"{path} does not fit this base: {module} differs in shape or is absent"
            )
