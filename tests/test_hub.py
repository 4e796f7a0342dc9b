"""Which files of a hub repository are fetched, and how: said first, continued where cut off.

The hub is one of our own.
"""

import errno
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
from filelock import FileLock
from huggingface_hub.utils import (
    close_session,  # type: ignore[attr-defined]
    filter_repo_objects,
)

from maskora.app.plan import CONFIGS
from maskora.config.tables import Model
from maskora.errors import Fault, UserError
from maskora.hub import WANTED, fetching, find_file, find_local, locate, locate_cached, variants
from maskora.models.files.model_files import resolve_base, resolve_files
from tests.conftest import REPOSITORY
from tests.loopback_hub import COMMIT, Hub, serving, use

DIFFUSERS = [
    "model_index.json", "transformer/config.json", "vae/config.json",
    "transformer/diffusion_pytorch_model-00001-of-00014.safetensors",
    "transformer/diffusion_pytorch_model.safetensors.index.json",
    "vae/diffusion_pytorch_model.safetensors", "tokenizer/spiece.model",
    "tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "tokenizer_2/merges.txt",
]  # fmt: skip
ORIGINAL = [
    "config.json", "diffusion_pytorch_model-00001-of-00007.safetensors",
    "diffusion_pytorch_model.safetensors.index.json", "Wan2.1_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth", "google/umt5-xxl/tokenizer.json",
    "high_noise_model/config.json",
    "high_noise_model/diffusion_pytorch_model-00001-of-00006.safetensors",
]  # fmt: skip
OTHERS = ["README.md", "assets/logo.png", "examples/i2v_input.JPG", "all-in-one.safetensors"]


def fetched(files: list[str], patterns: list[str], without: list[str] | None = None) -> list[str]:
    return list(filter_repo_objects(files, allow_patterns=patterns, ignore_patterns=without))


def test_both_layouts_are_fetched_whole_and_nothing_else() -> None:
    assert fetched(DIFFUSERS + ORIGINAL + OTHERS, WANTED) == DIFFUSERS + ORIGINAL


def test_a_plan_fetches_configurations_alone() -> None:
    found = fetched(DIFFUSERS + ORIGINAL, CONFIGS)
    assert all(name.endswith(".json") for name in found)
    assert {"config.json", "transformer/config.json", "high_noise_model/config.json"} <= set(found)


def test_weights_of_a_part_that_is_a_file_are_not_fetched(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.safetensors").touch()
    model = Model(path="somebody/base", files={"transformer": "a.safetensors"})
    with serving({name: name.encode() for name in DIFFUSERS}) as hub:
        use(hub, str(tmp_path / "cache"), monkeypatch)
        resolve_base(model, tmp_path)
        found = {path for path, _ in hub.contents()}
    assert "transformer/diffusion_pytorch_model-00001-of-00014.safetensors" not in found
    assert "transformer/config.json" in found
    assert "vae/diffusion_pytorch_model.safetensors" in found


def test_paths_count_from_the_configuration_then_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    for folder in (here, there):
        (folder / "model").mkdir(parents=True)
        (folder / "a.pth").touch()
    monkeypatch.chdir(here)
    monkeypatch.setenv("HOME", str(there))
    assert find_file("a.pth", there) == there / "a.pth"
    assert find_file("a.pth", tmp_path) == here / "a.pth"
    assert find_file("~/a.pth", tmp_path) == there / "a.pth"
    assert find_file("model", there) is None
    assert find_local("~/model", tmp_path) == there / "model"


def test_all_files_that_are_not_there_are_told(tmp_path: Path) -> None:
    model = Model(path="", files={"vae": "a.pth", "transformer": "b.safetensors"})
    with pytest.raises(UserError) as caught:
        resolve_files(model, tmp_path)
    assert str(caught.value).splitlines() == [
        "[model] files: vae = 'a.pth' does not exist",
        "[model] files: transformer = 'b.safetensors' does not exist",
    ]


def test_what_was_fetched_before_is_found_without_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UserError, match="somebody/base has not been fetched from the hub yet"):
        locate_cached("somebody/base")
    cached = tmp_path / "models--somebody--base"
    (cached / "snapshots" / COMMIT).mkdir(parents=True)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    assert locate_cached("somebody/base") == cached / "snapshots" / COMMIT


