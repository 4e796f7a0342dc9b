"""maskora plan: arithmetic on configuration files, told before anything heavy starts."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import save_file

from maskora.app import timings
from maskora.app.plan import PURPOSES, adapter_values, matrix_type, plan_for, segments_of
from maskora.app.workspace import Source, Workspace
from maskora.config import Config, build_config, load_config
from maskora.config.tables import PLACES, Inference
from maskora.errors import UserError
from maskora.memory.machine import Machine, foreseen
from maskora.memory.plan import Plan, lacking_ram, lighter, smaller_sizes
from maskora.memory.report import render
from maskora.method.conditioning import COLOUR_ORDERS, window_starts
from maskora.models.registry import open_source
from maskora.streaming.placement import GIB, SAMPLE_ROOM
from maskora.system import Ram
from tests.app.conftest import Answer
from tests.machines import WITHOUT_GPU, with_gpu
from tests.models.published import write_published

Run = Callable[..., Answer]
Text = Callable[..., str]
ROOMY = with_gpu(80)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "maskora"


@pytest.fixture
def plan_text(run: Run, edit: Path) -> Text:
    """What `maskora plan` prints for a GPU, of the 14B base where no other edit is named."""

    def plan_text(*options: str, config: Path = edit) -> str:
        text: str = run("plan", "--config", config, "--device", "cuda", *options).out
        return text

    return plan_text


def planned(big: Path, purpose: str = "train", *sets: str, machine: Machine = ROOMY) -> Plan:
    """The plan of the 14B base within 8 GB with the defaults, but for what is set."""
    config = build_config({}, ["memory.vram_budget_gb=8", *sets])
    return plan_for(config, Workspace(big), None, big, machine, purpose)  # type: ignore[arg-type]


def both(config: Config, root: Path, base: Path) -> list[Plan]:
    """The plans of training and inference on this machine's GPU, or one as it is sold."""
    found, machine = open_source(base), foreseen("cuda")
    return [plan_for(config, Workspace(root), None, found, machine, p) for p in PURPOSES]


def test_what_would_need_less_is_named_where_a_run_has_no_room(big: Path) -> None:
    changes = lighter(planned(big, "infer"))
    assert any(change.startswith('video.size = "') for change in changes), changes
    assert any(change.startswith("inference.segment = ") for change in changes), changes
    assert len(set(changes)) == len(changes)


@pytest.mark.parametrize(
    ("frames", "segment", "count"), [(49, "auto", 1), (81, "auto", 1), (82, "auto", 2), (81, 49, 2)]
)
def test_a_clip_that_was_generated_at_once_still_is(
    frames: int, segment: int | str, count: int
) -> None:
    inference = Inference.model_validate({"segment": segment})
    assert len(segments_of(inference, frames, [0], [])) == count


def test_the_rows_add_up_to_the_totals(plan_text: Text) -> None:
    text = plan_text()
    for table in ("VRAM", "RAM"):
        block = text[text.index(table) :].split("\n\n")[0].splitlines()[1:]
        rows = [line.split()[-4:] for line in block]
        *parts, total = [[0.0 if c == "-" else float(c) for c in row] for row in rows]
        for index, whole in enumerate(total):
            # Each cell is rounded by up to 0.005.
            assert sum(part[index] for part in parts) == pytest.approx(whole, abs=0.005 * len(rows))


def test_every_line_is_there(plan_text: Text) -> None:
    text = plan_text()
    assert "is not prepared yet" in text
    assert "49 frames of 832x480 (20280 tokens), trained in windows of 9 (4680 tokens)" in text
    assert "40 blocks of 770 MB" in text
    assert re.search(r"^budget 6\.5 GB: about 7\.4 GB are free on a GPU sold as 8 GB", text, re.M)
    for line in (r"train: \d+ of 40 blocks are swapped through \d", r"infer: .* swapped through 2"):
        assert re.search(rf"^{line} buffers, the fewest that fit", text, re.M)
    assert "the weights are not here yet" in text
    assert text.count("unknown until the first step") == 3


