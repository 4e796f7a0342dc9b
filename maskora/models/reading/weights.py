"""The tensors of a part's files, sorted: weights, the factors that scale them, and notes.

ComfyUI keeps matrices in 8 bits beside a factor (`X.scale_weight`, in newer files
`X.weight_scale`), and notes how each was made (`X.comfy_quant`, or the file's own metadata).
Factors for activations are of no use here: nothing is computed in 8 bits.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

from maskora.errors import UserError
from maskora.models.reading.files import INSTEAD, is_safetensors, read_small, read_stored
from maskora.streaming.header import SIZES, Stored, read_metadata

FACTORS = (".scale_weight", ".weight_scale")
NOTES = (".scale_input", ".input_scale", ".comfy_quant")
MARKER = "scaled_fp8"
METADATA = "_quantization_metadata"
FORMATS = {"float8_e4m3fn", "float8_e5m2"}
TOLD = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16",
    "F8_E4M3": "float8", "F8_E5M2": "float8",
}  # fmt: skip


@dataclass(frozen=True)
class Weights:
    """What some files hold.

    Attributes:
        stored: every tensor, by its name in the files.
        names: those that may be a model's own, by their names in the files.
        scales: weight -> the tensor of its factors.
        told: where they come from, for people.
    """

    stored: Mapping[str, Stored]
    names: tuple[str, ...]
    scales: Mapping[str, str]
    told: str

    @property
    def precision(self) -> str:
        """In which type most of the values are stored, for people."""
        if self.scales:
            return "scaled float8"
        counts: dict[str, int] = {}
        for name in self.names:
            kind = self.stored[name].kind
            counts[kind] = counts.get(kind, 0) + prod(self.stored[name].shape)
        most = max(counts, key=lambda kind: counts[kind], default="")
        return TOLD.get(most, most)


def read_weights(paths: Iterable[Path], told: str) -> Weights:
    """Read what files say of themselves. Raises UserError where they are not to be read."""
    paths = list(paths)
    stored = read_stored(paths)
    _check_formats(paths, stored)
    scales = dict(_scaled(name, stored) for name in stored if name.endswith(FACTORS))
    companions = set(scales.values())
    names = tuple(
        name
        for name in stored
        if not (name in companions or name.endswith(NOTES) or name.split(".")[-1] == MARKER)
    )
    return Weights(stored, names, scales, told)


def refuse_packed(name: str, stored: Stored) -> None:
    """A weight must be stored as numbers of its own. Raises UserError."""
    if stored.kind not in TOLD:
        raise UserError(
            f"{stored.path}: {name} is packed ({stored.kind}), which is not read: {INSTEAD}"
        )


def _scaled(factors: str, stored: Mapping[str, Stored]) -> tuple[str, str]:
    """The weight that some factors belong to, and they. Raises UserError where there is none."""
    weight = factors.rpartition(".")[0] + ".weight"
    path, shape = stored[factors].path, stored[factors].shape
    if weight not in stored:
        raise UserError(f"{path} has {factors} without {weight}: it is damaged")
    refuse_packed(weight, stored[weight])
    rows = stored[weight].shape[:1]
    is_one, is_one_per_row = prod(shape) == 1, shape in (rows, (*rows, 1))
    if not (is_one or is_one_per_row) or stored[factors].kind not in TOLD:
        raise UserError(
            f"{path}: {factors} has the shape {shape} for {weight} of {stored[weight].shape}; only "
            f"one factor, or one for each row, is read: {INSTEAD}"
        )
    return weight, factors


def _check_formats(paths: Iterable[Path], stored: Mapping[str, Stored]) -> None:
    """Raises UserError where a file's notes tell of a form that is not read."""
    notes: list[tuple[Path, bytes | str]] = [
        (one.path, read_small(one, prod(one.shape) * SIZES[one.kind]))
        for name, one in stored.items()
        if name.endswith(".comfy_quant")
    ]
    whole = ((path, read_metadata(path)) for path in paths if is_safetensors(path))
    notes += [(path, noted[METADATA]) for path, noted in whole if METADATA in noted]
    for path, note in notes:
        if other := sorted(_formats(path, note) - FORMATS):
            raise UserError(
                f"{path} is compressed as {', '.join(other)}, which is not read: {INSTEAD}"
            )


def _formats(path: Path, note: bytes | str) -> set[str]:
    """The formats that a note names: of one layer, or of all."""
    try:
        content = json.loads(note)
        layers = content["layers"].values() if "layers" in content else [content]
        return {str(layer["format"]) for layer in layers}
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: its notes on quantisation are damaged ({error!r})") from None
