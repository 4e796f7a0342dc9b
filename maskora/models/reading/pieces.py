"""A base put together from parts that lie in files of their own, and one laid over another."""

from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskora.errors import UserError
from maskora.models.folder import check_readable, part_files
from maskora.models.reading.part import StoredPart

if TYPE_CHECKING:
    from maskora.models.source import Source
    from maskora.streaming.sources import Reader


class Pieces:
    """Parts in files of their own. See `maskora.models.source.Source` for what each promises."""

    def __init__(
        self,
        where: Path,
        what: str,
        parts: Mapping[str, StoredPart],
        settings: Mapping[str, dict[str, Any]],
        folders: Mapping[str, Callable[[], Path]],
    ) -> None:
        """
        Args:
            what: what lies there, in a few words.
            parts: those with weights, by name.
            settings: the configuration of parts that are nothing more.
            folders: a folder for each part that transformers reads by itself.
        """
        self.where = where
        self._what, self._parts = what, parts
        self._settings, self._folders = settings, folders

    @property
    def told(self) -> str:
        return "\n  ".join([self._what, *(self._parts[part].told for part in self.parts())])

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        has = {*self._parts, *self._settings, *self._folders}
        missing = [part for part in (*weights, *files) if part not in has]
        own = [self._parts[part] for part in weights if part in self._parts]
        missing += [self._short(path) for part in own for path in part.missing]
        problems = [f"{self._what}: missing {', '.join(missing)}"] if missing else []
        problems += _complaints(part.check for part in own if not part.missing)
        problems += _complaints(
            partial(self._check_folder, part, names)
            for part, names in files.items()
            if part in self._folders
        )
        if problems:
            raise UserError("\n".join(dict.fromkeys(problems)))

    def _check_folder(self, part: str, names: tuple[str, ...]) -> None:
        folder = self._folders[part]()
        if not any((folder / name).is_file() for name in names):
            raise UserError(f"{self._what}: missing {self._short(folder / names[0])}")
        check_readable(folder)

    def _short(self, path: Path) -> str:
        return str(path.relative_to(self.where) if path.is_relative_to(self.where) else path)

    def config(self, part: str) -> dict[str, Any]:
        if part in self._settings:
            return dict(self._settings[part])
        return dict(self._part(part).kind.config)

    def described(self, part: str) -> str:
        return self._part(part).where if part in self._parts else self._what

    def index(self) -> dict[str, Any]:
        return {}

    def weights(self, part: str) -> "Reader":
        return self._part(part).reader()

    def folder(self, part: str) -> Path:
        if part not in self._folders:
            raise UserError(f"{self._what} has no {part}")
        return self._folders[part]()

    def parts(self) -> list[str]:
        return sorted(name for name, part in self._parts.items() if not part.missing)

    def paths(self, part: str) -> list[Path]:
        if part in self._folders:
            return part_files(self._folders[part]())
        return self._parts[part].files if part in self._parts else []

    def _part(self, part: str) -> StoredPart:
        if part not in self._parts:
            raise UserError(f"{self._what} has no {part}")
        return self._parts[part]


class Overlaid:
    """Some parts in files of their own, all others where a whole base lies. See `Source`."""

    def __init__(self, top: Pieces, own: Collection[str], under: "Source") -> None:
        """`own`: which parts `top` has."""
        self.where = under.where
        self._top, self._own, self._under = top, frozenset(own), under

    @property
    def told(self) -> str:
        return f"{self._top.told}\n  all else: {self._under.told}"

    def check(self, weights: tuple[str, ...], files: dict[str, tuple[str, ...]]) -> None:
        own = tuple(part for part in weights if part in self._own)
        others = tuple(part for part in weights if part not in self._own)
        problems = _complaints(
            [partial(self._top.check, own, {}), partial(self._under.check, others, files)]
        )
        if problems:
            raise UserError("\n".join(problems))

    def config(self, part: str) -> dict[str, Any]:
        return self._home(part).config(part)

    def described(self, part: str) -> str:
        return self._home(part).described(part)

    def index(self) -> dict[str, Any]:
        return self._under.index()

    def weights(self, part: str) -> "Reader":
        return self._home(part).weights(part)

    def folder(self, part: str) -> Path:
        return self._under.folder(part)

    def parts(self) -> list[str]:
        under = {part for part in self._under.parts() if part not in self._own}
        return sorted({*self._top.parts(), *under})

    def paths(self, part: str) -> list[Path]:
        return self._home(part).paths(part)

    def _home(self, part: str) -> "Source":
        return self._top if part in self._own else self._under


def _complaints(attempts: Iterable[Callable[[], object]]) -> list[str]:
    """What is wrong with each that fails."""
    problems = []
    for attempt in attempts:
        try:
            attempt()
        except UserError as error:
            problems.append(str(error))
    return problems
