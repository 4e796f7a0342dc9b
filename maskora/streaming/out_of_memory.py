"""Running out of memory: which errors mean it, and work that is done again once some is given back.

Imports no torch.
"""

import errno
import gc
import logging
from collections.abc import Callable
from typing import Literal, TypeVar

from safetensors import SafetensorError

from maskora.errors import Fault, OutOfMemory

log = logging.getLogger("maskora")
Result = TypeVar("Result")
# What torch and the libraries below it say when the GPU has no memory left. The allocator has a
# class of its own; the driver, and libraries that allocate by themselves, have only words.
DEVICE_MESSAGES = (
    "CUDA out of memory",
    "CUDA error: out of memory",
    "CUDA driver error: out of memory",
    "Triton Error [CUDA]: out of memory",  # of compiled blocks
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",  # its handle could not be allocated
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED",  # its name since cuDNN 9
    "CUDNN_STATUS_NOT_INITIALIZED",
    "CUSOLVER_STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",  # cuDNN: none got its workspace
    "NVML_SUCCESS == r",  # the allocator's own report of a full GPU failed
)
HOST_MESSAGES = (
    "can't allocate memory",  # torch's CPU allocator on POSIX
    "not enough memory: you tried to allocate",  # and on Windows
    "annot allocate memory",  # the system's own words, which libraries pass on
    "failed to map segment from shared object",  # a library that is just being imported
    "can't start new thread",
    "could not create a primitive",  # oneDNN
    "Insufficient memory",  # OpenCV
)
WINDOWS_CODES = (8, 14, 1455)  # not enough memory, out of memory, the paging file is too small


def ran_out_of(error: BaseException) -> Literal["VRAM", "RAM"] | None:
    """Which memory an error is about; None where it is about something else."""
    if isinstance(error, MemoryError):
        return "RAM"
    if isinstance(error, OSError):
        code = getattr(error, "winerror", None)
        return "RAM" if error.errno == errno.ENOMEM or code in WINDOWS_CODES else None
    if type(error).__name__ == "OutOfMemoryError":  # torch's
        return "VRAM"
    if type(error).__name__ == "PanicException":  # tokenizers', which is no Exception
        return "RAM" if "ThreadPoolBuildError" in str(error) else None
    library = isinstance(error, RuntimeError | ImportError | SafetensorError)
    library = library or type(error).__module__ == "cv2"
    if library and not isinstance(error, Fault):  # ours are final
        said = str(error)
        if any(message in said for message in DEVICE_MESSAGES):
            return "VRAM"
        if any(message in said for message in HOST_MESSAGES):
            return "RAM"
    return None


def with_room(work: Callable[[], Result], give: Callable[[], str | None]) -> Result:
    """Do some work; where the GPU's memory runs out, give some of it back and do it again.

    Args:
        work: may be done again from its start after it has failed.
        give: frees memory of the device for good, and answers what it changed, for people; None
            where nothing is left to give.

    Raises:
        OutOfMemory: nothing is left to give, or memory runs out while it is given, too.
    """
    while True:
        try:
            return work()
        except RuntimeError as error:
            if ran_out_of(error) != "VRAM":
                raise
            said = first_line(error)
        gc.collect()  # what the failed work held; its frames are gone with the error
        try:
            changed = give()
        except (RuntimeError, MemoryError, OSError) as error:
            if ran_out_of(error) is None:
                raise
            raise OutOfMemory(first_line(error)) from error
        if changed is None:
            raise OutOfMemory(said)
        log.warning("out of GPU memory (%s): %s; the same work is done again", said, changed)


def first_line(error: BaseException) -> str:
    """The part of a message that fits a line."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
