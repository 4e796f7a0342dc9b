"""CLIP-FD: how far the frames of all results are from those of their sources, as two crowds.

It is the distance of FID (Heusel et al. 2017), which IVEDiff takes between the edited frames and
the source's, over features of CLIP instead of Inception's; so it is no FID, and is not to be
compared with one. The features have length one.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from maskora.evaluation.clip import PictureEncoder
from maskora.video.probe import probe
from maskora.video.read import read_frames
from research.benchmark.results import Distance

AT_ONCE = 16  # frames


def frechet_distance(one_ND: np.ndarray, other_MD: np.ndarray) -> float:
    """The squared Fréchet distance of two Gaussians with the means and covariances of two crowds.

    |m - m'|² + tr(S + S' - 2 (S S')^½); the trace of the root is the sum of the roots of the
    eigenvalues of S S', which are real and at least 0.
    """
    gap_D = one_ND.mean(axis=0, dtype=np.float64) - other_MD.mean(axis=0, dtype=np.float64)
    one_DD, other_DD = (np.cov(each.astype(np.float64).T) for each in (one_ND, other_MD))
    roots_D = np.sqrt(np.linalg.eigvals(one_DD @ other_DD).real.clip(min=0.0))
    return float(gap_D @ gap_D + np.trace(one_DD) + np.trace(other_DD) - 2 * roots_D.sum())


def measure_distance(results: list[np.ndarray], sources: list[np.ndarray]) -> Distance:
    """CLIP-FD between the features (T, D) of all results' frames and of all sources'.

    With no more frames than features the covariances are not known, and nothing is said.
    """
    results_ND, sources_ND = np.concatenate(results), np.concatenate(sources)
    frames, features = results_ND.shape
    enough = min(frames, len(sources_ND)) > features
    value = frechet_distance(results_ND, sources_ND) if enough else None
    return Distance(value, frames, features)


def encode_clip(video: Path, encode: PictureEncoder) -> np.ndarray:
    """The features (T, D) of a video's frames. Raises UserError where it is damaged."""
    return np.concatenate([encode(some) for some in _batches(read_frames(probe(video)))])


def _batches(frames: Iterable[np.ndarray]) -> Iterable[list[np.ndarray]]:
    batch: list[np.ndarray] = []
    for frame_HWC in frames:
        batch.append(frame_HWC)
        if len(batch) == AT_ONCE:
            yield batch
            batch = []
    if batch:
        yield batch
