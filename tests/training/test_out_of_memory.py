"""The GPU's memory runs out: the work is done again with more given back, and nothing is lost."""

import errno
import logging
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import psutil
import pytest
import torch
from safetensors import SafetensorError
from torch import Tensor

from maskora import lora
from maskora.config.tables import Acceleration, Inference, Training
from maskora.errors import Fault, OutOfMemory
from maskora.latents import EncodedSample, TensorCache, decode_video, encode_videos
from maskora.models.acceleration import use_cache
from maskora.models.registry import VideoModel, open_model
from maskora.sampling import Denoising, draw_noise
from maskora.streaming.engine import Streamer
from maskora.streaming.out_of_memory import ran_out_of, with_room
from maskora.streaming.placement import RESIDENT, Placement
from maskora.training.loop import choose_uniformly, give_way, train, train_step
from maskora.training.optimizer import make_optimizer
from maskora.training.run_folder import RunFolder
from tests.simulated import OUT_OF_MEMORY, Allocator
from tests.training.conftest import injected
from tests.training.test_loop import PLAN

FAMILY, BLOCKS = "wan2.1-i2v", 5
SHORT = replace(PLAN, steps=2, training=Training(seed=3, checkpoint_every=2))
Fails = Callable[[int], bool]


def opened(folder: Path, placement: Placement = RESIDENT) -> VideoModel:
    return open_model(FAMILY, folder, "float32", "cpu", placement)


@pytest.fixture(scope="module")
def window(deep_model: Path, windows: list[EncodedSample]) -> EncodedSample:
    return windows[0]  # the deep model differs from the other in its number of blocks alone


class Steps:
    """Two training steps of a LoRA, without files; an allocation of one of them may fail."""

    def __init__(self, model: VideoModel, window: EncodedSample) -> None:
        self.memory = Allocator()
        self._model, self._choose = model, choose_uniformly([window])
        self._transformer = injected(model, PLAN.seed)
        self._parameters = lora.trainable(self._transformer)
        self._optimizer = make_optimizer(PLAN.optimizer, self._parameters)

    def take(self, fails: Fails, at_step: int, steps: int = 2) -> list[Tensor]:
        """The LoRA's matrices after the steps."""
        for step in range(1, steps + 1):
            take = partial(
                train_step, self._model, self._transformer, self._optimizer, self._choose, PLAN,
                step,
            )  # fmt: skip
            if step == at_step:
                self.memory.arm(fails)
                with self.memory:
                    with_room(take, lambda: give_way(self._model, self._transformer))
            else:
                take()
        self._transformer.streamed.close()
        return [parameter.detach().clone() for parameter in self._parameters]


def trained(
    model: VideoModel, window: EncodedSample, folder: Path, every: int = 0, times: int = 7
) -> dict[str, Tensor]:
    """A LoRA that the whole loop has trained for two steps.

    `every`: in the second one, every so-manieth allocation fails, so many `times`; 7 are enough
    that nothing is left to give.
    """
    memory, seen = Allocator(), 0
    transformer = injected(model, PLAN.seed)
    if saved := RunFolder(folder).newest_adapter():
        lora.fill(transformer, lora.read(saved), saved)

    def choose(generator: torch.Generator) -> EncodedSample:
        nonlocal seen
        seen += 1
        if seen == 2 and every:
            memory.arm(lambda count: count % every == 0 and memory.failed < times)
        return choose_uniformly([window])(generator)

    with memory if every else nullcontext():
        train(model, transformer, choose, SHORT, RunFolder(folder), {"all": "one"}, {})
    transformer.streamed.close()
    return lora.read(RunFolder(folder).adapter(SHORT.steps)).tensors


def once(n: int) -> Fails:
    """The n-th allocation fails, whichever attempt it falls into."""
    numbers = [n]
    return lambda count: count in numbers and numbers.pop() == count


def never(_: int) -> bool:
    return False


@pytest.fixture(scope="module")
def first_step(deep_model: Path, window: EncodedSample) -> list[Tensor]:
    """The LoRA after one step without a failure."""
    return Steps(opened(deep_model), window).take(never, at_step=1, steps=1)


def equal(ours: list[Tensor], others: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, others, strict=True))


@pytest.mark.parametrize(
    ("placement", "numbers"),
    [
        (RESIDENT, range(1, 41, 4)),
        (Placement(3, ring=3, activation_offload=True), range(2, 41, 4)),
        pytest.param(RESIDENT, [*range(3, 41, 4), *range(2, 41, 2)], marks=pytest.mark.slow),
        pytest.param(
            Placement(3, ring=3, activation_offload=True), range(4, 41, 4), marks=pytest.mark.slow
        ),
        pytest.param(Placement(2, ring=2), range(1, 41, 2), marks=pytest.mark.slow),
    ],
)
def test_any_of_a_steps_first_forty_allocations_may_fail(
    placement: Placement, numbers: Iterable[int], deep_model: Path, window: EncodedSample,
    first_step: list[Tensor],
) -> None:  # fmt: skip
    for n in numbers:
        model = opened(deep_model, placement)
        steps = Steps(model, window)
        assert equal(steps.take(once(n), at_step=1, steps=1), first_step)
        assert steps.memory.failed == 1
        assert model.placement != placement


