"""Step folders of a run: the adapter, the optimizer and what the run depended on.

    runs/motion/step-00025/adapter.safetensors, optimizer.pt
    runs/motion/run.json        what the run depends on, how far it got, and the files' digests

The last two steps keep their optimizer state, so that the run goes on from the one before where the
newest is damaged. The order and the noise of step k are drawn from (seed, k) alone, so nothing else
is needed to continue a run exactly.
"""

import hashlib
import io
import logging
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from maskora.errors import UserError
from maskora.files import move, read_small, remove, sha256_file, write_bytes, write_text
from maskora.streaming.header import read_header
from maskora.streaming.out_of_memory import ran_out_of

ADAPTER, OPTIMIZER = "adapter.safetensors", "optimizer.pt"
RESUMABLE = 2  # steps that keep their optimizer's state
# What is raised of a file that holds something else; UserError is a ValueError.
UNREADABLE = (
    pickle.UnpicklingError, RuntimeError, EOFError, LookupError, ValueError, TypeError,
    AttributeError,
)  # fmt: skip
log = logging.getLogger("maskora")


class RunRecord(BaseModel):
    """run.json: what a run depends on (name -> content hash) and the last step that is saved.

    Attributes:
        digests: step -> name -> SHA-256 of its files; of earlier versions' runs not known.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    depends_on: dict[str, str]
    step: int
    digests: dict[int, dict[str, str]] = {}


class RunFolder:
    """One stage's run on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = root / "metrics.jsonl"
        self.loss_picture = root / "loss.png"
        self.tensorboard = root / "tensorboard"
        self._record = root / "run.json"
        self._earlier, self._moving, self._gone = (
            root / name for name in (".earlier", ".moving", ".gone")
        )

    def read(self) -> RunRecord | None:
        """The record of the saved run; None where there is none, or it is damaged (logged)."""
        try:
            return RunRecord.model_validate_json(read_small(self._record))
        except FileNotFoundError:
            return None
        except (IsADirectoryError, ValidationError):
            log.warning("note: %s is damaged, so the run beside it does not count", self._record)
            return None

    def damage(self, record: RunRecord, step: int, name: str = ADAPTER) -> str | None:
        """What is wrong with a step's file, in a clause; None where it is as it was written.

        What has no digest, of an earlier version, has to be readable.
        """
        path, digest = self._step(step) / name, record.digests.get(step, {}).get(name)
        if not path.exists():
            return f"{path} is missing"
        try:
            if digest is not None:
                return None if sha256_file(path) == digest else f"{path} is damaged"
            if name == ADAPTER:
                read_header(path)
            else:
                _load(path)
        except (IsADirectoryError, *UNREADABLE) as error:
            if ran_out_of(error) is not None:
                raise
            return f"{path} is damaged"
        return None

    def whole_step(self, record: RunRecord) -> int:
        """The newest step that training can go on from; 0 where there is none. Logs why."""
        for step in sorted({record.step, *self._steps()}, reverse=True):
            found = (self.damage(record, step, name) for name in (ADAPTER, OPTIMIZER))
            damage = next(filter(None, found), None)
            if step <= record.step and damage is None:
                return step
            if step == record.step:
                log.warning("note: %s", damage)
        return 0

    def rewind(self, record: RunRecord, step: int) -> None:
        """Let a step be the last one that is saved; what lies beside it of later ones goes."""
        if step < record.step:
            self._write(record.model_copy(update={"step": step}))
        for later in self._steps():
            if later > step:
                remove(self._step(later))

    def look_over(self, record: RunRecord) -> None:
        """Log what is damaged of what the run does not go on from; such a step is removed."""
        for step in self._steps():
            if step < record.step and (damage := self.damage(record, step)):
                log.warning("note: %s; the step is removed", damage)
                remove(self._step(step))
        digest = record.digests.get(record.step, {}).get(self.metrics.name)
        if digest not in (None, self._metrics_digest(record.step)):
            log.warning("note: %s is damaged; no LoRA depends on it", self.metrics)

    def _metrics_digest(self, step: int) -> str | None:
        """Of the lines up to a step; None where there are none."""
        if not self.metrics.is_file():
            return None
        lines = read_small(self.metrics).splitlines(keepends=True)
        return hashlib.sha256(b"".join(lines[:step])).hexdigest()

    def adapter(self, step: int) -> Path:
        """The LoRA file of a step."""
        return self._step(step) / ADAPTER

    def newest_adapter(self) -> Path | None:
        """The LoRA file of the last saved step; None where there is no run.

        Raises:
            UserError: it is missing or damaged.
        """
        record = self.read()
        if record is None:
            return None
        if damage := self.damage(record, record.step):
            raise UserError(f"{damage}: train --resume makes it again")
        return self.adapter(record.step)

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Start afresh, but keep the earlier run aside until the new one has saved a step.

        Without such a step (an error, an interruption) the earlier run is put back.
        """
        self.settle()
        try:
            for path in self._own():
                self._moving.mkdir(exist_ok=True)
                move(path, self._moving / path.name)
            if self._moving.exists():
                move(self._moving, self._earlier)
            yield
        finally:
            self.settle()

    def settle(self) -> None:
        """Finish what was begun with an earlier run: it goes where the new one has saved a step.

        Otherwise it is put back, whenever its writer was killed.
        """
        remove(self._gone)
        for link in (one for one in (self._earlier, self._moving) if one.is_symlink()):
            remove(link)  # which no run makes
        if self._earlier.is_dir():
            if self._record.is_file():
                move(self._earlier, self._gone)
                remove(self._gone)
            else:
                for path in self._own():
                    remove(path)
                move(self._earlier, self._moving)
        if self._moving.is_dir():
            for path in self._moving.iterdir():
                move(path, self.root / path.name)
            self._moving.rmdir()

    def save_optimizer(self, step: int, kind: str, state: dict[str, Any]) -> None:
        """Keep the optimizer's state beside the step's adapter."""
        buffer = io.BytesIO()
        torch.save({"kind": kind, "state": state}, buffer)
        write_bytes(self._step(step) / OPTIMIZER, buffer.getvalue())

    def load_optimizer(self, step: int, kind: str) -> dict[str, Any]:
        """The optimizer's state of a step; nothing but tensors and numbers is unpickled.

        Raises:
            UserError: it is missing, damaged or of another kind of optimizer.
        """
        path, start_again = self._step(step) / OPTIMIZER, "leave out --resume to start again"
        record = self.read() or RunRecord(depends_on={}, step=step)
        if damage := self.damage(record, step, OPTIMIZER):
            raise UserError(f"{damage}, so the run cannot go on: {start_again}")
        saved = _load(path)
        if saved["kind"] != kind:
            raise UserError(
                f"{path} was written by {saved['kind']}, and {kind} would run now: set "
                f'optimizer.type = "{saved["kind"]}", or {start_again}'
            )
        state: dict[str, Any] = saved["state"]
        return state

    def finish_step(self, step: int, depends_on: dict[str, str]) -> None:
        """Record a step whose files are written, then drop older steps' optimizer states."""
        earlier = self.read()
        known = {} if earlier is None else earlier.digests
        digests = {before: files for before, files in known.items() if before < step}
        files = (self._step(step) / name for name in (ADAPTER, OPTIMIZER))
        digests[step] = {path.name: sha256_file(path) for path in files if path.is_file()}
        if (metrics := self._metrics_digest(step)) is not None:
            digests[step][self.metrics.name] = metrics
        self._write(RunRecord(depends_on=depends_on, step=step, digests=digests))
        self.settle()
        for old in self._steps()[:-RESUMABLE]:
            remove(self._step(old) / OPTIMIZER)

    def _write(self, record: RunRecord) -> None:
        write_text(self._record, record.model_dump_json(indent=2) + "\n")

    def _own(self) -> list[Path]:
        """A run's own files that are there (a named edit's run may lie beside them)."""
        own = [self._record, self.metrics, self.loss_picture, self.tensorboard]
        return [*(path for path in own if path.exists()), *self.root.glob("step-*")]

    def _steps(self) -> list[int]:
        """The steps that have a folder, in order."""
        names = [path.name.removeprefix("step-") for path in self.root.glob("step-*")]
        return sorted(int(name) for name in names if name.isdecimal())

    def _step(self, step: int) -> Path:
        return self.root / f"step-{step:05d}"


def _load(path: Path) -> dict[str, Any]:
    """An optimizer's file. Raises one of UNREADABLE where it is none."""
    saved = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(saved, dict) or not saved.keys() >= {"kind", "state"}:
        raise ValueError("it is no optimizer's state")
    return saved
