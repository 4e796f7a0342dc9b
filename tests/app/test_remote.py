"""Inputs and results of a batch in stores: a folder by its URL, memory, and a real S3 server."""

import importlib.util
import json
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest

from maskora.app import remote
from maskora.errors import Fault, UserError
from tests.app.child import DRIVER, Child, write_jobs
from tests.app.conftest import FAST, Run, ok, recolour, refused

needs_s3 = pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("s3fs", "moto", "flask_cors")),
    reason="there is no S3 server: s3fs, moto, flask or flask-cors is not installed",
)


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of a bucket on a server of this machine's loopback."""
    from moto.server import ThreadedMotoServer
    from s3fs import S3FileSystem

    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
    settings = {"ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": "b", "DEFAULT_REGION": "us-east-1",
                "ENDPOINT_URL": f"http://{host}:{port}"}  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("NO_PROXY", host)
    S3FileSystem.clear_instance_cache()
    S3FileSystem().mkdir("clips")
    yield "s3://clips"
    S3FileSystem.clear_instance_cache()
    server.stop()


@pytest.fixture(params=["file", pytest.param("s3", marks=needs_s3)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty store that other processes reach too."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3"))
    return f"file://{(tmp_path / 'a store').as_posix()}"


def put(url: str, content: bytes, tmp_path: Path) -> str:
    (tmp_path / "put").write_bytes(content)
    remote.put(tmp_path / "put", url)
    return url


def test_what_is_put_is_fetched_once_for_each_content(store: str, tmp_path: Path) -> None:
    url, scratch = f"{store}/a folder/clip.mp4", tmp_path / "scratch"
    assert remote.find_version(url) is None
    with pytest.raises(UserError, match=r"no such file: .*clip\.mp4"):
        remote.fetch(url, scratch)
    put(url, b"one", tmp_path)
    copy = remote.fetch(url, scratch)
    assert (copy.name, copy.read_bytes()) == ("clip.mp4", b"one")
    copy.write_bytes(b"is not fetched again")
    assert remote.fetch(url, scratch).read_bytes() == b"is not fetched again"
    before = remote.find_version(url)
    put(url, b"another", tmp_path)
    assert remote.find_version(url) != before
    assert remote.fetch(url, scratch).read_bytes() == b"another"


def test_a_folder_is_fetched_with_all_that_is_in_it(store: str, tmp_path: Path) -> None:
    for name in ("0.png", "more/1.png"):
        put(f"{store}/masks/{name}", name.encode(), tmp_path)
    put(f"{store}/masks.txt", b"beside it", tmp_path)
    copy = remote.fetch(f"{store}/masks", tmp_path / "scratch")
    files = {path.relative_to(copy).as_posix(): path.read_bytes() for path in copy.rglob("*.*")}
    assert files == {"0.png": b"0.png", "more/1.png": b"more/1.png"}
    before = remote.find_version(f"{store}/masks")
    fsspec.open(f"{store}/masks/0.png").fs.mv(f"{store}/masks/0.png", f"{store}/masks/2.png")
    assert remote.find_version(f"{store}/masks") != before
    assert remote.find_names(store, "*.txt") == ["masks.txt"]


def test_a_fetch_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, scratch = put("memory://clips/clip.mp4", b"one", tmp_path), tmp_path / "scratch"
    store = type(fsspec.filesystem("memory"))
    whole = store.get_file

    def breaks(self: object, path: str, target: str, **options: object) -> None:
        whole(self, path, target)
        raise OSError("the line was cut")

    monkeypatch.setattr(store, "get_file", breaks)
    with pytest.raises(Fault, match=r"memory://clips/clip\.mp4: the line was cut"):
        remote.fetch(url, scratch)
    # A lock's file stays, but not on every system.
    assert {path.suffix for path in (scratch / "inputs").iterdir()} <= {".lock"}
    monkeypatch.undo()
    assert remote.fetch(url, scratch).read_bytes() == b"one"


def test_what_changes_while_it_is_fetched_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, scratch = put("memory://clips/clip.mp4", b"one", tmp_path), tmp_path / "scratch"
    store = type(fsspec.filesystem("memory"))
    whole = store.get_file

    def meanwhile(self: object, path: str, target: str, **options: object) -> None:
        put(url, b"two", tmp_path)
        whole(self, path, target)

    monkeypatch.setattr(store, "get_file", meanwhile)
    with pytest.raises(Fault, match="was written to while it was fetched: run it again"):
        remote.fetch(url, scratch)
    monkeypatch.undo()
    assert remote.fetch(url, scratch).read_bytes() == b"two"


def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    fsspec.filesystem("memory").store.clear()
    put("memory://masks/0.png", b"", tmp_path)
    memory = fsspec.filesystem("memory").store
    memory["/masks/../../out.png"] = memory["/masks/0.png"]
    with pytest.raises(UserError, match=r"\.\./\.\./out\.png leads out of the folder"):
        remote.fetch("memory://masks", tmp_path / "scratch")
    memory.clear()