def test_the_frames_of_a_long_clip_wait_on_the_disk(plan_text: Text, edit: Path) -> None:
    wait = f"GB of frames per seed wait in {edit.parent / 'cache'} while it is generated"
    assert wait not in plan_text()
    text = plan_text("--set", "video.frames=1000")
    assert f"; {1000 * 832 * 480 * 3 / 2**30:.1f} {wait}\n" in text
    assert ", 25 segments of " in text


def test_what_does_not_fit_is_refused_and_nothing_else_happens(run: Run, edit: Path) -> None:
    before = sorted(edit.parent.rglob("*"))
    answer = run("plan", "--config", edit, "--device", "cuda", "--set", "memory.vram_budget_gb=3")
    assert (answer.status, answer.out) == (2, "")
    assert "GB of VRAM at the least, and memory.vram_budget_gb is 3" in answer.err
    assert sorted(edit.parent.rglob("*")) == before


@pytest.mark.parametrize(
    "sets",
    [
        ["memory.vram_budget_gb=4"],
        ["memory.vram_budget_gb=7", "motion.window=full"],
        ["memory.vram_budget_gb=8", "memory.blocks_to_swap=10"],
        ["memory.vram_budget_gb=5", "memory.activation_offload=false"],
        ["memory.vram_budget_gb=5", "video.size=1280x720"],
    ],
)
@pytest.mark.parametrize("purpose", ["train", "infer"])
def test_every_change_that_a_refusal_tells_would_fit(
    big: Path, sets: list[str], purpose: str
) -> None:
    try:
        planned(big, purpose, *sets)
        refused = ""
    except UserError as error:
        refused = str(error)
    changes = [line.strip() for line in refused.splitlines()[1:] if " = " in line]
    if purpose == "train":
        assert len(changes) > 1
    for change in changes:
        told = re.sub(r" \(prepare again\)", "", change)
        key, value = told.split(" = ")
        planned(big, purpose, *sets, f"{key}={value}")


@pytest.mark.parametrize("purpose", ["train", "infer"])
def test_more_budget_keeps_more_blocks_on_the_gpu(big: Path, purpose: str) -> None:
    plans = [planned(big, purpose, f"memory.vram_budget_gb={gb}") for gb in (8, 12, 24, 48)]
    swapped = [plan.placement.blocks_to_swap for plan in plans]
    assert swapped == sorted(swapped, reverse=True)
    assert swapped[0] > 30
    assert swapped[-1] == 0
    assert all(plan.budget and plan.vram_bytes <= plan.budget.nbytes for plan in plans)


def test_compressed_weights_swap_fewer_blocks(big: Path) -> None:
    swapped = [
        planned(big, "train", f"model.transformer_dtype={kind}").placement.blocks_to_swap
        for kind in ("same", "float8", "nf4")
    ]
    assert swapped[0] > swapped[1] > swapped[2]
    plan = planned(big, "infer", "model.transformer_dtype=nf4")
    assert plan.placement.storage == "nf4"


def test_training_and_inference_use_the_same_tiles(big: Path) -> None:
    for gb in ("5.5", "8", "16"):
        sets = [f"memory.vram_budget_gb={gb}", "model.transformer_dtype=nf4"]
        train, infer = (planned(big, purpose, *sets) for purpose in ("train", "infer"))
        assert train.placement.vae_tile == infer.placement.vae_tile


def test_the_two_branches_are_split_only_where_there_are_two(big: Path) -> None:
    assert planned(big, "infer").placement.split_batch
    single = planned(big, "infer", "inference.guidance=1.0")
    assert not single.placement.split_batch
    assert not planned(big, "train").placement.split_batch


def test_without_training_the_inversion_and_the_denoising_are_all_that_takes_time(
    plan_text: Text, edit: Path, big: Path
) -> None:
    """An evaluation of the inversion is a row, and one of the denoising three."""
    _, infer = both(build_config({}, ["transfer.attention=qk"]), edit.parent, big)
    timings.record(infer.step_key(49), 90.0)
    assert "whole edit: about 60 minutes" in plan_text("--preset", "instant")  # 30 x (90 + 30) s


