"""What came of the trials of one part, and the table of all parts."""

import json
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

GOOD = ("works", "told", "the same")


@dataclass
class Part:
    """The trials of one part.

    Attributes:
        counts: trials by verdict.
        seconds: that all of it took.
        bad: of each verdict that is not good, what was done and what was answered.
    """

    title: str
    counts: Counter[str] = field(default_factory=Counter)
    bad: list[dict[str, str]] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, verdict: str, what: str, answer: str = "") -> None:
        """Count a trial; what is not good is kept, and printed at once."""
        self.counts[verdict] += 1
        if verdict not in GOOD:
            self.bad.append({"verdict": verdict, "what": what, "answer": answer[-3000:]})
            print(f"  {verdict}: {what}", flush=True)

    @property
    def row(self) -> str:
        """One line of docs/reliability.md's table."""
        trials = sum(self.counts.values())
        good = sum(self.counts[verdict] for verdict in GOOD)
        kinds = ", ".join(f"{count} {verdict}" for verdict, count in self.counts.most_common())
        return f"| {self.title} | {trials} | {good} | {kinds} | {self.seconds:.0f} |"


def table(parts: list[Part]) -> str:
    """The rows of all parts."""
    head = "| | trials | right | of which | seconds |\n|---|---|---|---|---|"
    return "\n".join([head, *(part.row for part in parts)])


def keep(parts: list[Part], path: Path) -> None:
    """Everything that was not right, for whoever mends it."""
    path.write_text(json.dumps({part.title: part.bad for part in parts}, indent=1) + "\n")
