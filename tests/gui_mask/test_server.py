"""The web server: what it gives, and to whom."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from starlette.testclient import TestClient
from starlette.types import ASGIApp
from starlette.websockets import WebSocketDisconnect

from gui_mask.server import Code, serve, web_app
from gui_mask.session import Session
from gui_mask.state import AppState, PathGuard
from maskora.app.workspace import Workspace
from maskora.files import digest
from maskora.video.images import read_image
from maskora.video.untrusted import Limits
from tests.gui_mask.workspaces import copied

PORT = 7860
HERE = f"http://127.0.0.1:{PORT}"
TOKEN = "a token of this test"
PLACE = f"/{digest(TOKEN)}"
COOKIE = {"maskora": TOKEN}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the page may use."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def state(home: Path) -> Iterator[AppState]:
    (home / "scratch").mkdir()
    opened = AppState(PathGuard((home,)), Limits.of(), home / "scratch")
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def client(state: AppState) -> TestClient:
    app = web_app(state, "127.0.0.1", PORT, TOKEN, Code())
    return TestClient(app, base_url=HERE + PLACE, cookies=COOKIE)


@pytest.fixture
def session(state: AppState, home: Path, unmarked: Workspace) -> Session:
    """A fresh workspace, open."""
    root = home / f"ws{len(list(home.iterdir()))}"
    return state.open(str(copied(unmarked, root).root))


def test_frames_are_those_of_the_workspace(client: TestClient, session: Session) -> None:
    for number in (0, 8):
        answer = client.get(f"/maskora/{session.token}/frame/{number}.jpg")
        assert answer.headers["content-type"] == "image/jpeg"
        bgr = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        source = read_image(session.workspace.source_frame(number)).astype(int)
        assert np.abs(bgr[..., ::-1] - source).mean() < 3


@pytest.mark.parametrize("path", ["frame/9.jpg", "frame/-1.jpg", "frame/x.jpg"])
def test_what_is_no_frame(client: TestClient, session: Session, path: str) -> None:
    assert client.get(f"/maskora/{session.token}/{path}").status_code in (404, 422)


def test_nobody_guesses_a_session(client: TestClient, session: Session) -> None:
    for token in ("", "x", session.token[:-1], "../" + session.token):
        assert client.get(f"/maskora/{token}/frame/0.jpg").status_code == 404


def test_results_have_fixed_names(client: TestClient, session: Session) -> None:
    base = f"/maskora/{session.token}/output"
    assert client.get(f"{base}/edited.mp4").status_code == 404
    output = session.workspace.output_dir(None, None)
    output.mkdir(parents=True)
    (output / "edited.mp4").write_bytes(b"clip")
    (output / "run.json").write_text("{}")
    assert client.get(f"{base}/edited.mp4").content == b"clip"
    assert client.get(f"{base}/run.json").status_code == 422
    (output / "preview.mp4").write_bytes(b"small clip")
    assert client.get(f"{base}/preview.mp4").content == b"small clip"
    for edit in ("../..", "/etc", "a/b", "seed-1"):
        assert client.get(f"{base}/edited.mp4", params={"edit": edit}).status_code == 404


def test_other_sites_may_not_speak_for_the_person(client: TestClient) -> None:
    assert client.get("/").status_code == 200
    assert client.get("/", headers={"host": f"localhost:{PORT}"}).status_code == 200
    assert client.get("/", headers={"origin": HERE}).status_code == 200
    assert client.get("/", headers={"host": "evil.example"}).status_code == 403
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9999"):
        refused = client.post("/gradio_api/component_server", headers={"origin": origin}, json={})
        assert refused.status_code == 403


PATHS = (
    "/", "/config", "/gradio_api/info", "/gradio_api/file=x", "/gradio_api/queue/data",
    "/theme.css", "/maskora/x/frame/0.jpg", "/gradio_api/heartbeat/x",
)  # fmt: skip


def test_who_has_not_the_token_gets_nothing(state: AppState) -> None:
    """Any account of the machine reaches its loopback addresses."""
    app = web_app(state, "127.0.0.1", PORT, TOKEN, Code())
    right = {"maskora": TOKEN}
    for place, cookies in (
        (PLACE, {}), (PLACE, {"maskora": "another"}), (PLACE, {"maskora-1": TOKEN}),
        ("", right), (f"/{digest('another')}", right), (f"{PLACE}x", right),
    ):  # fmt: skip
        client = TestClient(app, base_url=HERE + place, cookies=cookies)
        for path in PATHS:
            answer = client.get(path)
            assert answer.status_code == 403, path
            assert TOKEN not in answer.text
        assert client.post("/gradio_api/queue/join", json={}).status_code == 403
        assert client.post("/gradio_api/upload", files={"files": b"x"}).status_code == 403
        assert client.get("/", params={"token": TOKEN[:-1]}).status_code == 403
        assert client.get("/", params={"token": "é"}).status_code == 403
        with pytest.raises(WebSocketDisconnect), client.websocket_connect("/queue/join"):
            pass


def test_the_printed_address_lets_in(state: AppState) -> None:
    client = TestClient(web_app(state, "127.0.0.1", PORT, TOKEN, Code()), base_url=HERE)
    entered = client.get("/", params={"token": TOKEN}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, f"{PLACE}/")
    assert f"HttpOnly; Path={PLACE}; SameSite=lax" in entered.headers["set-cookie"]
    assert client.get(f"{PLACE}/").status_code == 200  # by the cookie
    # A browser gives a host's cookies to all of its ports: this one only to who knows the place.
    assert [one.path for one in client.cookies.jar] == [PLACE]
    assert "cookie" not in client.build_request("GET", "http://127.0.0.1:9999/").headers
    assert client.get("//evil.example/", params={"token": TOKEN}).url.host == "127.0.0.1"


def test_a_code_lets_one_browser_in_once_and_soon(state: AppState) -> None:
    code = Code()
    app = web_app(state, "127.0.0.1", PORT, TOKEN, code)
    first, second = (TestClient(app, base_url=HERE) for _ in range(2))
    for wrong in ("", code.text[:-1], "é"):
        assert first.get("/", params={"code": wrong}).status_code == 403
    entered = first.get("/", params={"code": code.text}, follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, f"{PLACE}/")
    assert first.get(f"{PLACE}/").status_code == 200
    late = second.get("/", params={"code": code.text})
    assert late.status_code == 403
    assert "open the one that maskora has printed" in late.text
    assert TOKEN not in late.text
    assert second.get(f"{PLACE}/").status_code == 403
    old = Code(seconds=0)
    assert not old.take(old.text)


@pytest.mark.parametrize("header", ["host", "origin"])
@pytest.mark.parametrize("value", ["[", "http://[", "[::1", "http://[::1", "//[v1.x]:7860"])
def test_a_malformed_header_is_answered(client: TestClient, header: str, value: str) -> None:
    assert client.get("/", headers={header: value}).status_code in (400, 403)


def test_other_addresses_may_not_speak_either(state: AppState) -> None:
    """The same where the program listens for others: only its own page is answered."""
    app = web_app(state, "0.0.0.0", PORT, TOKEN, Code())
    client = TestClient(app, base_url=f"http://192.168.1.5:{PORT}{PLACE}", cookies=COOKIE)
    assert client.get("/").status_code == 200
    for origin in ("http://evil.example", "http://192.168.1.5:1", "null"):
        assert client.get("/config", headers={"origin": origin}).status_code == 403


def test_a_forwarded_port_is_no_other_site(client: TestClient) -> None:
    headers = {"host": "localhost:9000", "origin": "http://localhost:9000"}
    assert client.get("/", headers=headers).status_code == 200
    assert client.get("/", headers={"host": "localhost"}).status_code == 200


def test_no_other_page_may_frame_it(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["x-frame-options"] == "DENY"
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]


def test_source_frames_for_editing(client: TestClient, session: Session, rolling: Path) -> None:
    """At both sizes; the original only where it may be read."""
    base = f"/maskora/{session.token}/source"
    fitted = client.get(f"{base}/3.png")
    assert "frame-00003-160x96.png" in fitted.headers["content-disposition"]
    assert fitted.content == session.workspace.source_frame(3).read_bytes()
    assert "outside the folders" in client.get(f"{base}/3.png?original=1").text
    assert client.get(f"{base}/9.png").status_code == 404
    inside = session.workspace.root / "ball.mp4"
    inside.write_bytes(rolling.read_bytes())
    record = session.source.model_copy(update={"origin": str(inside)})
    session.workspace.write_source(record)
    session.source = record
    original = client.get(f"{base}/3.png?original=1")
    assert "320x192" in original.headers["content-disposition"]


@pytest.mark.parametrize("name", ["find_upload", "take"])
def test_a_file_that_was_not_uploaded_is_not_taken(
    client: TestClient, session: Session, home: Path, tmp_path: Path, name: str, rolling: Path
) -> None:
    """A page that says of any file of the machine that it was uploaded gets nothing of it."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(rolling.read_bytes())
    config = client.get("/config").json()
    number = next(one["id"] for one in config["dependencies"] if one["api_name"] == name)
    file = {"path": str(secret), "orig_name": "secret.mp4", "meta": {"_type": "gradio.FileData"}}
    data = [file] if name == "find_upload" else [session.token, "", 0, file]
    call = {"fn_index": number, "data": data, "session_hash": "x"}
    answer = client.post("/gradio_api/run/predict", json=call)
    assert answer.status_code >= 400 or "not uploaded here" in answer.text, answer.text
    assert list(session.workspace.edits_dir.iterdir()) == []
    assert [path for path in home.rglob("*secret*") if path.is_file()] == []
    assert client.get(f"/gradio_api/file={secret}").status_code in (403, 404)