def test_the_source_beside_the_edit_is_a_row_more(big: Path) -> None:
    roomy = "memory.vram_budget_gb=80"
    one, two, three, alone = (
        planned(big, "infer", roomy, *sets).needs["generate"].activations
        for sets in (
            ["inference.guidance=1.0"],
            [],
            ["transfer.attention=qk"],
            ["inference.guidance=1.0", "transfer.features_share=0.2"],
        )
    )
    assert alone == two
    assert three - two == two - one > 0
    split = planned(big, "infer", "transfer.attention=qk")
    assert "the source and the edit run one after the other within each block" in render([split])
    train = planned(big, "train", "transfer.attention=qk")
    assert train.needs == planned(big, "train").needs


def test_only_training_offloads_its_inputs(big: Path) -> None:
    train, infer = planned(big, "train"), planned(big, "infer")
    assert train.placement.activation_offload
    assert not infer.placement.activation_offload
    kept = planned(big, "train", "memory.activation_offload=false")
    assert kept.needs["train"].inputs == 20 * train.needs["train"].inputs
    assert kept.host["train"].inputs == 0
    assert train.host["train"].inputs == 39 * 4680 * 5120 * 2


def test_a_full_window_recomputes_layer_by_layer_where_blocks_do_not_fit(big: Path) -> None:
    tight = planned(big, "train", "motion.window=full", "memory.vram_budget_gb=9.5")
    roomy = planned(big, "train", "motion.window=full", "memory.vram_budget_gb=14")
    assert (tight.placement.recompute, roomy.placement.recompute) == ("layer", "block")
    assert "one layer's graph at a time" in tight.reason


def test_mapped_weights_take_no_ram_but_staging(big: Path) -> None:
    pinned = planned(big, "train").host["train"]
    mapped = planned(big, "train", "memory.weights=mapped").host["train"]
    assert pinned.weights > 25 * GIB
    assert (pinned.staging, mapped.weights) == (0, 0)
    assert mapped.staging == 4 * 64 * 2**20  # pieces, however large a block


@pytest.mark.parametrize("purpose", PURPOSES)
def test_the_weights_that_wait_count_once_for_all_processes(big: Path, purpose: str) -> None:
    plan = planned(big, purpose)
    waiting = max(part.weights for part in plan.host.values())
    own = max(part.total - part.weights for part in plan.host.values())
    assert waiting > 25 * GIB

    def lacking(available: int) -> str | None:
        ram = Ram(2 * available, available)
        return lacking_ram(replace(plan, machine=replace(plan.machine, ram=ram)), 4)

    assert lacking(waiting + 4 * own) is None
    assert "GB of RAM in 4 processes" in str(lacking(waiting + 3 * own))


def test_without_a_gpu_all_lies_in_ram_and_the_budget_is_not_enforced(
    big: Path, run: Run, edit: Path
) -> None:
    plan = planned(big, "train", "memory.vram_budget_gb=0.1", machine=WITHOUT_GPU)
    placement = plan.placement
    assert (placement.blocks_to_swap, placement.recompute, placement.vae_tile) == (0, "block", None)
    assert (plan.vram_bytes, plan.allocated_bytes) == (0, 0)
    assert plan.ram_bytes > 30 * GIB
    mapped = planned(big, "infer", "memory.weights=mapped", machine=WITHOUT_GPU)
    assert mapped.placement.blocks_to_swap == 40
    assert not mapped.placement.split_batch
    assert mapped.ram_bytes < 12 * GIB
    explicit = planned(big, "infer", "memory.blocks_to_swap=5", machine=WITHOUT_GPU)
    assert explicit.placement.blocks_to_swap == 5
    text = run("plan", "--config", edit, "--device", "cpu").out
    assert "no GPU: VRAM limit ignored (memory.vram_budget_gb)" in text
    assert "reserve" not in text


