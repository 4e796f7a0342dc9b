"""Step folders of a run: the adapter, the optimizer and what the run depended on.

    runs/motion/step-00025/adapter.safetensors, optimizer.pt
    runs/motion/run.json        what the run depends on, and how far it got

Only the newest step keeps its optimizer state. The order and the noise of step k are drawn from
(seed, k) alone, so nothing else is needed to continue a run exactly.
"""

import io
import pickle
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError, safe_open

from maskora.errors import UserError
from maskora.files import move, patiently, remove, write_bytes, write_text

OPTIMIZER = "optimizer.pt"


class RunRecord(BaseModel):
    """run.json: what a run depends on (name -> content hash) and the last step that is saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    depends_on: dict[str, str]
    step: int


class RunFolder:
    """One stage's run on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.metrics = root / "metrics.jsonl"
        self.loss_picture = root / "loss.png"
        self.tensorboard = root / "tensorboard"
        self._record = root / "run.json"
        self._aside = root / ".earlier"

    def read(self) -> RunRecord | None:
        """The record of the saved run; None where there is none, or its files are not whole."""
        try:
            record = RunRecord.model_validate_json(patiently(self._record.read_bytes, self._record))
            with safe_open(self.adapter(record.step), "pt"):
                return record
        except (OSError, ValidationError, SafetensorError):
            return None

    def adapter(self, step: int) -> Path:
        """The LoRA file of a step."""
        return self._step(step) / "adapter.safetensors"

    def newest_adapter(self) -> Path | None:
        """The LoRA file of the last saved step, if any."""
        record = self.read()
        return self.adapter(record.step) if record else None

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """Start afresh, but keep the earlier run aside until the new one has saved a step.

        Without such a step (an error, an interruption) the earlier run is put back.
        """
        killed_before_its_first_step = self.read() is None and any(self._aside.glob("step-*"))
        if not killed_before_its_first_step:
            self._move(self.root, self._aside)
        try:
            yield
        finally:
            if self.read() is None:
                self._move(self._aside, self.root)
            remove(self._aside)

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
        path = self._step(step) / OPTIMIZER
        start_again = "leave out --resume to start again"
        try:
            saved = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            raise UserError(f"{path} is missing, so the run cannot go on: {start_again}") from None
        except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{path} is damaged ({reason}): {start_again}") from None
        if saved["kind"] != kind:
            raise UserError(
                f"{path} was written by {saved['kind']}, and {kind} would run now: set "
                f'optimizer.type = "{saved["kind"]}", or {start_again}'
            )
        state: dict[str, Any] = saved["state"]
        return state

    def finish_step(self, step: int, depends_on: dict[str, str]) -> None:
        """Record a step whose files are written, then drop older steps' optimizer states."""
        record = RunRecord(depends_on=depends_on, step=step)
        write_text(self._record, record.model_dump_json(indent=2) + "\n")
        remove(self._aside)
        for path in self.root.glob(f"step-*/{OPTIMIZER}"):
            if path.parent != self._step(step):
                remove(path)

    def _move(self, here: Path, there: Path) -> None:
        """Move a run's own files (a named edit's run may lie beside them) over what is there.

        What cannot be moved (another program has it open) leaves all of them where they were.
        """
        names = [path.name for folder in (here, there) for path in folder.glob("step-*")]
        own = [self._record, self.metrics, self.loss_picture, self.tensorboard]
        with ExitStack() as undo:
            for name in {*names, *(path.name for path in own)}:
                source, target = here / name, there / name
                remove(target)
                if source.exists():
                    there.mkdir(parents=True, exist_ok=True)
                    move(source, target)
                    undo.callback(move, target, source)
            undo.pop_all()

    def _step(self, step: int) -> Path:
        return self.root / f"step-{step:05d}"
