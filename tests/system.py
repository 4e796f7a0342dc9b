"""On which system the tests run."""

import os
import sys

import pytest

ELSEWHERE = "other_system" in sys.modules  # tests/elsewhere: a system without anything of POSIX
IS_POSIX = os.name == "posix" and not ELSEWHERE
posix_only = pytest.mark.skipif(not IS_POSIX, reason="of what only POSIX has")