def test_so_may_those_of_the_backward_pass_and_of_the_first_update(
    deep_model: Path, window: EncodedSample, first_step: list[Tensor]
) -> None:
    whole = Steps(opened(deep_model), window)
    assert equal(whole.take(never, at_step=1, steps=1), first_step)
    assert whole.memory.count > 500
    last = whole.memory.count
    for n in [*range(60, last, last // 6), last - 1, last]:
        steps = Steps(opened(deep_model), window)
        assert equal(steps.take(once(n), at_step=1, steps=1), first_step)
        assert steps.memory.failed == 1


def test_a_later_step_may_run_out_and_those_after_it_go_on(
    deep_model: Path, window: EncodedSample
) -> None:
    undisturbed = Steps(opened(deep_model), window).take(never, at_step=2, steps=3)
    for n in (5, 900):
        steps = Steps(opened(deep_model), window)
        assert equal(steps.take(once(n), at_step=2, steps=3), undisturbed)
        assert steps.memory.failed == 1


def test_memory_may_run_out_again_and_again_until_nothing_is_left_to_give(
    deep_model: Path, window: EncodedSample, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "maskora")
    model = opened(deep_model)
    with pytest.raises(OutOfMemory, match="CUDA out of memory"):
        trained(model, window, tmp_path / "run", every=20)
    said = [record.message for record in caplog.records if "out of GPU memory" in record.message]
    assert ["wait in RAM" in said[0], "blocks are streamed" in said[1]] == [True, True]
    assert "each layer" in said[-2]
    assert "through 1 of" in said[-1]
    last = model.placement
    assert (last.blocks_to_swap, last.ring, last.recompute) == (BLOCKS, 1, "layer")
    assert last.activation_offload
    # The step before is saved, though no checkpoint was due.
    assert RunFolder(tmp_path / "run").read().step == 1
    resumed = trained(opened(deep_model), window, tmp_path / "run")
    whole = trained(opened(deep_model), window, tmp_path / "whole")
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError(OUT_OF_MEMORY), OSError(errno.ENOMEM, "cannot allocate")]
)
def test_what_runs_out_while_memory_is_given_back_ends_the_run_with_its_state(
    error: Exception, deep_model: Path, window: EncodedSample, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(Streamer, "shrink", fail)
    with pytest.raises(OutOfMemory, match="allocate"):
        trained(opened(deep_model), window, tmp_path / "run", every=20, times=2)
    assert RunFolder(tmp_path / "run").read().step == 1


def test_an_update_that_fails_later_is_not_repeated(
    model: VideoModel, window: EncodedSample, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = torch.optim.AdamW.step
    calls = 0

    def fail_late(optimizer: torch.optim.AdamW) -> None:
        nonlocal calls
        calls += 1
        step(optimizer)
        if calls == 2:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)

    monkeypatch.setattr(torch.optim.AdamW, "step", fail_late)
    with pytest.raises(Fault, match="in the middle of an update"):
        trained(model, window, tmp_path / "run")
    assert calls == 2


def denoised(
    model: VideoModel, window: EncodedSample, steps: int, fails: Fails, cache: str = "none"
) -> tuple[Tensor, int]:
    """A clip, and how many blocks were computed for it."""
    memory, transformer = Allocator(), model.load_transformer()
    use_cache(transformer, Acceleration(cache=cache))
    noise = draw_noise((16, *window.condition_CTHW.shape[1:]), seed=1)
    clip = Denoising(model, window, window.context, noise, Inference(steps=steps))
    with memory:
        memory.arm(fails)
        clip.advance(transformer)
    return clip.result(), transformer.streamed.streamer.traffic.visits


@pytest.mark.parametrize(("n", "weights"), [(1, "pinned"), (25, "pageable"), (80, "mapped")])
def test_denoising_goes_on(n: int, weights: str, deep_model: Path, window: EncodedSample) -> None:
    resident, failing, twice = replace(RESIDENT, weights=weights), once(n), 0

    def fails(count: int) -> bool:
        nonlocal twice
        due = failing(count) or (twice == 1 and count == n + 40)
        twice += due
        return due

    undisturbed, disturbed = opened(deep_model, resident), opened(deep_model, resident)
    whole, _ = denoised(undisturbed, window, 3, never)
    result, _ = denoised(disturbed, window, 3, fails)
    assert torch.allclose(result, whole, atol=1e-5)
    assert undisturbed.placement == resident
    assert (disturbed.placement.split_batch, disturbed.placement.blocks_to_swap) == (True, 3)


def test_a_cache_over_the_steps_forgets_the_step_that_failed(
    deep_model: Path, window: EncodedSample
) -> None:
    """What it holds is of two attempts then, or of another number of samples."""
    _, undisturbed = denoised(opened(deep_model), window, 8, never, "taylor")
    assert undisturbed == BLOCKS * 5  # three to begin with, and every third of the other five
    _, disturbed = denoised(opened(deep_model), window, 8, once(1000), "taylor")
    assert disturbed > undisturbed + BLOCKS  # it begins anew


@pytest.mark.parametrize(("weights", "streamed"), [("pageable", 0), ("mapped", 3)])
def test_blocks_do_not_move_to_ram_that_is_not_there(
    weights: str, streamed: int, deep_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supplied = opened(deep_model, replace(RESIDENT, weights=weights)).load_transformer().streamed
    full = psutil.virtual_memory()._replace(available=2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: full)
    told = [supplied.give_way(training=False) for _ in range(2)]
    assert told[0] is not None
    assert (told[1] is None) == (streamed == 0)
    assert supplied.placement.blocks_to_swap == len(supplied.streamer.streamed) == streamed


def test_loading_goes_on(deep_model: Path, window: EncodedSample) -> None:
    model, memory = opened(deep_model), Allocator()
    with memory:
        memory.arm(once(60))
        transformer = model.load_transformer()
    assert memory.failed == 1
    assert model.placement.blocks_to_swap == 3
    assert transformer.streamed.streamer.streamed == [0, 1, 3]
    transformer.streamed.close()


def test_the_vae_takes_smaller_tiles(model: VideoModel, tiny_model: Path, tmp_path: Path) -> None:
    videos = [torch.rand(3, 5, 160, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1] * 2
    videos[1] = videos[1].flip(1)
    tiled = opened(tiny_model, Placement(0, vae_tile=128))
    expected = encode_videos(videos, tiled, TensorCache(tmp_path / "tiled"))
    model, memory = opened(tiny_model), Allocator()
    with memory:
        memory.arm(lambda count: memory.failed < 2 and count > 30 * (memory.failed + 1))
        result = encode_videos(videos, model, TensorCache(tmp_path / "cache"))
    assert model.placement.vae_tile == 128
    assert all(torch.equal(a, b) for a, b in zip(result, expected, strict=True))
    pixels, memory, model = decode_video(expected[0], tiled), Allocator(), opened(tiny_model)
    with memory:
        memory.arm(lambda count: memory.failed < 2 and count > 30 * (memory.failed + 1))
        assert torch.equal(decode_video(expected[0], model), pixels)
    memory.arm(lambda _: True)
    with memory, pytest.raises(OutOfMemory):
        decode_video(expected[0], model)


KINDS: list[tuple[Exception, str | None]] = [
    (torch.OutOfMemoryError(OUT_OF_MEMORY), "VRAM"),
    (torch.AcceleratorError("CUDA error: out of memory\nCUDA kernel errors might be …"), "VRAM"),
    (RuntimeError("CUDA driver error: out of memory"), "VRAM"),
    (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
     "VRAM"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), "VRAM"),
    (RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"), "VRAM"),
    (RuntimeError("Triton Error [CUDA]: out of memory"), "VRAM"),
    (RuntimeError("GET was unable to find an engine to execute this computation"), "VRAM"),
    (RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried to allocate 9"),
     "RAM"),
    (MemoryError(), "RAM"),
    (OSError(errno.ENOMEM, "Cannot allocate memory"), "RAM"),
    (ImportError("_image.so: failed to map segment from shared object"), "RAM"),
    (ImportError("lib.so: cannot allocate memory in static TLS block"), "RAM"),
    (SafetensorError("Cannot allocate memory (os error 12)"), "RAM"),
    (RuntimeError("can't start new thread"), "RAM"),
    (cv2.error("alloc.cpp:73: error: (-4:Insufficient memory) Failed to allocate"), "RAM"),
    (cv2.error("resize.cpp: error: (-215:Assertion failed) !ssize.empty()"), None),
    (RuntimeError("could not create a primitive"), "RAM"),
    (ImportError("No module named 'bitsandbytes'"), None),
    (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), None),
    (RuntimeError("expected scalar type Half but found Float"), None),
    (OSError(errno.ENOSPC, "No space left on device"), None),
    (Fault("the disk is gone"), None),
]  # fmt: skip


@pytest.mark.parametrize(("error", "memory"), KINDS, ids=lambda value: str(value)[:40])
def test_every_kind_is_recognised(error: Exception, memory: str | None) -> None:
    assert ran_out_of(error) == memory


def test_so_is_what_torch_really_raises_without_ram() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(10**16, dtype=torch.uint8)
    assert ran_out_of(caught.value) == "RAM"


@pytest.mark.parametrize("error", [error for error, memory in KINDS if memory != "VRAM"])
def test_nothing_is_given_back_for_other_failures(error: Exception) -> None:
    def work() -> None:
        raise error

    with pytest.raises(type(error)):
        with_room(work, lambda: pytest.fail("nothing was to be given"))