@needs_s3
def test_a_mark_for_a_folder_is_no_file(s3: str, tmp_path: Path) -> None:
    put(f"{s3}/masks/0.png", b"a mask", tmp_path)
    before = remote.find_version(f"{s3}/masks")
    fsspec.open(f"{s3}/masks/0.png").fs.pipe_file("clips/masks/", b"")
    copy = remote.fetch(f"{s3}/masks", tmp_path / "scratch")
    assert [path.name for path in copy.rglob("*")] == ["0.png"]
    assert remote.find_version(f"{s3}/masks") == before


def test_any_name_of_a_folder_is_taken_as_it_is(store: str, tmp_path: Path) -> None:
    assert remote.find_names(f"{store}/takes [1]", "*.json") == []
    put(f"{store}/takes [1]/batch.json", b"{}", tmp_path)
    assert remote.find_names(f"{store}/takes [1]", "*.json") == ["batch.json"]


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """The URL of a folder, served on this machine's loopback to those who sign."""

    class Signed(SimpleHTTPRequestHandler):
        def send_head(self) -> Any:
            if self.path.endswith("?signature=secret"):
                return super().send_head()
            return self.send_error(403)

        def log_message(self, *_: object) -> None: ...

    served = tmp_path / "served"
    served.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Signed, directory=str(served))) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.skipif(not importlib.util.find_spec("aiohttp"), reason="aiohttp is not installed")
