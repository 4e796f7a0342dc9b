"""The folder of a batch's results: on this machine, or in a store."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from maskora.app.batch_page import NAME, read_record
from maskora.app.remote import (
    default_scratch,
    fetch,
    find_names,
    is_remote,
    local_place,
    open_store,
    put,
)
from maskora.errors import UserError
from maskora.files import remove, replacing


@dataclass(frozen=True)
class ResultsFolder:
    """Where results lie.

    Attributes:
        folder: on this machine; what goes into a store is made there.
        url: of the folder in a store; empty where there is none.
        scratch: the folder for what comes from a store, and what goes there.
    """

    folder: Path
    url: str
    scratch: Path

    @classmethod
    def at(cls, place: str, scratch: Path | None = None) -> "ResultsFolder":
        """The folder of a path or a URL. Raises UserError where it can be none."""
        scratch = scratch or default_scratch()
        if is_remote(place):
            open_store(place)
            url = place.rstrip("/")
            return cls(local_place(f"{url}/{NAME}", scratch).parent, url, scratch)
        if Path(place).exists() and not Path(place).is_dir():
            raise UserError(f"the results go into a folder, and {place} is a file")
        return cls(Path(place), "", scratch)

    def name(self, file: str) -> str:
        """One of its files, as `maskora edit` is told of it; -x.mp4 here is ./-x.mp4, no option."""
        return f"{self.url}/{file}" if self.url else os.path.join(self.folder, file)

    def workspace_words(self, job: str) -> list[str]:
        """Where a job's work is kept, if it has not said; in a store it is not."""
        return [] if self.url else ["--workspace", str(self.folder / f"{job}.work")]

    def pull(self) -> None:
        """Take over the records that are in the store; results of another machine count."""
        if not self.url:
            return
        before = read_record(self.folder)
        for name in find_names(self.url, f"{NAME}*.json"):
            with replacing(self.folder / name) as part:
                shutil.copyfile(fetch(self.name(name), self.scratch), part)
        for name, records in read_record(self.folder).items():
            known = [record.outputs for record in before.get(name, [])]
            for place in (
                place for one in records if one.outputs not in known for place in one.outputs
            ):
                made = local_place(place, self.scratch)
                if made.parent == self.folder and made.is_file():
                    remove(made)  # what stands there is older

    def push(self, path: Path) -> None:
        """Put one of its files into the store, if there is one. Raises UserError, Fault."""
        if self.url:
            put(path, self.name(path.name))

    def video(self, place: str, outputs: dict[str, str]) -> Path:
        """A result on this machine; of a store, as it was made here, or fetched."""
        if not self.url:
            return Path(place)
        made = local_place(place, self.scratch)
        return made if made.is_file() or place not in outputs else fetch(place, self.scratch)
