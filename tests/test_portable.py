"""The code holds on every system: UTF-8, lines that end alike, no module that only POSIX has."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for room in ("maskora", "gui_mask") for path in (ROOT / room).rglob("*.py"))
MODE = re.compile(r"[rwxabt+]{1,3}")
LISTED = (Path(__file__).parent / "elsewhere" / "lacking.txt").read_text("utf-8")
(ABSENT,) = re.findall(r"^modules: (.*)$", LISTED, re.MULTILINE)


def complaints(source: str) -> list[str]:
    """What a file does that differs between systems, by line."""
    tree = ast.parse(source)
    return [*_text(tree), *_imports(tree)]


def _text(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        name = getattr(node.func, "attr", getattr(node.func, "id", ""))
        keys = {keyword.arg: keyword.value for keyword in node.keywords}
        has_encoding = "encoding" in keys
        is_text = bool({"text", "universal_newlines", "errors"} & keys.keys())
        if name in ("read_text", "write_text") and isinstance(node.func, ast.Attribute):
            places = 1 if name == "read_text" else 2  # a resource's read_text takes it by place
            if not has_encoding and len(node.args) < places:
                yield f"line {node.lineno}: {name} without encoding"
        elif name == "open" and not _is_no_file(node):
            yield from _opening(node, keys)
        elif is_text and not has_encoding and ast.unparse(node.func).startswith("subprocess."):
            yield f"line {node.lineno}: a process's text without encoding"


def _is_no_file(node: ast.Call) -> bool:
    """Whether what is opened is something else: a path's `open` begins with its mode."""
    called, first = node.func, node.args[0] if node.args else None
    if not isinstance(called, ast.Attribute):
        return False
    is_mode = isinstance(first, ast.Constant) and MODE.fullmatch(str(first.value))
    return not is_mode if first is not None else ast.unparse(called.value) == "self"


def _opening(node: ast.Call, keys: dict[str | None, ast.expr]) -> Iterator[str]:
    given = [*node.args, *([keys["mode"]] if "mode" in keys else [])]
    modes = [a.value for a in given if isinstance(a, ast.Constant) and isinstance(a.value, str)]
    mode = next((text for text in modes if MODE.fullmatch(text)), "r")
    if "b" in mode:
        return
    if "encoding" not in keys:
        yield f"line {node.lineno}: open without encoding"
    if set(mode) & set("wax+") and "newline" not in keys:
        yield f"line {node.lineno}: open for writing without newline"


def _imports(tree: ast.Module) -> Iterator[str]:
    """Only inside of functions may a module of one system be asked for."""
    for node in tree.body:
        for inner in ast.walk(node) if not isinstance(node, ast.FunctionDef) else ():
            names = [alias.name for alias in getattr(inner, "names", []) if hasattr(alias, "name")]
            if isinstance(inner, ast.ImportFrom):
                names = [inner.module or ""]
            for name in names if isinstance(inner, ast.Import | ast.ImportFrom) else ():
                if name.partition(".")[0] in (*ABSENT.split(), "msvcrt", "winreg", "winsound"):
                    yield f"line {inner.lineno}: {name} is not on every system"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_depends_on_the_system(path: Path) -> None:
    assert complaints(path.read_text("utf-8")) == []


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text()", "path.write_text('a')", "open(path)", "path.open()",
        "path.open('a', encoding='utf-8')", "open(path, mode='w+', newline='')",
        "subprocess.run(c, text=True)", "subprocess.Popen(c, errors='replace')",
        "import fcntl", "from resource import getrlimit", "try:\n import pwd\nexcept OSError: pass",
    ],
)  # fmt: skip
def test_what_would_be_complained_of(code: str) -> None:
    assert len(complaints(code)) == 1


@pytest.mark.parametrize(
    "code",
    [
        "path.read_text(encoding='utf-8')", "open(path, 'rb')", "path.open('x+b')",
        "path.open('a', encoding='utf-8', newline='\\n')", "subprocess.run(c, check=True)",
        "def f():\n import resource", "Image.open(path)", "os.open(path, os.O_RDONLY)",
    ],
)  # fmt: skip
def test_what_would_not(code: str) -> None:
    assert complaints(code) == []
