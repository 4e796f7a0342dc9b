"""Step folders of a run: the adapter, the optimizer and what the run depended on.

    runs/motion/step-00025/adapter.safetensors, optimizer.pt
    runs/motion/run.json        what the run depends on, and how far it got

Only the newest step keeps its optimizer state. The order and the noise of step k are drawn from
(seed, k) alone, so nothing else is needed to continue a run exactly.
"""

import shutil
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from maskora.files import replacing, write_text

ADAPTER, OPTIMIZER = "adapter.safetensors", "optimizer.pt"


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

    def read(self) -> RunRecord | None:
        """What is saved here; None where there is no run, or none whose files are whole."""
        try:
            record = RunRecord.model_validate_json(self._record.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValidationError):
            return None
        return record if self.adapter(record.step).is_file() else None

    def adapter(self, step: int) -> Path:
        """The LoRA file of a step."""
        return self._step(step) / ADAPTER

    def newest_adapter(self) -> Path | None:
        """The LoRA file of the last saved step, if any."""
        record = self.read()
        return self.adapter(record.step) if record else None

    def clear(self) -> None:
        """Remove an earlier run."""
        if self.root.exists():
            for path in [*self.root.glob("step-*"), self.tensorboard]:
                shutil.rmtree(path, ignore_errors=True)
            for path in (self._record, self.metrics, self.loss_picture):
                path.unlink(missing_ok=True)

    def save_optimizer(self, step: int, state: dict[str, Any]) -> None:
        """Keep the optimizer's state beside the step's adapter."""
        with replacing(self._step(step) / OPTIMIZER) as scratch:
            torch.save(state, scratch)

    def load_optimizer(self, step: int) -> dict[str, Any]:
        """The optimizer's state of a step; nothing but tensors and numbers is unpickled."""
        state: dict[str, Any] = torch.load(
            self._step(step) / OPTIMIZER, map_location="cpu", weights_only=True
        )
        return state

    def finish_step(self, step: int, depends_on: dict[str, str]) -> None:
        """Record a step whose files are written, then drop older steps' optimizer states."""
        record = RunRecord(depends_on=depends_on, step=step)
        write_text(self._record, record.model_dump_json(indent=2) + "\n")
        for path in self.root.glob(f"step-*/{OPTIMIZER}"):
            if path.parent != self._step(step):
                path.unlink()

    def _step(self, step: int) -> Path:
        return self.root / f"step-{step:05d}"
