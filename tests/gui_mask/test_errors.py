"""What others wrote is shown as it is, and as nothing else."""

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from gui_mask.errors import caught, plain
from maskora.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "![x](http://evil.example/a.png)",
        "[click](javascript:alert(1))",
        "<img src=x onerror=alert(1)>",
        "http://evil.example/ and **bold** `code` # head",
        "$x$ ~~gone~~ | a | b |",
    ],
)
def test_nothing_in_it_is_markup(text: str) -> None:
    shown = MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(plain(text))
    assert re.findall(r"<(?!/?p>)", shown) == []


@settings(max_examples=1000)
@given(st.text(st.characters(codec="ascii", categories=("L", "N", "P", "S")), min_size=1))
def test_it_reads_as_it_was_written(text: str) -> None:
    shown = MarkdownIt("commonmark").render(plain(text)).strip()
    plainly = shown.removeprefix("<p>").removesuffix("</p>")
    for entity, letter in (("&lt;", "<"), ("&gt;", ">"), ("&quot;", '"'), ("&amp;", "&")):
        plainly = plainly.replace(entity, letter)
    assert plainly == text


def test_an_upload_is_called_as_the_person_knows_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    uploaded = tmp_path / ("0123456789abcdef" * 4) / "my clip.mp4"
    with caught() as problem:
        raise UserError(f"{uploaded}: no video; {tmp_path}x stays")
    assert problem.text == f"my clip.mp4: no video; {tmp_path}x stays"


def test_a_bug_is_raised_on() -> None:
    with pytest.raises(ZeroDivisionError), caught():
        _ = 1 / 0
    with caught() as problem:
        raise UserError("no such thing")
    assert problem.text == "no such thing"


def test_half_a_character_is_told() -> None:
    with caught() as problem:
        "a caf\ud800".encode()
    assert "half a character" in problem.text
