"""batch --ray: jobs on a real Ray cluster of two nodes, of which one is lost."""

import importlib.util
import json
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

import maskora
from maskora.app import batch
from maskora.app.batch_results import ResultsFolder
from maskora.app.edit_line import parse_edit_line
from maskora.app.jobs import read_jobs
from maskora.app.ray_node import ram_of_job
from tests.app.child import CHILD, write_jobs
from tests.app.conftest import FAST, Run, ok, recolour, refused
from tests.conftest import REPOSITORY
from tests.system import posix_only

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: the extra `cluster`"
)
pytestmark = posix_only
# Preparation notes that it was there; training waits until it may end.
STAND_IN = """
import time
name, prepares = pathlib.Path(words[4]).stem, "--stop-before=train" in words
with (home / ("prepared" if prepares else "trained")).open("a") as file:
    file.write(f"{name} {os.getpid()} {os.environ['CUDA_VISIBLE_DEVICES']}\\n")
if prepares:
    sys.exit("maskora: a bad video" if name == "j5" and not (home / "mended").exists() else 0)
while not (home / "go").exists():
    time.sleep(0.05)
pathlib.Path(words[4]).write_bytes(name.encode())
"""


class Nodes:
    """A cluster on this machine's loopback; each node has a card, on paper."""

    def __init__(self) -> None:
        from ray.cluster_utils import Cluster

        self.resources = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 80 * 2**20}
        self.cluster = Cluster(
            initialize_head=True,
            head_node_args={**self.resources, "include_dashboard": False},
        )
        self.second = self.cluster.add_node(**self.resources)
        self.address = self.cluster.address

    def lose_the_second(self) -> None:
        self.cluster.remove_node(self.second, allow_graceful=False)


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """What the nodes' processes find: this copy of the package, and no word to the outside."""
    monkeypatch.setenv("PYTHONPATH", str(REPOSITORY))
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.chdir(tmp_path)  # Ray lets tasks import from where the driver is
    return monkeypatch


@pytest.fixture
def nodes(environment: pytest.MonkeyPatch) -> Iterator[Nodes]:
    made = Nodes()
    yield made
    made.cluster.shutdown()


