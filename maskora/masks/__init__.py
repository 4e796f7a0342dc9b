"""Masks: files of them, prompts, trackers, and the regions made from silhouettes."""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]  # 0 = keep, 1..n = the objects to edit
Silhouette = npt.NDArray[np.bool_]  # where one object is
