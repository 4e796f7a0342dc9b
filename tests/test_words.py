"""The code speaks the field's English: words that were replaced stay away."""

import re
import subprocess

import pytest

from tests.conftest import REPOSITORY

# Names of the code that have better ones now.
NAMES = (
    "told_plainly", "TOLD_ERRORS", r"tell_\w+", "Cue", "_standing", "motion_depends", "Supply",
    "Keeper", "Moment", "dials", "footprint", "Overlaid", "take_files", "Sight", "_Looks", "Desk",
    "Places", "only_one", "lottery", "find_base",
)  # fmt: skip
# Phrases that a person met in messages, docs or comments.
PHRASES = (
    "by lot", "the house", "[a-z]+ to mend", "without a word", "as the transformer meets it",
    "nobody believes", "trains again", "(the|a|no|this|any) cards?",
)  # fmt: skip


def sources() -> dict[str, str]:
    """Path -> text of everything that people read, but for the tests and what others wrote."""
    listed = subprocess.run(
        ["git", "ls-files", "maskora", "gui_mask", "research", "benchmarks", "docs", "configs",
         "scripts", "*.md", "Makefile"],
        cwd=REPOSITORY, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    ends = (".py", ".md", ".toml", ".sh", ".js", ".html", "Makefile")
    paths = [path for path in listed.stdout.splitlines() if path.endswith(ends)]
    return {path: (REPOSITORY / path).read_text(encoding="utf-8") for path in paths}


@pytest.mark.parametrize("words", [NAMES, PHRASES], ids=["names", "phrases"])
def test_words_that_were_replaced_stay_away(words: tuple[str, ...]) -> None:
    pattern = re.compile(rf"\b({'|'.join(words)})\b")
    texts = sources()
    assert len(texts) > 100
    found = [
        f"{path}: {match[0]}" for path, text in texts.items() for match in pattern.finditer(text)
    ]
    assert found == []


def test_a_name_means_one_thing() -> None:
    """No two public classes of the installed code share a name."""
    places: dict[str, list[str]] = {}
    for path, text in sources().items():
        if path.startswith(("maskora", "gui_mask")):
            for name in re.findall(r"^class ([A-Z]\w+)", text, re.MULTILINE):
                places.setdefault(name, []).append(path)
    assert {name: paths for name, paths in places.items() if len(paths) > 1} == {}
