"""Jobs of a batch as tasks of a Ray cluster.

A job is two tasks: what comes before training needs no GPU, and so never waits for one, nor holds
one; the rest needs one, and the memory that was planned. Ray starts a task anew elsewhere where its
node is lost.
"""

import logging
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, TaskCancelledError

from maskora.app.processes import INTERRUPTED
from maskora.app.ray_node import finish_on_node, prepare_on_node
from maskora.errors import UserError
from maskora.system import INTERRUPTIONS

# A part of a job, on a node: its words, its log, the folder that its paths count from -> the exit
# status, and the bytes of RAM that the next part takes, where that is known.
Part = Callable[[list[str], Path, Path], tuple[int, int | None]]
RETRIES = 3  # of a task whose node or process is lost
PREPARES: dict[str, float] = {"num_cpus": 1, "num_gpus": 0}
KNOCKING = 10  # seconds that a head has to answer


@contextmanager
def cluster(address: str, count: int) -> Iterator["RayWorkers"]:
    """The workers of a Ray cluster.

    Args:
        address: HOST:PORT of its head; "auto": the cluster of this machine.
        count: jobs that may be under way at a time.

    Raises:
        UserError: there is no such cluster.
    """
    host, _, port = address.rpartition(":")
    try:
        if port.isdecimal():  # Ray itself would knock for minutes
            socket.create_connection((host, int(port)), KNOCKING).close()
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (OSError, OverflowError, RuntimeError, ValueError) as error:
        raise UserError(
            f"no Ray cluster answers at {address!r} ({str(error).splitlines()[0]}): "
            f"start one with ray start --head"
        ) from None
    try:
        yield RayWorkers(count)
    finally:
        ray.shutdown()


class RayWorkers:
    """The nodes of the cluster that this process has joined."""

    pause = 0.5
    told: Sequence[int] = INTERRUPTIONS

    def __init__(self, count: int) -> None:
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        with_gpu = [node for node in nodes if node.get("GPU", 0) >= 1]
        self.count, self.has_gpus, self.trainers = count, bool(with_gpu), with_gpu or nodes
        with_retries: Any = ray.remote(max_retries=RETRIES)
        self.prepare = with_retries(_timed(partial(prepare_on_node, self.has_gpus)))
        self.finish = with_retries(_timed(finish_on_node))

    def start(self, words: Sequence[str], log: Path, worker: int) -> "RayJob":
        """As of `batch.Workers`."""
        return RayJob(self, list(words), log)

    def demands(self, ram: int | None, owns_device: bool) -> dict[str, float]:
        """What training asks of a node.

        One GPU where there are any, unless the job names its device; of the processor, what comes
        to each of the node's GPUs and to preparation; of the memory, at most what a node has, since
        a run makes do with less.
        """
        gpus = int(self.has_gpus and not owns_device)
        share = min(node.get("CPU", 0) // (node.get("GPU", 0) + 1) for node in self.trainers)
        most = max(node.get("memory", 0) for node in self.trainers)
        asked: dict[str, float] = {"num_cpus": max(1, share) if gpus else 1, "num_gpus": gpus}
        return asked | ({"memory": int(min(ram, most))} if ram else {})


class RayJob:
    """A job in a cluster; a `batch.Running`."""

    def __init__(self, workers: RayWorkers, words: list[str], log: Path) -> None:
        self.workers, self.words, self.log = workers, words, log
        self.seconds, self.is_prepared = 0.0, False
        self.is_stopping = self.is_cancelled = False
        self.task = self._submit(workers.prepare, PREPARES)

    def poll(self) -> int | None:
        """Its exit status; None while it is under way."""
        if self.is_stopping and not self.is_cancelled:
            self.is_cancelled = True
            ray.cancel(self.task)
        if not ray.wait([self.task], timeout=0)[0]:
            return None
        try:
            (status, ram), seconds = ray.get(self.task)
        except TaskCancelledError:
            return INTERRUPTED
        except RayError as error:
            return self._lost(str(error).strip().splitlines()[-1])
        self.seconds = round(self.seconds + seconds, 3)
        if status or self.is_prepared:
            return int(status)
        if self.is_stopping:
            return INTERRUPTED
        self.is_prepared = True
        owns_device = any(word.partition("=")[0] == "--device" for word in self.words)
        self.task = self._submit(self.workers.finish, self.workers.demands(ram, owns_device))
        return None

    def terminate(self) -> None:
        """Have it cancelled at the next look: this is called in the middle of anything."""
        self.is_stopping = True

    def _submit(self, part: Any, demands: dict[str, float]) -> Any:
        log, folder = self.log.absolute(), Path.cwd()
        return part.options(**demands).remote(self.words, log, folder)

    def _lost(self, reason: str) -> int:
        """Write down why the cluster has given a job up; returns its exit status."""
        with self.log.open("a", encoding="utf-8", newline="\n") as file:
            file.write(f"maskora: the cluster could not run it: {reason}\n")
        return 1


def _timed(part: Part) -> Callable[[list[str], Path, Path], tuple[tuple[int, int | None], float]]:
    """A part that tells how many seconds it took, too."""

    def run(words: list[str], log: Path, folder: Path) -> tuple[tuple[int, int | None], float]:
        since = time.monotonic()
        return part(words, log, folder), time.monotonic() - since

    return run