def test_more_blocks_than_there_are_is_an_error_everywhere(big: Path) -> None:
    for machine in (ROOMY, WITHOUT_GPU):
        all_of_them = planned(big, "train", "memory.blocks_to_swap=40", machine=machine)
        assert all_of_them.placement.blocks_to_swap == 40
        with pytest.raises(UserError, match="blocks_to_swap is 41, but this base has 40 blocks"):
            planned(big, "train", "memory.blocks_to_swap=41", machine=machine)


def test_a_prepared_clip_decides_frames_and_size(plan_text: Text, edit: Path) -> None:
    source = {
        "origin": "clip.mp4", "start": 0, "every": 1, "frames": 13, "fps": "16", "cell": 8,
        "original_size": (320, 192), "size": (160, 96), "region": (0, 0, 320, 192), "fit": "crop",
    }  # fmt: skip
    Workspace(edit.parent).write_source(Source.model_validate(source))
    text = plan_text()
    assert "13 frames of 160x96 (240 tokens), trained in windows of 9 (180 tokens)" in text
    assert "not prepared" not in text


def test_a_device_that_is_none_is_an_error(run: Run, edit: Path) -> None:
    answer = run("plan", "--config", edit, "--device", "tpu")
    assert answer.status == 2
    assert "--device tpu" in answer.err


