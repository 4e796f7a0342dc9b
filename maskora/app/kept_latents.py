"""Sampled latents, kept in the workspace's cache until the result that is made of them stands."""

import logging

from torch import Tensor

from maskora.latents import TensorCache

log = logging.getLogger("maskora")
LATENTS = "latents"


class KeptLatents:
    """What was sampled, by seed, for the next run of the same command if this one does not end."""

    def __init__(self, cache: TensorCache, names: dict[int, str]) -> None:
        """
        Args:
            names: a content name, by seed, for all that the latents depend on.
        """
        self._cache, self._names = cache, names

    def found(self) -> dict[int, Tensor]:
        """What an earlier run has left, (C, T', h, w) by seed; logs whose."""
        kept = {seed: self._cache.get(name) for seed, name in self._names.items()}
        found = {seed: tensors[LATENTS] for seed, tensors in kept.items() if tensors}
        for seed in found:
            log.info("seed %d was sampled before: what was kept of it is used", seed)
        return found

    def put(self, seed: int, latents_CTHW: Tensor) -> None:
        """Keep a seed's latents; where that fails it is logged, since they are still at hand."""
        try:
            self._cache.put(self._names[seed], {LATENTS: latents_CTHW})
        except OSError as error:
            log.warning(
                "note: seed %d is sampled, and cannot be kept in %s (%s): if the result cannot be "
                "written, it is sampled again", seed, self._cache.folder, error.strerror,
            )  # fmt: skip

    def drop(self, seed: int) -> None:
        """The result stands."""
        self._cache.drop(self._names[seed])