def test_a_signature_of_a_web_address_is_shown_nowhere(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    (tmp_path / "served" / "clip.mp4").write_bytes(b"a clip")
    url = f"{web}/clip.mp4?signature=secret"
    copy = remote.fetch(url, tmp_path / "scratch")
    assert (copy.name, copy.read_bytes()) == ("clip.mp4", b"a clip")
    for place in (
        f"{web}/none.mp4?signature=secret",
        f"{web}/clip.mp4?signature=wrong-secret",
        "http://127.0.0.1:1/clip.mp4?signature=secret",
    ):
        with pytest.raises((UserError, Fault), match=r"/(clip|none)\.mp4\?…") as told:
            remote.fetch(place, tmp_path / "scratch")
        assert "secret" not in str(told.value)
    with pytest.raises(UserError, match=r"cannot be written") as told:
        remote.put(copy, url)
    assert "secret" not in str(told.value)


def test_a_file_of_any_name_is_fetched(store: str, tmp_path: Path) -> None:
    for name, local in (("take #2.mp4", "take #2.mp4"), ("why?.mp4", "why_.mp4")):
        if sys.platform == "win32" and store.startswith("file"):
            pytest.skip("Windows has no such files")
        url = put(f"{store}/{name}", name.encode(), tmp_path)
        copy = remote.fetch(url, tmp_path / "scratch")
        assert (copy.name, copy.read_bytes()) == (local, name.encode())


def test_no_url_has_a_password() -> None:
    with pytest.raises(
        UserError, match=r"ftp://host/clip\.mp4: .* none may have a password"
    ) as told:
        remote.open_store("ftp://me:secret@host/clip.mp4")
    assert "secret" not in str(told.value)


def write_remote_jobs(store: str, folder: Path) -> Path:
    """Jobs whose files are in a store, of which the second's are not there."""
    put(f"{store}/in/clip.mp4", b"a clip", folder)
    put(f"{store}/in/red.png", b"red", folder)
    for number in range(2):
        put(f"{store}/in/masks/{number}.png", b"mask %d" % number, folder)
    path = folder / "jobs.toml"
    path.write_text(
        "".join(
            f'[[job]]\nname = "{name}"\nvideo = "{store}/{where}/clip.mp4"\n'
            f'mask = "{store}/{where}/masks"\nedits = {{ 0 = "{store}/in/red.png" }}\n'
            for name, where in (("walk", "in"), ("gone", "none"))
        )
    )
    return path


STAGES = {
    "edit": DRIVER.partition("program =")[0] + "program = [sys.executable, __file__]\n"
    "processes.program = lambda: program\nmain()\n",
    "prepare": "video, root, _, masks = map(pathlib.Path, words[1:5])\n"
    "root.mkdir(parents=True); (root / 'edit.toml').touch()\n"
    "files = [video, *sorted(masks.iterdir())]\n"
    "(root / 'seen').write_bytes(b' '.join(path.read_bytes() for path in files))\n",
    "infer": "root = pathlib.Path(words[2]).parent; out = pathlib.Path(words[-1])\n"
    "seen = (root / 'seen').read_bytes() + b' ' + (root / 'edits/00000.png').read_bytes()\n"
    "out.write_bytes(seen)\n",
}


def test_a_batch_from_a_store_into_a_store(
    run: Run, child: Child, store: str, tmp_path: Path
) -> None:
    for name, code in STAGES.items():
        child.does(name, code)
    path = write_remote_jobs(store, tmp_path)

    def stages(machine: str, status: int = 1) -> list[str]:
        answer = run("batch", path, f"{store}/out", "--scratch", tmp_path / machine)
        assert answer.status == status, answer
        return [words[0] for words in child.asked()]

    def content(name: str) -> bytes:
        with fsspec.open(f"{store}/out/{name}") as file:
            return bytes(file.read())

    assert stages("a") == ["edit", "prepare", "train", "infer"]
    assert content("walk.mp4") == b"a clip mask 0 mask 1 red"
    assert b"edit: training" in content("walk.log")
    assert b"no such file" in content("gone.log")
    record = json.loads(content("batch.json"))["jobs"]
    assert [(job["status"], job["output"]) for job in record] == [
        ("ok", f"{store}/out/walk.mp4"), ("failed", f"{store}/out/gone.mp4"),
    ]  # fmt: skip
    assert b"1 of\n2 done" in content("batch.html")

    assert stages("a") == []
    assert stages("b") == []  # another machine, which has fetched nothing
    put(f"{store}/in/red.png", b"redder", tmp_path)
    assert stages("b") == ["edit", "prepare", "train", "infer"]
    assert content("walk.mp4").endswith(b"redder")
    assert stages("a") == []
    assert not list((tmp_path / "a" / "results").rglob("walk.mp4"))  # which was older
    fsspec.open(f"{store}/out").fs.rm(f"{store}/out/walk.mp4")
    assert stages("b") == ["edit", "train", "infer"]
    (tmp_path / "jobs.toml").write_text(path.read_text().partition('[[job]]\nname = "gone"')[0])
    assert stages("b", 0) == []


@needs_s3
def test_a_store_that_does_not_answer_is_told_of(
    run: Run, child: Child, s3: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_remote_jobs(s3, tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    answer = run("batch", path, tmp_path / "out")
    assert answer.status == 1
    assert "127.0.0.1:1" in answer.out
    assert child.asked() == []


def test_where_a_package_is_missing_the_extra_is_named(
    run: Run, child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    path = write_jobs(tmp_path)
    text = path.read_text()
    path.write_text(text.replace('"clip.mp4"', '"gs://clips/clip.mp4"').replace("1, 2", "9, 9"))
    refused(run("batch", path), "'j0': video: ", "pip install 'maskora[gs]'", lines=4)
    path.write_text(text)
    refused(run("batch", path, "gs://clips/out"), "pip install 'maskora[gs]'")
    refused(run("batch", path, "nowhere://clips/out"), "Protocol not known: nowhere")
    assert child.asked() == []


def test_a_workspace_lies_on_a_disk(run: Run, child: Child, tmp_path: Path) -> None:
    path = write_jobs(tmp_path, 1)
    path.write_text(path.read_text() + 'workspace = "file:///tmp/w"\nbase = "s3://b/base.toml"\n')
    refused(run("batch", path), "workspace: file:///tmp/w: it lies on a disk", "base: ", lines=3)
    line = ["edit", "out.mp4", "--workspace", "s3://clips/walk.work"]
    refused(run(*line), "--workspace s3://clips/walk.work: a workspace lies on a disk")


@needs_s3
@pytest.mark.slow
def test_a_result_from_s3_is_that_of_a_local_run(
    run: Run, s3: str, ball: Path, tiny_model: Path, tmp_path: Path
) -> None:
    edited, path = tmp_path / "edited.png", tmp_path / "jobs.toml"
    first = tmp_path / "first"
    ok(run("prepare", ball, first, "--box", "16,64,120,96", "--size", "160x96", "--frames", 9))
    recolour(first / "source" / "00000.png", edited, (20, 40, 40, 30))
    remote.put(ball, f"{s3}/ball.mp4")
    remote.put(edited, f"{s3}/edited.png")
    settings = json.dumps([f"model.path={tiny_model}", *map(str, FAST[1::2])])

    def write(video: str, image: str) -> None:
        path.write_text(
            f'[[job]]\nname = "ball"\nvideo = "{video}"\nbox = [16, 64, 120, 96]\nframes = 9\n'
            f'caption = "a ball"\nedited_caption = "an orange ball"\nsize = "160x96"\n'
            f'edits = {{ 0 = "{image}" }}\nset = {settings}\n'
        )

    write(f"{s3}/ball.mp4", f"{s3}/edited.png")
    ok(run("batch", path, f"{s3}/out", "--scratch", tmp_path / "scratch"))
    assert "ball is done already" in ok(run("batch", path, f"{s3}/out")).out
    write(str(ball), str(edited))
    ok(run("batch", path, tmp_path / "lone"))
    made = remote.fetch(f"{s3}/out/ball.mp4", tmp_path / "made").read_bytes()
    assert made == (tmp_path / "lone" / "ball.mp4").read_bytes()