def test_files_of_the_machine_are_not_served(
    client: TestClient, session: Session, home: Path
) -> None:
    secret = home / "secret.txt"
    secret.write_text("secret")
    for path in (secret, session.workspace.config, "/etc/passwd", Path(__file__)):
        answer = client.get(f"/gradio_api/file={path}")
        assert answer.status_code in (403, 404), path


def test_no_address_but_its_own_stands_in_the_page(client: TestClient) -> None:
    """The page must work without a network, and tell nobody that it is looked at."""
    text = client.get("/").text
    assert "fonts.googleapis.com" not in text
    assert '"analytics_enabled":false' in text.replace(" ", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_address_is_printed_and_opened_with_its_token(
    home: Path, host: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two starts have two tokens; other accounts see none of them in what is started."""
    opened: list[str] = []
    tokens: set[str] = set()

    def run(app: ASGIApp, **_: object) -> None:
        printed = re.search(rf"http://{host}:{PORT}/\?token=(\S+)", capsys.readouterr().out)
        assert printed is not None
        tokens.add(printed[1])
        client = TestClient(app, base_url=HERE)
        assert client.get("/").status_code == 403
        assert client.get("/", params={"token": printed[1]}).status_code == 200
        given = opened[-1]
        assert given.startswith(f"http://{host}:{PORT}/?code=")
        assert printed[1] not in given
        another = TestClient(app, base_url=HERE)
        assert another.get(given.removeprefix(f"http://{host}:{PORT}")).status_code == 200

    class AtOnce:
        def __init__(self, after: float, call: Callable[[str], bool], arguments: list[str]) -> None:
            opened.extend(arguments)

        def start(self) -> None:
            pass

    monkeypatch.setattr("gui_mask.server.uvicorn.run", run)
    monkeypatch.setattr("gui_mask.server.threading.Timer", AtOnce)
    for _ in range(2):
        serve("", host, PORT, [home], Limits.of(), browser=True)
    assert len(tokens) == 2
    assert min(map(len, tokens)) >= 20


def test_versions_and_previews_are_fetched_by_their_names(
    client: TestClient, session: Session
) -> None:
    base, workspace = f"/maskora/{session.token}", session.workspace
    early = workspace.output_dir("hat", None) / "002"
    early.mkdir(parents=True)
    (early / "comparison.mp4").write_bytes(b"earlier")
    asked = f"{base}/output/comparison.mp4?edit=hat&version="
    assert client.get(f"{asked}2").content == b"earlier"
    assert [client.get(asked + one).status_code for one in ("", "1", "../2", "-2")] == [404] * 4
    preview = workspace.training_preview("hat", "motion", 50)
    preview.parent.mkdir(parents=True)
    preview.write_bytes(b"so far")
    (preview.parent / "notes.txt").write_text("mine")
    assert client.get(f"{base}/previews/{preview.name}?edit=hat").content == b"so far"
    for name in (f"{preview.name}?edit=cap", "notes.txt?edit=hat", "..%2Fjob.json", "x"):
        assert client.get(f"{base}/previews/{name}").status_code == 404
