"""What all tests share: a tiny model of the real classes, and the real clips where they are."""

import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from maskora import devices, interruption
from maskora.system import INTERRUPTIONS
from tests.system import ELSEWHERE

REPOSITORY = Path(__file__).parents[1]


def pytest_configure() -> None:
    """`make test-elsewhere` runs on the other system, or not at all."""
    if os.environ.get("MASKORA_ELSEWHERE") and not ELSEWHERE:
        raise pytest.UsageError("tests/elsewhere is not on PYTHONPATH, or failed to begin")
    # In a shell's background Ctrl-C is ignored, and every process started from here would be so.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_device() -> Iterator[None]:
    """No test sees the devices that another has simulated or chosen."""
    yield
    devices.forget()


@pytest.fixture(autouse=True, scope="session")
def _own_queue(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Jobs of the tests wait for each other, and not for those of whoever runs them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))
        yield


@pytest.fixture(autouse=True, scope="module")
def _freeze_what_is_loaded() -> None:
    """The libraries' objects are not looked through again each time that a model is released."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete Wan2.1-I2V folder with random weights."""
    from maskora.models.tiny import write_tiny_model

    folder = tmp_path_factory.mktemp("models") / "tiny"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def deep_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with five transformer blocks, for what happens between blocks."""
    from maskora.models.tiny import write_tiny_model

    folder = tmp_path_factory.mktemp("models") / "deep"
    write_tiny_model(folder, layers=5)
    return folder


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """The folder of real clips; skips where this checkout has none beside it."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real clips are not here (../shared/data)")
    return folder


@pytest.fixture(autouse=True)
def leave_no_log_handler() -> Iterator[None]:
    """A command that ran in this process logs to the stderr of its own test alone."""
    yield
    for handler in logging.root.handlers[:]:
        if type(handler) is logging.StreamHandler:
            logging.root.removeHandler(handler)


class _Ignoring:
    """Python ignores what comes up while this goes."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


@pytest.fixture
def ignored_interruption(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A command runs, was interrupted, and goes on: the exception was lost."""
    before = {number: signal.getsignal(number) for number in INTERRUPTIONS}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    interruption.catch()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "unraisablehook", lambda _: None)
        one = _Ignoring()
        del one
    yield
    interruption.forget()
    for number, handler in before.items():
        signal.signal(number, handler)
