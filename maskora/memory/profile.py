"""What a base asks of memory: a small table that was measured once, and arithmetic on it.

The tables of the published bases ship with the package (`python -m benchmarks.profiles` makes
them); another base is measured when it is first planned for, and its table kept in the user's
cache. A table is found by what the configurations of the base's parts say. Those that ship are
used whatever versions of torch, diffusers and transformers are installed, so that a plan takes no
time; kept ones belong to the versions that they were measured with. Only measuring imports torch.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import prod
from pathlib import Path
from typing import Any

from maskora.files import cache_home, digest, read_small, write_text
from maskora.models.base import Grid
from maskora.models.files.model_files import ModelFiles
from maskora.models.registry import FAMILIES, open_source, read_settings

log = logging.getLogger("maskora")
PROFILES = Path(__file__).parent / "profiles"
LIBRARIES = ("torch", "diffusers", "transformers", "peft")
ITEM = {"float32": 4, "float16": 2, "bfloat16": 2}
FORMAT = 1  # of the tables
# What changes no size: bases that differ in nothing else share a table.
SIZELESS = {
    "eps", "latents_mean", "latents_std", "scaling_factor", "rope_theta", "rope_parameters",
    "rope_scaling", "rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon", "dropout",
    "dropout_rate", "pad_token_id", "image_token_index", "eos_token_id", "initializer_factor",
    "return_dict", "dtype", "torch_dtype", "class_name", "model_type", "task_type", "hidden_act",
    "dense_act_fn", "act_fn", "projector_hidden_act",
}  # fmt: skip
# Copies of the latents around the transformer, in float32: the noise, the condition, the answer,
# and what a scheduler remembers.
LATENT_COPIES = 7
# Copies of the clip while the tiles of a decoded picture are joined: rows, whole, cut out.
JOINING = 3


@dataclass(frozen=True)
class Encoder:
    """An encoder that is streamed layer by layer; all in bytes.

    Attributes:
        layer: its largest layer.
        others: what is outside the layers and lies on the device.
        activations: the largest sum of intermediate results.
    """

    layer: int
    others: int
    activations: int


class Profile:
    """One base's memory. Bytes on the device, unless it says something else.

    `frames`, `width` and `height` are those of the pixels; `tokens` those of one sample's video.

    Attributes:
        name: for people: family, blocks and width.
        grid: how pixels become tokens.
        experts: how many transformers take turns; all else is about one of them.
        embeds_guidance: guidance is a number to the transformer, and no second branch.
        parameters: how many values the transformer has.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        """`table` as `maskora.memory.measure` makes it."""
        self._table = table
        self.name: str = table["name"]
        self.grid = Grid(*table["grid"])
        self.experts: int = table["experts"]
        self.embeds_guidance: bool = table["embeds_guidance"]
        self.parameters: int = table["parameters"]

    def tokens(self, frames: int, width: int, height: int) -> int:
        edge = self.grid.multiple
        return self.grid.latent_frames(frames) * (width // edge) * (height // edge)

    def block_bytes(self, dtype: str, storage: str) -> tuple[int, ...]:
        """Each block as it is stored, in its buffer."""
        runs = self._weights(dtype)["blocks"][storage]
        return tuple(size for size, count in runs for _ in range(count))

    def other_bytes(self, dtype: str) -> int:
        """The transformer's parameters and tables outside its blocks."""
        return int(self._weights(dtype)["others"])

    def scratch_bytes(self, dtype: str, storage: str) -> int:
        """What using a compressed block takes beside it: one dense matrix."""
        return 0 if storage == "same" else self._table["largest_matrix"] * ITEM[dtype]

    def largest_matrix(self) -> int:
        """The largest weight in float32: what loading takes at a time (host memory)."""
        return int(self._table["largest_matrix"]) * ITEM["float32"]

    def lora_parameters(self, rank: int, targets: str) -> int:
        return rank * int(self._table["lora"][targets])

    def input_bytes(self, dtype: str, tokens: int) -> int:
        """What training keeps of one block: its input, all that a block hands on to the next."""
        return round(_value(self._weights(dtype)["input"], (1, tokens)))

    def train_bytes(self, dtype: str, tokens: int, recompute: str, rank: int, targets: str) -> int:
        """The largest sum of a training step's intermediate results, without block inputs."""
        moments = self._weights(dtype)["steps"][targets][recompute]
        return _largest(moments, (1, tokens, rank, tokens * rank)) + self._latents(tokens, 1)

    def infer_bytes(self, dtype: str, tokens: int, batch: int, split: bool, targets: str) -> int:
        """The largest sum of a denoising step's intermediate results.

        Args:
            batch: rows: 1, 2 with guidance, one more with the source beside.
            split: they run one after the other within each block.
        """
        one, two, in_turn = (
            _largest(self._weights(dtype)["steps"][targets][step], (1, tokens))
            for step in ("one", "two", "split")
        )
        further = max(0, batch - 2) * (in_turn - one if split else two - one)
        rows = one if batch == 1 else in_turn if split else two
        return rows + further + self._latents(tokens, batch)

    def _latents(self, tokens: int, batch: int) -> int:
        cells = batch * tokens * self.grid.patch**2
        return LATENT_COPIES * cells * self._table["latent_channels"] * ITEM["float32"]

    def encoders(self, dtype: str) -> dict[str, Encoder]:
        """The encoders of words and pictures, by what people call them."""
        return {name: Encoder(**one) for name, one in self._weights(dtype)["encoders"].items()}

    def latent_bytes(self, frames: int, width: int, height: int) -> int:
        """A video's latents in float32, as they are cached."""
        cells = self.tokens(frames, width, height) * self.grid.patch**2
        return int(cells * self._table["latent_channels"] * ITEM["float32"])

    def vae_bytes(self) -> int:
        """The VAE's parameters that are loaded at once, in float32."""
        return int(self._table["vae"]["bytes"])

    def vae_encode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """Encoding a clip, the clip included; `tile` is a tile's edge in pixels."""
        area, overlap = tiled_area(width, height, tile, self.grid.cell)
        clip = 3 * frames * width * height * ITEM["float32"]
        working = self._vae("encode", frames, area)
        if overlap == 1:
            return clip + working
        cells = self.grid.latent_frames(frames) * width * height // self.grid.cell**2
        results = 2 * self._table["latent_channels"] * cells * ITEM["float32"]
        return clip + working + round(overlap * results)

    def vae_decode_bytes(self, frames: int, width: int, height: int, tile: int | None) -> int:
        """Decoding a clip, the result included."""
        area, overlap = tiled_area(width, height, tile, self.grid.cell)
        clip = 3 * frames * width * height * ITEM["float32"]
        working = self._vae("decode", frames, area)
        if overlap == 1:
            return working
        own = 3 * frames * area * ITEM["float32"]  # which is counted with all tiles' results
        return round(overlap * clip) + max(working - own, JOINING * clip)

    def _vae(self, what: str, frames: int, area: int) -> int:
        """A tile's largest sum; between and beyond the measured frames it follows a line."""
        peaks = {
            int(count): _largest(moments, (area, area**2))
            for count, moments in self._table["vae"][what].items()
        }
        known = sorted(peaks)
        after = next((i for i, count in enumerate(known) if count >= frames), len(known) - 1)
        first, second = known[max(0, after - 1)], known[max(1, after)]
        slope = (peaks[second] - peaks[first]) / (second - first)
        return round(peaks[first] + slope * (frames - first))

    def _weights(self, dtype: str) -> Mapping[str, Any]:
        table: Mapping[str, Any] = self._table["weights"][dtype]
        return table


def _value(coefficients: Sequence[float], terms: Sequence[float]) -> float:
    return sum(c * term for c, term in zip(coefficients, terms, strict=True))


def _largest(moments: Sequence[Sequence[float]], terms: Sequence[float]) -> int:
    return round(max(_value(moment, terms) for moment in moments))


def tiled_area(width: int, height: int, tile: int | None, cell: int) -> tuple[int, float]:
    """A VAE's tile in pixels, and all tiles together relative to the picture.

    Tiles overlap by a quarter: one begins every three quarters of the edge.

    Args:
        tile: a tile's edge in pixels; None takes the whole picture.
        cell: pixels per latent cell.
    """
    if tile is None or (width <= tile and height <= tile):
        return width * height, 1.0
    stride = tile * 3 // 4 // cell * cell
    covered = [
        sum(min(tile, side - start) for start in range(0, side, stride)) for side in (width, height)
    ]
    return min(width, tile) * min(height, tile), prod(covered) / (width * height)


@dataclass(frozen=True)
class Published:
    """A base for which a configuration is shipped.

    Attributes:
        settings: the tables of that configuration, as far as they decide about memory.
    """

    settings: dict[str, dict[str, Any]]
    profile: Profile


def published() -> dict[str, Published]:
    """The published bases, by the names of their configurations; one family after another."""
    families = [*FAMILIES]
    tables = sorted(shipped().values(), key=lambda table: families.index(table["family"]))
    return {
        name: Published(deepcopy(settings), Profile(table))
        for table in tables
        for name, settings in table["configurations"].items()
    }


def read_profile(family: str, where: Path | ModelFiles, dtype: str, targets: str) -> Profile:
    """A base's profile: as it ships, as it is kept in the cache, or measured now.

    Args:
        where: its folder, or its parts; only their configurations are read.
        dtype, targets: [model] dtype and [adapter] targets that will be asked for.

    Raises:
        UserError: a configuration is missing, damaged, or another model's.
    """
    source = open_source(where) if isinstance(where, Path) else where
    name = fingerprint(family, source)
    if name in shipped():
        return Profile(shipped()[name])
    table = _kept(name)
    if not _has(table, dtype, targets):
        table = measure(family, source, dtype, targets, table)
        _keep(name, table)
    return Profile(table)


def fingerprint(family: str, source: ModelFiles) -> str:
    """A name of a base's sizes, from its configurations alone. Raises UserError."""
    parts = read_settings(family, source)
    facts = {
        part: _sizes(keys.model_dump(mode="json"))
        for part, keys in parts.items()
        if part != "transformer_2"  # as large as the first
    }
    return digest(family, str(FORMAT), json.dumps(facts, sort_keys=True))


def _sizes(keys: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what changes no size."""
    return {
        key: _sizes(value) if isinstance(value, dict) else value
        for key, value in keys.items()
        if key not in SIZELESS
    }


@cache
def shipped() -> dict[str, dict[str, Any]]:
    """The tables that come with the package, by the bases' fingerprints."""
    tables = (json.loads(path.read_text("utf-8")) for path in sorted(PROFILES.glob("*.json")))
    return {table["fingerprint"]: table for table in tables}


def measure(
    family: str,
    source: ModelFiles,
    dtype: str,
    targets: str,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A table that answers for a precision and a kind of LoRA, and for what was known before."""
    log.info("measuring what this base takes of memory, once for all plans")
    from maskora.memory.measure import Probe

    probe, table = Probe(family, source, dtype), dict(known or {})
    table = table or {**probe.base(), "weights": {}}
    weights = table["weights"].get(dtype) or {**probe.weights(), "steps": {}}
    steps = {**weights["steps"], targets: probe.steps(targets)}
    return {**table, "weights": {**table["weights"], dtype: {**weights, "steps": steps}}}


def _has(table: Mapping[str, Any], dtype: str, targets: str) -> bool:
    return targets in table.get("weights", {}).get(dtype, {}).get("steps", {})


_MEASURED: dict[str, dict[str, Any]] = {}  # in this process, whatever becomes of the cache


def _kept(name: str) -> dict[str, Any]:
    """What is known of a base so far; what cannot be read is measured again."""
    if name not in _MEASURED:
        try:
            table = json.loads(read_small(_path(name)))
        except (OSError, ValueError):
            return {}
        _MEASURED[name] = table
    return _MEASURED[name]


def _keep(name: str, table: dict[str, Any]) -> None:
    _MEASURED[name] = table
    try:
        write_text(_path(name), json.dumps(table) + "\n")
    except OSError as error:  # a plan that is not kept is a plan
        log.warning("note: %s cannot be written: %s", _path(name), error.strerror)


def _path(name: str) -> Path:
    return cache_home() / "profiles" / f"{digest(name, *library_versions().values())}.json"


def library_versions() -> dict[str, str]:
    """The installed versions of what decides how much memory a base takes."""
    return {library: version(library) for library in LIBRARIES}