MIB = 2**20
SHARD = "transformer/diffusion_pytorch_model-0000{}-of-00002.safetensors"


def content(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A base of two large shards; what is large is small here, so that tests are quick."""
    files = {
        "model_index.json": b'{"_class_name": "Base"}',
        "README.md": b"not wanted",
        "transformer/config.json": b"{}",
        SHARD.format(1): content(3 * MIB, 1),
        SHARD.format(2): content(2 * MIB, 2),
    }
    monkeypatch.setattr(fetching, "LARGE", MIB)
    monkeypatch.setattr(fetching, "WORTH_TELLING", MIB)
    monkeypatch.setattr(fetching, "WORKERS", 1)
    monkeypatch.setattr(fetching, "PAUSE", 0.01)
    with serving(files) as served:
        use(served, str(tmp_path / "cache" / "hub"), monkeypatch)
        yield served


def cut_off(hub: Hub, tmp_path: Path, allowance: int = 2 * MIB) -> None:
    """Lose the connection after some bytes; later requests get all."""
    hub.allowance = allowance
    with pytest.raises(Fault, match=r"cut off .* the same command continues, with 0\.0 GB to go"):
        locate("somebody/base", tmp_path)
    hub.allowance = None


def leave_free(nbytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk has so much room, and what is said of MB reads as if it were GB."""
    monkeypatch.setattr(fetching, "GB", MIB)
    usage = shutil.disk_usage(Path.home())._replace(free=nbytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


def get(hub: Hub, tmp_path: Path) -> Path:
    """Fetch it, and see that it is whole."""
    folder = locate("somebody/base", tmp_path)
    for name, data in hub.files.items():
        if name != "README.md":
            assert (folder / name).read_bytes() == data
    return folder


def test_what_comes_is_said_first_and_nothing_comes_twice(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maskora")
    folder = get(hub, tmp_path)
    assert not (folder / "README.md").exists()
    (told,) = [record.message for record in caplog.records]
    assert told.startswith("[model] path: fetching 0.0 GB of somebody/base from the hub into ")
    assert "single files as ComfyUI has them" in told
    assert "the same command continues" in told
    assert sorted(path for path, _ in hub.contents()) == sorted({*hub.files} - {"README.md"})
    assert get(hub, tmp_path) == folder
    assert hub.contents() == []
    assert len(caplog.records) == 1


def test_a_few_configuration_files_come_without_a_word(
    hub: Hub, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maskora")
    locate("somebody/base", tmp_path, ["*/config.json"])
    assert caplog.records == []
    assert hub.contents() == [("transformer/config.json", "")]


def test_a_lost_connection_is_taken_up_again_at_once(hub: Hub, tmp_path: Path) -> None:
    """The server cuts the first connection in the middle, and goes on then."""
    hub.allowance = MIB + 1000
    cut = hub.take

    def once(wanted: int) -> int:
        given = cut(wanted)
        hub.allowance = None if given < wanted else hub.allowance
        return given

    hub.take = once  # type: ignore[method-assign]
    get(hub, tmp_path)
    asked = [(path, span) for path, span in hub.contents() if path.startswith("transformer/diff")]
    assert [path for path, _ in asked] == [SHARD.format(1), SHARD.format(1), SHARD.format(2)]
    spans = [span for _, span in asked if span]
    assert len(spans) == 1
    assert MIB <= int(spans[0].removeprefix("bytes=").rstrip("-")) <= MIB + 1000


def test_a_lost_connection_is_told_and_the_next_run_asks_for_the_rest(
    hub: Hub, tmp_path: Path
) -> None:
    cut_off(hub, tmp_path)
    hub.contents()
    get(hub, tmp_path)
    asked = [(path, span) for path, span in hub.contents() if path.endswith("rs")]
    assert asked == [(SHARD.format(1), f"bytes={2 * MIB}-"), (SHARD.format(2), "")]


def test_a_server_without_ranges_sends_all_again(hub: Hub, tmp_path: Path) -> None:
    cut_off(hub, tmp_path)
    hub.knows_ranges = False
    get(hub, tmp_path)


def test_what_another_process_is_fetching_is_waited_for(hub: Hub, tmp_path: Path) -> None:
    del hub.files[SHARD.format(2)]
    found = fetching.look_up("somebody/base")
    assert found is not None
    (shard,) = (file for file in found.files if file.sha256)
    lock, blob = found.lock(shard), found.final(shard)
    for path in (lock, blob):
        path.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(1) as pool:
        with FileLock(lock):
            task = pool.submit(get, hub, tmp_path)
            time.sleep(1.5)
            assert not task.done()
            blob.write_bytes(hub.files[shard.name])
        task.result(timeout=30)
    assert shard.name not in {path for path, _ in hub.contents()}


def test_what_was_damaged_on_the_disk_is_not_kept(hub: Hub, tmp_path: Path) -> None:
    cut_off(hub, tmp_path)
    (part,) = (tmp_path / "cache").rglob("*.incomplete")
    with part.open("r+b") as file:  # as after a power cut
        file.seek(MIB)
        file.write(bytes(1000))
    with pytest.raises(Fault, match="came damaged: the same command fetches it again"):
        locate("somebody/base", tmp_path)
    get(hub, tmp_path)


FETCH = """
import sys
from pathlib import Path
from maskora.cli import handle_errors
from maskora.hub import locate
try:
    handle_errors(locate)("somebody/base", Path())
except Exception as error:
    sys.exit(error.exit_code)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="its Ctrl-C cannot be sent to one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])  # Windows has no number for the second
def test_a_process_that_is_ended_has_not_fetched_in_vain(tmp_path: Path, name: str) -> None:
    number = getattr(signal, name)
    shard = "transformer/diffusion_pytorch_model.safetensors"
    with serving({"model_index.json": b"{}", shard: content(24 * MIB)}) as hub:
        environment = {
            **os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"),
            "PYTHONPATH": str(REPOSITORY), "HF_HUB_DOWNLOAD_TIMEOUT": "2",
        }  # fmt: skip
        environment.pop("HF_HUB_CACHE", None)
        hub.allowance, hub.stalls = 20 * MIB, True
        begun = subprocess.Popen(
            [sys.executable, "-c", FETCH], env=environment, stderr=subprocess.PIPE, text=True
        )
        assert hub.spent.wait(60)
        part = wait_for_part(tmp_path, 20 * MIB)
        begun.send_signal(number)
        _, said = begun.communicate(timeout=60)
        if number == signal.SIGINT:
            assert begun.returncode == 130, said
            assert "what has come of somebody/base stays; the same command continues" in said
        assert part.stat().st_size == 20 * MIB
        hub.contents()
        hub.allowance = None
        subprocess.run([sys.executable, "-c", FETCH], env=environment, check=True)
        assert (shard, f"bytes={20 * MIB}-") in hub.contents()
    (blob,) = (p for p in (tmp_path / "home").rglob("blobs/*") if p.stat().st_size > MIB)
    assert blob.read_bytes() == content(24 * MIB)


def wait_for_part(folder: Path, size: int) -> Path:
    """The file that grows to this size."""
    for _ in range(1000):
        for part in folder.rglob("*.incomplete"):
            if part.stat().st_size == size:
                return part
        time.sleep(0.02)
    raise AssertionError(f"nothing in {folder} has grown to {size} bytes")


def test_a_disk_without_room_is_refused_before_the_first_byte(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(4 * MIB, monkeypatch)
    with pytest.raises(Fault) as caught:
        locate("somebody/base", tmp_path)
    told = str(caught.value)
    assert told.startswith("[model] path: 5.0 GB of somebody/base are to be fetched")
    assert f"({tmp_path / 'cache' / 'hub'}) has 4.0 GB free: 1.0 GB are missing" in told
    assert "HF_HOME" in told
    assert "[model] files, docs/bases.md" in told
    assert hub.contents() == []
    with pytest.raises(Fault) as caught:
        locate("somebody/base", tmp_path, key="[tracker] checkpoint")
    assert "[model] files" not in str(caught.value)


def test_only_what_is_still_to_come_needs_room(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maskora")
    cut_off(hub, tmp_path, 4 * MIB + MIB // 2)
    leave_free(4 * MIB, monkeypatch)
    get(hub, tmp_path)
    assert "fetching the last 1.0 of 5.0 GB of somebody/base" in caplog.records[-1].message


def test_a_full_disk_is_told_as_one(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(fetching, "_stream", stream)
    with pytest.raises(OSError, match="No space left"):
        locate("somebody/base", tmp_path)


def test_where_links_cannot_be_made_a_file_lies_there_once(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows without developer mode."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_SYMLINKS", True)
    folder = get(hub, tmp_path)
    large = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in large if path.stat().st_size >= MIB) == 5 * MIB
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    hub.contents()
    get(hub, tmp_path)
    assert hub.contents() == []


@pytest.fixture
def doubled(hub: Hub) -> Hub:
    """The same repository with a variant of half the size."""
    name = "transformer/diffusion_pytorch_model.fp16"
    hub.files[f"{name}.safetensors"] = content(MIB, 3)
    hub.files[f"{name}.safetensors.index.json"] = b"{}"
    hub.files["vae/diffusion_pytorch_model.fp16.safetensors"] = content(MIB, 4)
    return hub


def test_a_variant_beside_the_plain_weights_is_not_fetched(doubled: Hub, tmp_path: Path) -> None:
    locate("somebody/base", tmp_path)
    found = {path for path, _ in doubled.contents()}
    assert not any(path.startswith("transformer/diffusion_pytorch_model.fp16") for path in found)
    assert "vae/diffusion_pytorch_model.fp16.safetensors" in found  # there is no other
    assert SHARD.format(1) in found


def test_without_the_network_what_was_fetched_is_found(
    doubled: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = locate("somebody/base", tmp_path)
    doubled.asked.clear()
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert locate("somebody/base", tmp_path) == folder
    assert locate_cached("somebody/base") == folder
    assert doubled.asked == []


def test_a_hub_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving({}) as gone:
        use(gone, str(tmp_path / "cache"), monkeypatch)
        with pytest.raises(UserError, match="'somebody/other' is no local folder and could not"):
            locate("somebody/other", tmp_path)
    with pytest.raises(UserError, match="could not be fetched from the hub"):
        locate("somebody/base", tmp_path)


@pytest.mark.parametrize("proxy", ["http://proxy:port", "socks5://proxy:1", "ftp://proxy"])
def test_a_proxy_that_cannot_be_used_is_told(
    proxy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if proxy.startswith("socks") and find_spec("socksio"):
        pytest.skip("here it could be used")
    monkeypatch.setenv("ALL_PROXY", proxy)
    close_session()
    with pytest.raises(UserError, match=r"\[model\] path: the hub cannot be asked, since a proxy"):
        locate("somebody/base", tmp_path)


HALVES = {
    "m.fp16-00001-of-00002.safetensors", "m-00001-of-00002.fp16.safetensors",
    "m.fp16.safetensors.index.json", "m.safetensors.index.fp16.json",
}  # fmt: skip


@pytest.mark.parametrize(
    ("names", "dropped"),
    [
        (["model.safetensors", "model.fp16.safetensors"], {"model.fp16.safetensors"}),
        (["model.fp16.safetensors"], set()),
        (["a/model.fp16.safetensors", "b/model.safetensors"], set()),
        (["m-00001-of-00002.safetensors", "m.safetensors.index.json", *HALVES], HALVES),
        (["Wan2.1_VAE.safetensors", "Wan2.2_VAE.safetensors", "config.json"], set()),
    ],
)
def test_variants(names: list[str], dropped: set[str]) -> None:
    assert variants(names) == dropped
