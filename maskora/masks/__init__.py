"""Masks: files of them, and the shapes made from silhouettes."""

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.uint8]  # 0 = keep, 1..n = the objects to edit
