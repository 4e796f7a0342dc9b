"""A clip generated segment after segment, of each seed, and what has come of it so far.

A short clip is one segment. Of a longer one each is encoded once the one before is done, since it
begins with frames of that.
"""

import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter

import numpy as np
from torch import Tensor
from tqdm import tqdm

from maskora.app.edits import Clip, Edit
from maskora.app.fingerprints import LoraChoice
from maskora.app.generate import Encoded, Passage, encode, generate
from maskora.app.kept_latents import KeptLatents
from maskora.app.open_base import Base
from maskora.app.outputs import Run
from maskora.config.tables import Inference
from maskora.errors import Fault, UserError
from maskora.files import scratch_folder
from maskora.frames import Frames, StoredFrames
from maskora.latents import TensorCache, decode_video
from maskora.method.conditioning import to_bytes
from maskora.method.segments import Segment, blended, corrected, drift
from maskora.progress import within
from maskora.video.composite import composite, feather_alpha

log = logging.getLogger("maskora")
SEEN = 0.5  # levels from which a drift of the colours is taken back
Name = Callable[[Encoded, int], str]  # of what is encoded and a seed: a content name


def passage_of(
    segment: Segment, clip: Clip, edited: Edit, kept_THWC: np.ndarray, longest: int
) -> Passage:
    """What the base is shown of a segment.

    Args:
        kept_THWC: the frames with which it begins, as the segment before has made them.
        longest: frames of the longest clips that the base has learned.
    """
    look = edited.all[segment.look(edited.all)]
    led = [] if segment.anchor is None else [segment.anchor]
    numbers = [*led, *range(segment.start, segment.stop)]
    numbers += [segment.stop - 1] * (segment.shown - len(numbers))
    first = [look.image_HWC] if led or segment.opens else []
    return Passage(
        frames_THWC=np.stack([clip.frames_THWC[number] for number in numbers]),
        labels_THW=np.stack([clip.labels_THW[number] for number in numbers]),
        given_THWC=np.stack([*first, *kept_THWC]),
        caption=look.caption,
        flows=segment.opens or segment.kept > 0,
        times=segment.times(longest),
    )


