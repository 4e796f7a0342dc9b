"""Inference by several processes: what they share out, and who helps whom.

Seeds are shared first. Where there are more processes than seeds, runs of segments that need
nothing of one another are generated ahead, each by another process, into the workspace's cache; the
clip is then put together as one process does it, which finds them there. Where so many processes
are left, two compute a guidance branch each.
"""

import logging
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TypeVar

import numpy as np

from maskora.app.fingerprints import LoraChoice
from maskora.app.generate import assist
from maskora.app.open_base import Base
from maskora.app.outputs import Run
from maskora.app.passages import Name, Reel, Takes, waiting_frames
from maskora.frames import StoredFrames
from maskora.latents import TensorCache
from maskora.method.segments import independent_runs, tells
from maskora.ranks import Ranks

log = logging.getLogger("maskora")
Item = TypeVar("Item")


@dataclass(frozen=True)
class Sharing:
    """How an inference is shared out.

    Attributes:
        size: processes of a team, which generate together: two with a guidance branch each, or one.
        teams: how many.
        ahead: runs of segments are generated before a clip is put together.
        idle: processes that have nothing to do.
    """

    size: int = 1
    teams: int = 1
    ahead: bool = False
    idle: int = 0


def share_out(processes: int, seeds: int, runs: int, branches: bool) -> Sharing:
    """How so many processes share an inference.

    Args:
        runs: of segments, in a clip, that need nothing of one another.
        branches: each denoising step has two that may be computed apart.
    """
    pieces = seeds * runs
    size = 2 if branches and processes >= 2 * pieces else 1
    teams = processes // size
    ahead = runs > 1 and teams > seeds
    busy = min(teams, pieces if ahead else seeds)
    return Sharing(size, teams, ahead, processes - busy * size)


class Crew:
    """This process among those of an inference.

    Args:
        seeds: all of them.
        name: as of `passages.generated`.

    Attributes:
        sharing: how the work is shared out.
    """

    def __init__(
        self, run: Run, base: Base, loras: list[LoraChoice], seeds: list[int], name: Name,
        together: Ranks,
    ) -> None:  # fmt: skip
        self._run, self._base, self._loras, self._seeds, self._name = run, base, loras, seeds, name
        config, model = run.config, run.model
        self._runs = independent_runs(run.segments, config.inference.shared(run.clip.source.frames))
        # What a cache over the steps skips depends on both branches.
        guided = config.inference.guidance > 1 and not model.embeds_guidance
        branches = guided and model.acceleration.cache == "none"
        self.sharing = share_out(together.count, len(seeds), len(self._runs), branches)
        self._together, self._number = together, together.rank // self.sharing.size
        model.team = together.team(self.sharing.size)
        self._log()

    def _log(self) -> None:
        sharing, count = self.sharing, self._together.count
        if sharing.ahead:
            log.info("%d runs of segments that need nothing of one another are shared by %d "
                     "processes", len(self._runs), count)  # fmt: skip
        if sharing.size > 1:
            log.info("of every two processes each computes a guidance branch of each step")
        if sharing.idle:
            log.warning("note: %d of %d processes have nothing to do", sharing.idle, count)

    def do(self, work: Callable[[], object]) -> None:
        """Do a part of the work as a team's first process, or help it; all end it together."""
        team = self._run.model.team
        if team.rank:
            cache = TensorCache(self._run.workspace.cache_dir)
            assist(self._run.config, self._run.model, self._loras, cache)
        elif self._number < self.sharing.teams:
            work()
            team.gathered(None)
        self._together.gathered(None)

    def own(self, items: Sequence[Item]) -> list[Item]:
        """Of what is shared out that of this team."""
        return [*items[self._number :: self.sharing.teams]]

    def generate_ahead(self, anew: range) -> float:
        """Leave each seed's segments in the cache; gives the seconds that it took.

        A run's first segment needs nothing. For those after it the colours of the clip's first
        segment have to be known, so all first ones come first.

        Args:
            anew: numbers of the segments that are sampled whatever is kept of them.
        """
        began, reference = perf_counter(), self._reference()
        firsts = {numbers: _until(reference, numbers) for numbers in self._runs}
        leading = next((first for first in firsts.values() if reference in first), range(0))
        done = {number for first in firsts.values() for number in first}
        later = [number for number in anew if number not in done]
        begun = [(seed, first) for seed in self._seeds for first in firsts.values()]
        going_on = [
            (seed, numbers)
            for seed in self._seeds
            for numbers, first in firsts.items()
            if len(numbers) > len(first)
        ]

        def begin() -> None:
            for seed, numbers in self.own(begun):
                self._sample(seed, numbers, anew)

        def go_on() -> None:
            for seed, numbers in self._dealt(going_on):
                follows = leading and leading[0] < numbers[0]
                colours_C = self._sample(seed, leading, (), decodes=True) if follows else None
                self._sample(seed, numbers, later, colours_C)

        self.do(begin)
        self.do(go_on)
        return perf_counter() - began

    def _reference(self) -> int | None:
        """The number of the first segment that tells of a drift of the colours."""
        clip = self._run.clip
        return next(
            (
                number
                for number, segment in enumerate(self._run.segments, 1)
                if tells(clip.labels_THW[segment.start : segment.stop] == 0)
            ),
            None,
        )

    def _dealt(self, pairs: list[tuple[int, range]]) -> list[tuple[int, range]]:
        """Of runs of segments those of this team: the longest goes to who has least so far."""
        hands: list[list[tuple[int, range]]] = [[] for _ in range(self.sharing.teams)]
        for pair in sorted(pairs, key=lambda pair: -len(pair[1])):
            min(hands, key=lambda hand: sum(len(numbers) for _, numbers in hand)).append(pair)
        return hands[self._number]

    def _sample(
        self, seed: int, numbers: range, anew: Collection[int],
        colours_C: np.ndarray | None = None, decodes: bool = False,
    ) -> np.ndarray | None:  # fmt: skip
        """Generate segments that follow one another; gives what `Reel.colours_C` is then.

        Args:
            decodes: the last one too.
        """
        run = self._run
        with waiting_frames(run) as folder:
            frames = StoredFrames(folder / str(seed), run.clip.frames_THWC.shape[1:])
            origin = run.segments[numbers[0] - 1].start
            reel = Reel(run.clip, run.config.inference, frames, origin, colours_C)
            reels = {seed: reel}
            takes = Takes(run, self._base, self._loras, numbers, reels, self._name, anew)
            takes.generate()
            if reel.failure is not None:
                raise reel.failure
            if decodes:
                takes.frames(seed)
            return reel.colours_C


def _until(reference: int | None, numbers: range) -> range:
    """The first of a run's segments, and those after it up to the one of this number."""
    last = reference if reference in numbers else numbers[0]
    assert last is not None
    return range(numbers[0], last + 1)