def test_a_base_that_cannot_be_reached_is_an_error(edit: Path) -> None:
    command = ["plan", "--config", str(edit), "--set", "model.path=nobody/no-such-base"]
    result = subprocess.run(
        [sys.executable, "-m", "maskora", *command],
        env={**os.environ, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode == 2
    assert "could not be fetched from the hub" in result.stderr


def test_the_tiny_model_stays_on_any_gpu(plan_text: Text, prepared: Callable[..., Path]) -> None:
    text = plan_text(config=prepared() / "edit.toml")
    assert text.count("all 2 blocks stay on the GPU") == 2
    assert "weights are not here" not in text


@pytest.mark.parametrize(
    ("sets", "copies"),
    [
        (["model.dtype=float32", "memory.blocks_to_swap=2"], False),
        (["model.dtype=bfloat16", "memory.blocks_to_swap=2"], True),
        (["model.dtype=float32", "model.transformer_dtype=int8", "memory.blocks_to_swap=2"], True),
        (["model.dtype=bfloat16", "memory.blocks_to_swap=0"], False),
    ],
)
def test_a_copy_on_disk_is_told_where_mapped_weights_need_one(
    plan_text: Text, prepared: Callable[..., Path], sets: list[str], copies: bool
) -> None:
    options = [item for one in ["memory.weights=mapped", *sets] for item in ("--set", one)]
    text = plan_text(*options, config=prepared() / "edit.toml")
    assert ("a copy as it is used" in text) == copies


def test_measured_times_are_told_and_those_of_another_placement_are_not(
    plan_text: Text, edit: Path, big: Path
) -> None:
    train, infer = both(build_config({}), edit.parent, big)
    timings.record(train.step_key(9), 12.0)
    text = plan_text()
    assert "training step of 9 frames: 12.0 s, as measured before" in text
    assert text.count("unknown until the first step") == 2
    timings.record(infer.step_key(49), 60.0)
    text = plan_text()
    assert "whole edit: about 50 minutes" in text  # 100 x 12 s and 30 x 60 s
    (edit.parent / "edits").mkdir()
    (edit.parent / "edits" / "00008.png").write_bytes(b"")
    assert "whole edit: unknown" in plan_text()
    timings.record(train.step_key(1), 2.0)
    text = plan_text()
    assert "whole edit: about 55 minutes" in text  # and 90 x 2 s, 10 x 12 s
    anchored = ("--set", "appearance.conditioning=anchored")
    assert "whole edit: unknown" in plan_text(*anchored)
    timings.record(train.step_key(5), 6.0)  # the first frame, and the keyframe held for four
    text = plan_text(*anchored)
    assert "whole edit: about 61 minutes" in text  # 90 x 6 s instead
    other = replace(train, placement=replace(train.placement, blocks_to_swap=3))
    assert timings.lookup(other.step_key(9)) is None
    assert timings.neighbour(other.step_key(9)) is None


def test_a_step_with_nearly_as_many_blocks_tells_the_time(plan_text: Text, big: Path) -> None:
    """What is free of a GPU differs from run to run."""
    train, _ = both(build_config({}), big, big)
    for swapped, ring, seconds in ((30, 2, 9.0), (38, 3, 11.0), (37, 2, 10.0)):
        placement = replace(train.placement, blocks_to_swap=swapped, ring=ring)
        timings.record(replace(train, placement=placement).step_key(9), seconds)
    other = replace(train, placement=replace(train.placement, recompute="layer"))
    timings.record(other.step_key(9), 99.0)
    text = plan_text()
    assert "training step of 9 frames: 11.0 s, as measured with 38 blocks swapped" in text
    resident = replace(train, placement=replace(train.placement, blocks_to_swap=0))
    assert timings.neighbour(resident.step_key(9)) is None
    timings.record("no step's key", 1.0)
    assert timings.neighbour("no step's key") is None


def test_times_that_cannot_be_read_or_kept_are_in_nobodys_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert timings.lookup("key") is None
    assert timings.neighbour("key") is None
    timings.record("key", 1.0)
    assert "nothing is kept in" in caplog.text


@pytest.mark.parametrize(
    "content",
    ["", "[]", '{"key": ' + "1" * 5000 + "}", "[" * 5000, '{"key": 1e999, "{}": 1}', "\xff", None],
)
def test_damaged_times_count_as_none(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    path = tmp_path / "maskora" / "timings.json"
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content.encode("latin-1"))
    assert timings.lookup("key") is None
    assert timings.neighbour("key") is None
    timings.record("key", 1.0)
    assert timings.lookup("key") == (1.0 if path.is_file() else None)


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """An edit.toml of defaults on Wan2.2-I2V-A14B's configuration files."""
    base = write_published(tmp_path / "A14B", "Wan2.2-I2V-A14B")
    path = tmp_path / "two" / "edit.toml"
    path.parent.mkdir()
    path.write_text(f'[model]\nfamily = "wan2.2-i2v"\npath = "{base}"\n')
    return path


def test_two_experts_take_twice_the_steps_of_training(plan_text: Text, two: Path) -> None:
    config = load_config(two)
    train, infer = both(config, two.parent, Path(config.model.path))
    for key, seconds in ((train.step_key(9), 12.0), (train.step_key(1), 2.0)):
        timings.record(key, seconds)
    timings.record(infer.step_key(49), 60.0)
    text = plan_text(config=two)
    assert "whole edit: about 70 minutes" in text  # 2 x 100 x 12 s and 30 x 60 s
    (two.parent / "edits").mkdir()
    (two.parent / "edits" / "00008.png").write_bytes(b"")
    text = plan_text(config=two)
    assert "whole edit: about 80 minutes" in text  # and 2 x (90 x 2 s, 10 x 12 s)


def test_the_copy_on_disk_holds_both_experts(plan_text: Text, two: Path) -> None:
    text = plan_text("--set", "memory.weights=mapped", config=two)
    (block,) = re.findall(r"40 blocks of (\d+) MB", text)
    (copy,) = re.findall(r"a copy as it is used, ([\d.]+) GB", text)
    assert float(copy) == pytest.approx(2 * 40 * int(block) / 1024, rel=0.01)


@pytest.mark.parametrize(("cache", "tensors"), [("taylor", 1), ("first-block", 3)])
def test_what_a_cache_over_the_steps_keeps_is_planned(big: Path, cache: str, tensors: int) -> None:
    plain = planned(big, "infer").needs["generate"]
    cached = planned(big, "infer", f"acceleration.cache={cache}").needs["generate"]
    assert plain.inputs == 0
    assert cached.inputs == tensors * 2 * 20280 * 5120 * 2  # of both branches, at 16 bits


def test_every_order_of_the_colours_is_a_sample_in_ram_as_far_as_some_stay(big: Path) -> None:
    sample = 9 * 832 * 480 * 4 * 2  # the mask in float32, and as much for the rest

    def planned_with(*settings: str) -> int:
        return planned(big, "train", *settings).host["train"].frames

    for stride in (4, 40):
        plain = planned_with(f"motion.stride={stride}")
        windows = len(window_starts(49, 9, stride))
        for setting, more in (
            ("masking=grid", 2), ("augment=colour", len(COLOUR_ORDERS)), ("task=remove", PLACES),
        ):  # fmt: skip
            longer = planned_with(f"motion.stride={stride}", f"motion.{setting}")
            assert longer - plain == min(SAMPLE_ROOM, more * windows * sample) - windows * sample


def test_a_damaged_file_of_timings_counts_as_empty(cache: Path) -> None:
    assert timings.lookup("a") is None
    timings.record("a", 1.5)
    timings.record("b", 2.5)
    assert (timings.lookup("a"), timings.lookup("b")) == (1.5, 2.5)
    for damaged in ('{"a": 1.5, ', "[1]", '{"a": "x"}'):
        (cache / "timings.json").write_text(damaged)
        assert timings.lookup("a") is None
    timings.record("c", 3.5)
    assert json.loads((cache / "timings.json").read_text())["c"] == 3.5


def test_what_torch_should_count_at_most_is_the_plan_without_its_reserve(big: Path) -> None:
    plan = planned(big)
    largest = max(plan.needs.values(), key=lambda need: need.total)
    assert plan.vram_bytes == largest.total
    assert plan.vram_bytes - largest.reserve <= plan.allocated_bytes < plan.vram_bytes


def test_a_plan_renders_its_own_phases(big: Path) -> None:
    text = render([planned(big, "train")])
    assert "generate" not in text
    assert "decode" not in text
    assert re.search(r"^VRAM, GB \(budget 7\.1\) +encode +train$", text, re.M)
    assert "budget 7.1 GB: cap 8 GB, as set, less 0.5 GB reserve and 0.4 GB for the CUDA" in text


def test_stacked_loras_are_counted(big: Path, tmp_path: Path) -> None:
    import torch

    file = tmp_path / "other.safetensors"
    save_file({"x.lora_A.weight": torch.zeros(4, 10), "x.lora_B.weight": torch.zeros(6, 4)}, file)
    assert adapter_values(file) == 64
    config = Config.model_validate({"inference": {"loras": [{"path": "other.safetensors"}]}})
    with_it = plan_for(config, Workspace(tmp_path), None, big, with_gpu(8), "infer")
    without = planned(big, "infer")
    assert with_it.needs["generate"].adapter == without.needs["generate"].adapter + 64 * 4


def test_a_file_that_is_no_safetensors_file_is_named(tmp_path: Path, tiny_model: Path) -> None:
    assert matrix_type(sorted((tiny_model / "transformer").iterdir())) == "F32"
    assert matrix_type([]) is None
    with pytest.raises(UserError, match="does not exist"):
        adapter_values(tmp_path / "none.safetensors")
    for content in (b"", b"\x08\0\0\0\0\0\0\0nonsense", b"\xff" * 8):
        (tmp_path / "odd.safetensors").write_bytes(content)
        with pytest.raises(UserError, match="no readable safetensors file"):
            adapter_values(tmp_path / "odd.safetensors")


def test_smaller_sizes_lie_on_the_grid_and_shrink() -> None:
    sizes = list(smaller_sizes(832, 480, 16))
    assert all(width % 16 == 0 and height % 16 == 0 for width, height in sizes)
    areas = [width * height for width, height in [(832, 480), *sizes]]
    assert areas == sorted(areas, reverse=True)
    assert sizes[0] == (800, 464)