class Reel:
    """A clip as far as it is generated, segment after segment.

    Args:
        inference: how its background is held.
        frames_THWC: where it is kept: of a clip of several segments, in a file.
        origin: the frame of the clip with which it begins.
        colours_C: the drift of the colours of the clip's first segment that tells of one, where
            that is not among those that are added.

    Attributes:
        frames_THWC: raw, at the workspace's size.
        colours_C: the drift at which later segments are held; None before it is known.
        failure: what has stopped it.
    """

    def __init__(
        self, clip: Clip, inference: Inference, frames_THWC: Frames, origin: int = 0,
        colours_C: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self._clip, self._inference, self._origin = clip, inference, origin
        self.frames_THWC = frames_THWC
        self.failure: UserError | Fault | OSError | None = None
        self.colours_C = colours_C

    def end(self, segment: Segment) -> np.ndarray:
        """The finished frames with which a segment begins, (T, H, W, 3)."""
        clip, inference = self._clip, self._inference
        numbers = range(segment.start, segment.start + segment.kept)
        frames = [self.frames_THWC[number - self._origin] for number in numbers]
        if inference.lock == "pixel":
            frames = [
                composite(
                    clip.frames_THWC[number], frame,
                    feather_alpha(clip.labels_THW[number] > 0, inference.feather),
                )
                for number, frame in zip(numbers, frames, strict=True)
            ]  # fmt: skip
        return np.array(frames, np.uint8).reshape(-1, *clip.frames_THWC.shape[1:])

    def add(self, segment: Segment, decoded_THWC: np.ndarray) -> None:
        """Put a segment's frames after those that are there.

        Args:
            decoded_THWC: all that the base was shown, uint8.
        """
        shown = segment.stop - segment.start
        frames_THWC = decoded_THWC[segment.led : segment.led + shown]
        if not isinstance(self.frames_THWC, StoredFrames):
            self.frames_THWC = frames_THWC
            return
        frames_THWC = self._steadied(segment, frames_THWC)[segment.kept :]
        start = segment.begins - self._origin
        made = len(self.frames_THWC) - start  # by the segment before, too
        if made:
            before_THWC = self.frames_THWC[start:]
            shared = self._inference.shared(self._clip.source.frames)
            weights = np.minimum(1.0, (np.arange(made) + 1) / (min(made, shared) + 1))
            both = blended(before_THWC, frames_THWC[:made], weights)
            frames_THWC = np.concatenate([both, frames_THWC[made:]])
        self.frames_THWC.put(start, frames_THWC)

    def _steadied(self, segment: Segment, frames_THWC: np.ndarray) -> np.ndarray:
        """A segment's frames with the first segment's colours: outside the mask one can tell."""
        part, clip = slice(segment.start, segment.stop), self._clip
        found_C = drift(frames_THWC, clip.frames_THWC[part], clip.labels_THW[part] == 0)
        if found_C is None:
            return frames_THWC
        if self.colours_C is None:
            self.colours_C = found_C
            return frames_THWC
        moved_C = found_C - self.colours_C
        if (worst := float(np.abs(moved_C).max())) < SEEN:
            return frames_THWC
        log.info("its colours are off by up to %.1f levels outside the mask: taken back", worst)
        return corrected(frames_THWC, moved_C)


@contextmanager
def generated(
    run: Run, base: Base, loras: list[LoraChoice], seeds: list[int], name: Name,
    anew: Collection[int] = (),
) -> Iterator["Takes"]:  # fmt: skip
    """The clip of each of some seeds, to be written within the context.

    Args:
        name: of sampled latents, by which an interrupted or changed run finds them again.
        anew: numbers of the segments, from 1, that are sampled whatever is kept of them.
    """
    segments, size_HWC = run.segments, run.clip.frames_THWC.shape[1:]
    with ExitStack() as end:
        kept: dict[int, Frames] = dict.fromkeys(seeds, np.zeros((0, *size_HWC), np.uint8))
        if len(segments) > 1:
            scratch = end.enter_context(waiting_frames(run))
            kept = {seed: StoredFrames(scratch / str(seed), size_HWC) for seed in seeds}
        inference = run.config.inference
        reels = {seed: Reel(run.clip, inference, frames) for seed, frames in kept.items()}
        takes = Takes(run, base, loras, range(1, len(segments) + 1), reels, name, anew)
        takes.generate()
        yield takes


def segments_from(run: Run, again: int | None) -> range:
    """The numbers of a clip's segments from one on, counted from 1; None: of none.

    Raises:
        UserError: the clip has no such segment.
    """
    count = len(run.segments)
    if again is not None and not 1 <= again <= count:
        raise UserError(
            f"--from {again}: this clip is generated in {count} segments, counted from 1"
        )
    return range(again or count + 1, count + 1)


@contextmanager
def waiting_frames(run: Run) -> Iterator[Path]:
    """A folder in the workspace's cache for frames that wait; gone at the end."""
    run.workspace.cache_dir.mkdir(parents=True, exist_ok=True)
    with scratch_folder(run.workspace.cache_dir, "frames") as scratch:
        yield scratch


class Takes:
    """A clip of each of some seeds, generated side by side; one that fails stops no other.

    Args:
        numbers: of its segments those that are generated, counted from 1.
        by_seed: what has come of each seed.
        name: as of `generated`.
        anew: numbers of the segments that are sampled whatever is kept of them.

    Attributes:
        seconds: spent on encoding, and on all the rest.
    """

    def __init__(
        self, run: Run, base: Base, loras: list[LoraChoice], numbers: range,
        by_seed: dict[int, Reel], name: Name, anew: Collection[int],
    ) -> None:  # fmt: skip
        self._run, self._base, self._loras, self._name = run, base, loras, name
        self._cache, self._anew = TensorCache(run.workspace.cache_dir), anew
        self._segments, self._numbers, self.by_seed = run.segments, numbers, by_seed
        self._kept: list[KeptLatents] = []
        self._last: dict[int, Tensor] = {}  # latents (C, T', h, w) of the last segment
        self.seconds = {"encoding": 0.0, "generating": 0.0}

    def generate(self) -> None:
        """Generate all of them."""
        began, count = perf_counter(), len(self._segments)
        for done, number in enumerate(self._numbers):
            segment = self._segments[number - 1]
            if all(reel.failure for reel in self.by_seed.values()):
                return
            named = f"segment {number} of {count}" if count > 1 else ""
            if named:
                ahead, seconds = len(self._numbers) - done, perf_counter() - began
                left = tqdm.format_interval(seconds / done * ahead) if done else ""
                log.info(
                    "%s: frames %d to %d%s", named, segment.start, segment.stop - 1,
                    f", about {left} left" if left else "",
                )  # fmt: skip
            with within(named):
                self._generate(number, segment)

    def frames(self, seed: int) -> Frames:
        """All frames of a seed, raw; asked for once. Raises what has stopped it."""
        reel = self.by_seed[seed]
        if reel.failure is not None:
            raise reel.failure
        self._add(reel, self._segments[self._numbers[-1] - 1], self._last[seed])
        return reel.frames_THWC

    def finish(self, seed: int) -> None:
        """The result stands. Of a long clip the segments are kept: a later one may change alone."""
        if len(self._segments) == 1:
            self._kept[0].drop(seed)

    def _generate(self, number: int, segment: Segment) -> None:
        began = perf_counter()
        going = [seed for seed, reel in self.by_seed.items() if reel.failure is None]
        encoded = self._encoded(segment, going)
        self.seconds["encoding"] += perf_counter() - began
        began = perf_counter()
        sampled = self._sampled(number, segment, encoded)
        if number == self._numbers[-1]:
            self._last = sampled  # decoded when it is asked for: a result is written after another
        else:
            self._decode(segment, sampled)
        self.seconds["generating"] += perf_counter() - began

    def _decode(self, segment: Segment, sampled: dict[int, Tensor]) -> None:
        for seed, latents_CTHW in sampled.items():
            reel = self.by_seed[seed]
            try:
                self._add(reel, segment, latents_CTHW)
            except (UserError, Fault, OSError) as error:
                reel.failure = error

    def _encoded(self, segment: Segment, seeds: list[int]) -> dict[int, Encoded]:
        """What the base is shown of a segment, which is another for each seed once it goes on."""
        run, model = self._run, self._run.model
        found: dict[int, Encoded] = {}
        for seed in seeds:
            if found and not segment.kept:
                found[seed] = found[seeds[0]]
                continue
            end_THWC = self.by_seed[seed].end(segment)
            shown = passage_of(segment, run.clip, run.edited, end_THWC, model.longest)
            found[seed] = encode(run.config, shown, model, self._cache)
        return found

    def _sampled(
        self, number: int, segment: Segment, encoded: dict[int, Encoded]
    ) -> dict[int, Tensor]:
        """Latents (C, T', h, w) by seed; what was sampled before is used."""
        names = {seed: self._name(one, seed) for seed, one in encoded.items()}
        if number > 1:  # noise of its own
            names = {seed: f"{name}-{number}" for seed, name in names.items()}
        kept = KeptLatents(self._cache, names)
        self._kept.append(kept)
        if number in self._anew:
            for seed in names:
                kept.drop(seed)
        found = kept.found()
        missing = {seed: one for seed, one in encoded.items() if seed not in found}
        if missing:
            self._run.model.team.gathered((missing, number - 1))
            sampled = generate(
                self._run.config, self._run.model, missing, self._loras, self._cache,
                partial(self._base.remember, segment.shown), kept.put, number - 1,
            )  # fmt: skip
            found.update(sampled)
        return found

    def _add(self, reel: Reel, segment: Segment, latents_CTHW: Tensor) -> None:
        reel.add(segment, to_bytes(decode_video(latents_CTHW, self._run.model)).numpy())
