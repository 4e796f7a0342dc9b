"""Judging rendered results without files."""

import numpy as np

from maskora.evaluation.judge import Moment, Sight, Truth, judge
from maskora.evaluation.measures import Numbers, gather
from maskora.evaluation.metrics import edit_colours
from tests.evaluation.scenes import Scene


def judged(scene: Scene, result: np.ndarray, *, truth: bool = True) -> Numbers:
    """The numbers of a result, with the truth or without."""
    moments = (
        Moment(
            result_HWC=result[n],
            source_HWC=scene.source[n],
            inside_HW=scene.box[n],
            truth=Truth(scene.truth[n], scene.object[n], scene.background[n]) if truth else None,
        )
        for n in range(len(result))
    )
    edit = edit_colours([(scene.truth[0], scene.source[0], scene.box[0])])
    return gather(list(judge(moments, edit, Sight(scene.truth[0]))))