@pytest.fixture
def stand_in(environment: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A package that is maskora but for what `python -m maskora` does."""
    home = tmp_path / "stand-in" / "maskora"
    home.mkdir(parents=True)
    real = Path(maskora.__file__)
    text = real.read_text(encoding="utf-8")
    (home / "__init__.py").write_text(f"{text}\n__path__.append({str(real.parent)!r})\n")
    (home / "__main__.py").write_text(CHILD)
    (home / "edit.py").write_text(STAND_IN)
    environment.setenv("PYTHONPATH", os.pathsep.join([str(home.parent), str(REPOSITORY)]))
    return home


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def waited(condition: Callable[[], bool], limit: float = 90) -> bool:
    """Whether it came true within so many seconds."""
    end = time.monotonic() + limit
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(0.1)
    return found


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


@needs_ray
@pytest.mark.slow
def test_a_lost_node_costs_no_job(stand_in: Path, nodes: Nodes, run: Run, tmp_path: Path) -> None:
    path, out = write_jobs(tmp_path, 12), tmp_path / "jobs-out"
    seen: list[list[str]] = []
    gone: list[bool] = []

    def lose() -> None:
        waited(lambda: len(lines(stand_in / "trained")) == 2)
        waited(lambda: len(lines(stand_in / "prepared")) == 12)
        seen.extend([lines(stand_in / "prepared"), lines(stand_in / "trained")])
        nodes.lose_the_second()
        pids = [int(line.split()[1]) for line in seen[1]]
        gone.append(waited(lambda: not all(map(is_alive, pids))))
        (stand_in / "go").touch()

    losing = threading.Thread(target=lose)
    losing.start()
    answer = run("batch", path, "--ray", nodes.address)
    losing.join()
    assert answer.status == 1, answer
    # Both cards were training while all that could be prepared was, on no card.
    assert sorted(line.split(" ")[::2] for line in seen[0]) == sorted(
        [f"j{number}", ""] for number in range(12)
    )
    assert [line.split()[2] for line in seen[1]] == ["0", "0"]
    assert gone == [True]  # what the lost worker had started ended with it
    jobs = json.loads((out / "batch.json").read_text())["jobs"]
    assert [job["name"] for job in jobs if job["status"] != "ok"] == ["j5"]
    assert jobs[5]["message"] == "maskora: a bad video"
    assert (out / "batch.html").is_file()
    trained = [line.split()[0] for line in lines(stand_in / "trained")]
    assert len(set(trained)) == 11
    assert len(trained) > 11  # what the lost node did was done again

    (stand_in / "mended").touch()
    ok(run("batch", path, "--ray", nodes.address))
    assert [line.split()[0] for line in lines(stand_in / "trained")] == [*trained, "j5"]
    count, started = len(lines(stand_in / "prepared")), time.monotonic()
    ok(run("batch", path, "--ray", nodes.address))
    assert time.monotonic() - started < 10
    ok(run("batch", path))  # one record, wherever the jobs ran
    assert len(lines(stand_in / "prepared")) == count
    assert len(lines(stand_in / "trained")) == len(trained) + 1


@needs_ray
@pytest.mark.slow
def test_an_interrupted_batch_ends_its_jobs(
    stand_in: Path, nodes: Nodes, run: Run, tmp_path: Path
) -> None:
    path, ended = write_jobs(tmp_path, 3), tmp_path / "jobs-out" / "batch.json"

    def interrupt() -> None:
        waited(lambda: len(lines(stand_in / "trained")) == 2)
        os.kill(os.getpid(), signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    assert run("batch", path, "--ray", nodes.address).status == 130
    interrupting.join()
    pids = [int(line.split()[1]) for line in lines(stand_in / "trained")]
    assert len(pids) == 2
    assert waited(lambda: not any(map(is_alive, pids)))
    assert {job["status"] for job in json.loads(ended.read_text())["jobs"]} == {"failed"}


@pytest.fixture
def edited(run: Run, ball: Path, tiny_model: Path, tmp_path: Path) -> Path:
    """The ball's first frame with an orange ball."""
    where, picture = tmp_path / "first", tmp_path / "edited.png"
    ok(run("prepare", ball, where, "--box", "16,64,120,96", "--size", "160x96",
           "--frames", 9, "--set", f"model.path={tiny_model}", *FAST))  # fmt: skip
    recolour(where / "source" / "00000.png", picture, (20, 40, 40, 30))
    return picture


def write_edits(path: Path, videos: dict[str, str], edited: Path, tiny_model: Path) -> Path:
    """A real edit of each video, by its name; each has a seed of its own."""
    settings = [f"model.path={tiny_model}", *map(str, FAST[1::2])]
    jobs = [
        f'[[job]]\nname = "{name}"\nvideo = "{video}"\nedits = {{ 0 = "{edited}" }}\n'
        f"set = {json.dumps([*settings, f'training.seed={seed}'])}\n"
        f"box = [16, 64, 120, 96]\n"
        for seed, (name, video) in enumerate(videos.items())
    ]
    path.write_text(
        '[defaults]\nframes = 9\nsize = "160x96"\ncaption = "a ball"\n'
        'edited_caption = "an orange ball"\n' + "".join(jobs)
    )
    return path


@needs_ray
@pytest.mark.slow
def test_an_edit_is_that_of_a_lone_run(
    nodes: Nodes, run: Run, ball: Path, edited: Path, tiny_model: Path, tmp_path: Path
) -> None:
    lone, out, scratch = tmp_path / "lone", tmp_path / "out", tmp_path / "scratch"
    path = write_edits(tmp_path / "jobs.toml", {"ball": ball.as_uri()}, edited, tiny_model)
    ok(run("batch", path, out.as_uri(), "--scratch", scratch, "--ray", nodes.address))
    ok(run("batch", path, lone))
    assert (out / "ball.mp4").read_bytes() == (lone / "ball.mp4").read_bytes()
    (job,) = read_jobs(path, ResultsFolder.at(out.as_uri(), scratch))
    line = parse_edit_line([*job.words, "--scratch", str(scratch)])
    assert (ram_of_job(line, True) or 0) > 2**29


@needs_ray
@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_real_edits_outlive_a_node(
    nodes: Nodes, run: Run, ball: Path, edited: Path, tiny_model: Path, tmp_path: Path
) -> None:
    out, lone, names = tmp_path / "out", tmp_path / "lone", [f"j{n}" for n in range(12)]
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    videos = dict.fromkeys(names, str(ball)) | {"j5": str(bad)}
    path = write_edits(tmp_path / "jobs.toml", videos, edited, tiny_model)
    left: list[int] = []

    def lose() -> None:
        waited(lambda: len(made(out)) > 1, 1800)
        left.append(len(names) - len(made(out)))
        nodes.lose_the_second()

    losing = threading.Thread(target=lose)
    losing.start()
    assert run("batch", path, out, "--ray", nodes.address).status == 1
    losing.join()
    assert left[0] > 4  # it was lost in the middle
    jobs = json.loads((out / "batch.json").read_text())["jobs"]
    assert [job["name"] for job in jobs if job["status"] != "ok"] == ["j5"]
    stamps = {file.name: file.stat().st_mtime_ns for file in out.glob("*.mp4")}
    run("batch", path, out, "--ray", nodes.address)
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*.mp4")} == stamps
    run("batch", path, lone)
    assert len(made(out)) == 11
    assert made(out) == made(lone)
    assert len(set(made(out).values())) == 11


def made(folder: Path) -> dict[str, bytes]:
    """The results in a folder."""
    return {path.name: path.read_bytes() for path in folder.glob("*.mp4")}


@needs_ray
def test_no_cluster_is_said(run: Run, tmp_path: Path) -> None:
    path = write_jobs(tmp_path)
    refused(run("batch", path, "--ray", "nonsense"), "no Ray cluster answers at 'nonsense'")
    refused(run("batch", path, "--ray", "127.0.0.1:1"), "Connection refused", "ray start --head")
    refused(run("batch", path, "--ray", "auto", "--workers", "2"), "--workers is for this machine")


def test_where_ray_is_missing_the_extra_is_named(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch.importlib.util, "find_spec", lambda name: None)
    refused(run("batch", write_jobs(tmp_path), "--ray=auto"), "pip install 'maskora[cluster]'")
