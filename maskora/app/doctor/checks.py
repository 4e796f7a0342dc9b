"""The doctor's checks: bandwidths, and small pieces of the real work with a known result."""

import math
import os
import statistics
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from maskora import lora
from maskora.app.doctor.facts import FFMPEG, INSTALL
from maskora.app.doctor.outcomes import Bench, Check, Found, Skipped, Wrong
from maskora.config.tables import Optimizer
from maskora.files import scratch_folder
from maskora.hub import locate
from maskora.latents import EncodedSample
from maskora.models.registry import open_model
from maskora.models.wan.encoders import normalised
from maskora.streaming.blocks import precise
from maskora.streaming.engine import Direction, Streamer
from maskora.streaming.header import read_headers
from maskora.streaming.host_memory import Driver, Pins, driver_of, host_buffer, is_ready
from maskora.streaming.placement import RESIDENT, Placement, gb
from maskora.streaming.tensor_files import Checkpoint, ModuleReader, Reader, byte_view
from maskora.streaming.weights import stream_weights
from maskora.training.loop import StageRun, choose_uniformly, train_step
from maskora.training.optimizer import failed_trial, make_optimizer
from maskora.video.probe import probe
from maskora.video.read import read_frames
from maskora.video.sound import AudioClip
from maskora.video.write import write_lossless, write_mp4

GB = 1e9
BLOCKS, RING = 3, 2  # more blocks than buffers, so that every block moves
COPY_BYTES, REPEATS, ROUNDS = 256_000_000, 10, 3
PIECE = 2**24  # bytes that are read or written at once
PINNED_PIECE, MOST_PINNED = 2**28, 2**34  # bytes

DRIVER = "update the GPU's driver, and restart the computer (in WSL: wsl --shutdown)"
QUANT = 'pip install -e ".[quant]" -c constraints.txt'
CORRUPT = (
    "the GPU does not get what lies in RAM or on the disk, so results would be wrong: update its "
    "driver (in WSL: wsl --update, then wsl --shutdown); if it stays, test the RAM and the disk"
)


def measure_ram(bench: Bench) -> Found:
    """Copies from RAM to RAM."""
    speed = ram_bandwidth()
    return Found(f"{speed / GB:.1f} GB/s copied", {"ram": speed})


def measure_disk(bench: Bench) -> Found:
    """Writing and reading on the disk of the cache."""
    write, read, cached = disk_bandwidth(bench.cache)
    message = f"writes {write / GB:.2f} GB/s, reads {read / GB:.2f} GB/s"
    if cached:
        message += " (perhaps out of RAM: this system does not read past its cache)"
    return Found(message, {"disk_write": write, "disk_read": read})


def measure_bus(bench: Bench) -> Found:
    """Copies to the GPU, from memory that is pinned and from memory that is not."""
    if bench.vram is None:
        raise Skipped("no GPU")
    pinned, staged = pinned_bandwidth(bench.device), staged_bandwidth(bench.device)
    slow = f"{staged / GB:.1f} GB/s through staging"
    if pinned is None:
        return Found(f"{slow}; no memory can be pinned", {"staged": staged})
    numbers = {"bus": pinned, "staged": staged}
    return Found(f"{pinned / GB:.1f} GB/s from pinned memory, {slow}", numbers)


def measure_pinning(bench: Bench) -> Found:
    """Pin as much memory as the system allows, and give it back at once."""
    driver = driver_of(bench.device)
    if driver is None:
        raise Skipped("nothing needs to be pinned without a GPU")
    pinned, refused = pinnable(driver, min(bench.ram // 2, MOST_PINNED))
    end = f"then the system pins no more: {refused}" if refused else "more was not tried"
    return Found(f"{gb(pinned)} GB; {end}", {"pinned": pinned})


def pinnable(driver: Driver, most: int) -> tuple[int, str]:
    """The bytes that can be pinned, up to about `most`, and why no more (empty: not tried)."""
    pins = Pins(driver)
    held: list[Tensor] = []
    while len(held) * PINNED_PIECE < most:
        buffer = host_buffer(PINNED_PIECE, pin=False)
        if not pins.spare(buffer):
            break
        held.append(buffer)
    return len(held) * PINNED_PIECE, pins.refused


def pinned_bandwidth(device: torch.device, nbytes: int = COPY_BYTES) -> float | None:
    """Host to device in bytes per second, from one block of memory as the engine pins it.

    The median of ten copies; None where the memory cannot be pinned.
    """
    source = host_buffer(nbytes, pin=True)
    if not is_ready(source):
        return None
    target = torch.empty(nbytes, dtype=torch.uint8, device=device)
    return nbytes / _median_seconds(lambda: target.copy_(source, non_blocking=True), device)


def staged_bandwidth(device: torch.device, nbytes: int = COPY_BYTES) -> float:
    """Host to device in bytes per second, of blocks that wait in memory that is not pinned.

    The engine itself moves them, through its staging; nothing computes meanwhile.
    """
    values = torch.zeros(nbytes // 2, dtype=torch.bfloat16)
    waiting = nn.ModuleList(_Values(values) for _ in range(BLOCKS))
    moved = nn.ModuleList(_Values(values.to("meta")) for _ in range(BLOCKS))
    placement = Placement(blocks_to_swap=BLOCKS, weights="pageable")
    supplied = stream_weights(
        moved, list(moved), ModuleReader(waiting), lambda _: torch.bfloat16, placement, device
    )

    streamer = supplied.streamer
    try:
        _visit_all(streamer)  # warms up
        before, started = streamer.traffic.bytes, _now(device)
        for _ in range(ROUNDS):
            _visit_all(streamer)
        return (streamer.traffic.bytes - before) / (_now(device) - started)
    finally:
        supplied.close()


def _visit_all(streamer: Streamer) -> None:
    for index in range(BLOCKS):
        with streamer.visit(index, "generate"):
            pass


def ram_bandwidth(nbytes: int = COPY_BYTES) -> float:
    """Bytes per second of copying from RAM to RAM: the median of ten copies."""
    source, target = host_buffer(nbytes, pin=False), host_buffer(nbytes, pin=False)
    source.fill_(1)
    return nbytes / _median_seconds(lambda: target.copy_(source), torch.device("cpu"))


def disk_bandwidth(folder: Path, nbytes: int = COPY_BYTES) -> tuple[float, float, bool]:
    """Write and read a file of random bytes in a folder; it is removed again.

    Returns:
        bytes per second until all of it is on the disk, and of reading it; and whether the system
        could not be kept from reading out of RAM, so that the second may be RAM's.

    Raises:
        OSError: the folder cannot be written to, or the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    data = torch.randint(256, (PIECE,), dtype=torch.uint8)  # a compressing disk gains nothing
    pieces = -(-nbytes // PIECE)
    with scratch_folder(folder, "disk-speed") as scratch:
        path = scratch / "bytes"
        started = time.perf_counter()
        with path.open("wb", buffering=0) as file:
            _stop_caching(file.fileno())
            for _ in range(pieces):
                _write_all(file.fileno(), byte_view(data))
            os.fsync(file.fileno())
        written = time.perf_counter()
        view = byte_view(host_buffer(PIECE, pin=False))
        descriptor, cached = _open_uncached(path)
        with open(descriptor, "rb", buffering=0) as stream:
            while stream.readinto(view):
                pass
        seconds = time.perf_counter() - written
    return pieces * PIECE / (written - started), pieces * PIECE / seconds, cached


def _write_all(file: int, data: memoryview) -> None:
    while data:
        data = data[os.write(file, data) :]


def _open_uncached(path: Path) -> tuple[int, bool]:
    """A descriptor whose reads bypass the system's cache, and whether that was impossible."""
    plain = os.O_RDONLY | getattr(os, "O_BINARY", 0)
    if hasattr(os, "O_DIRECT"):  # Linux
        try:
            return os.open(path, plain | os.O_DIRECT), False
        except OSError:  # a file system that has no such reads, as one in RAM
            return os.open(path, plain), True
    file = os.open(path, plain)
    return file, not _stop_caching(file)


def _stop_caching(file: int) -> bool:
    """On macOS, keep a file out of the page cache; False elsewhere."""
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return False
    if not hasattr(fcntl, "F_NOCACHE"):
        return False
    fcntl.fcntl(file, fcntl.F_NOCACHE, 1)
    return True


def _median_seconds(work: Callable[[], object], device: torch.device) -> float:
    """The median of ten runs, after one to warm up; the device's work is waited for."""
    seconds = []
    for _ in range(REPEATS + 1):
        started = _now(device)
        work()
        seconds.append(_now(device) - started)
    return statistics.median(seconds[1:])


def _now(device: torch.device) -> float:
    """The time, once the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class _Values(nn.Module):
    """A block that is one parameter."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(values, requires_grad=False)


@dataclass(frozen=True)
class Shape:
    """A published transformer's block.

    Attributes:
        width: of its tokens.
        inner: of its feed-forward.
        heads: of its attention.
    """

    name: str
    width: int
    inner: int
    heads: int

    def build(self) -> nn.ModuleList:
        """The real blocks, without memory."""
        sizes = self.width, self.inner, self.heads
        with torch.device("meta"):
            blocks = nn.ModuleList(
                WanTransformerBlock(
                    *sizes, "rms_norm_across_heads", True, added_kv_proj_dim=self.width
                )
                for _ in range(BLOCKS)
            )
        return blocks.requires_grad_(False)


WIDE = Shape("Wan2.1-I2V-14B", 5120, 13824, 40)
NARROW = Shape("Wan2.1-Fun-1.3B-InP", 1536, 8960, 12)
PRECISION = precise(torch.bfloat16, tuple(WanTransformer3DModel._keep_in_fp32_modules))


def stream_from_ram(bench: Bench, weights: str, shape: Shape | None = None) -> Found:
    """Random blocks wait in RAM, pass through the engine, and are compared byte for byte."""
    chosen = shape or affordable(bench)
    expected = random_values(chosen)
    placement = Placement(BLOCKS, weights=weights, ring=RING)
    found = stream(bench, chosen, expected, ModuleReader(expected), placement)
    if shape is None and chosen is not WIDE:
        return Found(f"{found.message}; too little memory is free for those of {WIDE.name}")
    return found


def stream_from_disk(bench: Bench, shape: Shape = NARROW) -> Found:
    """As `stream_from_ram`, with blocks that are read from a file when they are needed."""
    expected = random_values(shape)
    path = bench.scratch / "blocks.safetensors"
    save_file({name: p.detach().clone() for name, p in expected.named_parameters()}, path)
    reader = Checkpoint(read_headers([path]), str(path))
    placement = Placement(BLOCKS, weights="mapped", ring=RING)
    try:
        return stream(bench, shape, expected, reader, placement)
    finally:
        path.unlink()


def affordable(bench: Bench) -> Shape:
    """The widest published block of which enough fit into half of the free memory."""
    for shape in (WIDE, NARROW):
        block = sum(_nbytes(name, p) for name, p in shape.build()[0].named_parameters())
        on_host = BLOCKS if bench.vram is not None else BLOCKS + RING
        device = bench.vram if bench.vram is not None else bench.ram
        if on_host * block < bench.ram / 2 and RING * block < device / 2:
            return shape
    raise Skipped("too little memory is free even for narrow blocks: end other programs")


def random_values(shape: Shape) -> nn.ModuleList:
    """Blocks of random bytes. All parameters look into one pool, each at a place of its own."""
    blocks = shape.build()
    sizes = {name: _nbytes(name, p) for name, p in blocks.named_parameters()}
    generator = torch.Generator().manual_seed(0)
    room = 2**20
    words = (max(sizes.values()) + room) // 8 + 1
    pool = torch.randint(-(2**63), 2**63 - 1, (words,), generator=generator).view(torch.uint8)
    for name, parameter in list(blocks.named_parameters()):
        start = 4 * int(torch.randint(room // 4, (1,), generator=generator))
        values = pool[start : start + sizes[name]].view(PRECISION(name)).view(parameter.shape)
        owner, _, leaf = name.rpartition(".")
        blocks.get_submodule(owner).register_parameter(leaf, nn.Parameter(values, False))
    return blocks


def _nbytes(name: str, parameter: nn.Parameter) -> int:
    return parameter.numel() * PRECISION(name).itemsize


def stream(
    bench: Bench, shape: Shape, expected: nn.ModuleList, reader: Reader, placement: Placement
) -> Found:
    """Visit blocks as training and inference do, and compare them with what is expected."""
    moved = shape.build()
    supplied = stream_weights(moved, list(moved), reader, PRECISION, placement, bench.device)
    streamer, visits = supplied.streamer, 0
    try:
        for direction, index in _visits(shape):
            with streamer.visit(index, direction):
                compare(index, moved[index], expected[index])
            visits += 1
        block = streamer.traffic.bytes / streamer.traffic.loads
    finally:
        supplied.close()
    return Found(
        f"{BLOCKS} blocks of {block / 1e6:.0f} MB (as of {shape.name}), loaded "
        f"{streamer.traffic.loads} times, every byte compared at {visits} visits"
    )


def _visits(shape: Shape) -> Iterator[tuple[Direction, int]]:
    """One training step, then one denoising step; not for the widest blocks, to save time."""
    yield from (("forward", index) for index in range(BLOCKS))
    yield from (("backward", index) for index in reversed(range(BLOCKS)))
    if shape is not WIDE:
        yield from (("generate", index) for index in range(BLOCKS))


def compare(index: int, block: nn.Module, expected: nn.Module) -> None:
    """Raises Wrong where a byte of a block is not as expected."""
    for name, parameter in block.named_parameters():
        found = parameter.detach().view(-1).view(torch.int32)  # no number is unlike itself
        meant = expected.get_parameter(name).detach().view(-1).view(torch.int32).to(found.device)
        if not torch.equal(found, meant):
            odd = (found.view(torch.uint8) != meant.view(torch.uint8)).nonzero()
            raise Wrong(
                f"block {index}: {name} is not what was written: {len(odd)} of its "
                f"{4 * len(meant)} bytes differ, the first at {int(odd[0])}",
                CORRUPT,
            )


STEPS = 2
RUN = StageRun("motion", STEPS, optimizer=Optimizer(type="adamw", lr=1e-3))


def train_streamed_and_resident(bench: Bench) -> Found:
    """Two steps of the miniature in float32: losses and LoRA equal, wherever the blocks lie."""
    # Of the GPU's kernels the one that always adds in the same order; so small a model is slower
    # with more threads, and much slower where others use the cores.
    with sdpa_kernel(SDPBackend.MATH), one_thread():
        resident = _train(bench, RESIDENT)
        streamed = _train(bench, Placement(1_000, ring=RING, activation_offload=True))
        if _equal(streamed, resident):
            return Found(f"{STEPS} steps of the miniature: losses and LoRA equal bit for bit")
        again = _train(bench, RESIDENT)
    if not _equal(again, resident):
        away = _distance(streamed, resident)
        if away < 1e-3:
            return Found(
                f"{STEPS} steps of the miniature: equal but for rounding ({away:.1g}); this "
                f"device rounds differently from run to run"
            )
    raise Wrong(
        f"{STEPS} steps with streamed blocks differ from those with resident ones: losses "
        f"{_losses(streamed)} instead of {_losses(resident)}",
        CORRUPT,
    )


Trained = tuple[list[float], list[Tensor]]


def _train(bench: Bench, placement: Placement) -> Trained:
    """Losses and the LoRA of two steps on random latents."""
    model = open_model(
        "miniature", locate("miniature", bench.scratch), "float32", str(bench.device), placement
    )
    config = model.source.config("transformer")
    generator = torch.Generator().manual_seed(1)
    random = partial(torch.randn, generator=generator)
    shape, others = (2, 8, 8), config["in_channels"] - model.latent_channels
    sample = EncodedSample(
        name="random",
        target_CTHW=random((model.latent_channels, *shape)),
        condition_CTHW=random((others, *shape)),
        keep_THW=torch.ones(5, 64, 64),
        context={"text": torch.zeros(1, config["text_dim"])},
    )
    transformer = model.load_transformer()
    try:
        lora.inject(transformer, 4, 4.0, model.lora_targets("attention"), seed=0)
        trained = lora.trainable(transformer)
        optimizer = make_optimizer(RUN.optimizer, trained)
        transformer.train()
        transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
        choose = choose_uniformly([sample])
        entries = [
            train_step(model, transformer, optimizer, choose, RUN, step).read()
            for step in range(1, STEPS + 1)
        ]
        return [entry.loss for entry in entries], [p.detach().cpu().clone() for p in trained]
    finally:
        transformer.streamed.close()


def _equal(one: Trained, other: Trained) -> bool:
    return one[0] == other[0] and all(map(torch.equal, one[1], other[1]))


def _distance(one: Trained, other: Trained) -> float:
    """The largest difference of losses and weights."""
    weights = [float((a - b).abs().max()) for a, b in zip(one[1], other[1], strict=True)]
    return max(*(abs(a - b) for a, b in zip(one[0], other[0], strict=True)), *weights)


def _losses(trained: Trained) -> str:
    return ", ".join(f"{loss:.9g}" for loss in trained[0])


def step_in_8_bits(bench: Bench) -> Found:
    """One step of 8-bit AdamW on one tensor, as training tries it before anything is loaded."""
    if bench.device.type != "cuda":
        raise Skipped("8-bit AdamW needs a GPU; AdamW with 32 bits is used instead")
    if find_spec("bitsandbytes") is None:
        raise Skipped(f"bitsandbytes is not installed; AdamW with 32 bits is used ({QUANT})")
    if failure := failed_trial(bench.device):
        raise Wrong(
            f"bitsandbytes does not work here: {failure}",
            f'set optimizer.type = "adamw", which training uses anyway then, or {QUANT}',
        )
    return Found("a step on one tensor")


TILE, FRAMES = 64, 5


def encode_and_decode(bench: Bench) -> Found:
    """One tile of a VAE of Wan's published shape, with random weights."""
    on_gpu = [bench.device] if bench.device.type == "cuda" else []
    with torch.device(bench.device), torch.random.fork_rng(devices=on_gpu):
        torch.manual_seed(0)
        autoencoder = AutoencoderKLWan().requires_grad_(False).eval()
    vae = normalised(autoencoder)
    video = torch.rand(3, FRAMES, TILE, TILE, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with one_thread():
        latents = vae.encode(video)
        decoded = vae.decode(latents)
    _check_numbers("latents", latents, (16, 2, TILE // 8, TILE // 8))
    _check_numbers("pictures", decoded, (3, FRAMES, TILE, TILE))
    return Found(f"{FRAMES} frames of {TILE}x{TILE} through Wan's VAE and back, all finite")


def _check_numbers(what: str, numbers: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(numbers.shape) != shape or not numbers.isfinite().all():
        bad = int((~numbers.isfinite()).sum())
        raise Wrong(
            f"the VAE's {what} are {tuple(numbers.shape)} instead of {shape}, {bad} not finite",
            "install the versions of constraints.txt; on a GPU update its driver",
        )


RATE = Fraction(25)


def write_and_read_clip(bench: Bench) -> Found:
    """A clip without loss comes back as it was; one in H.264 with sound comes back alike."""
    random = np.random.default_rng(0)
    smooth = np.linspace(0, 255, 160, dtype=np.uint8)[None, :, None] // np.uint8(2)
    noise = random.integers(0, 256, (9, 96, 160, 3), dtype=np.uint8)
    frames = [np.broadcast_to(smooth, (96, 160, 3)) + np.uint8(9 * index) for index in range(9)]
    with tempfile.TemporaryDirectory(dir=bench.scratch) as name:
        lossless, lossy, sound = (Path(name) / file for file in ("a.mkv", "a.mp4", "a.wav"))
        write_lossless(lossless, noise, RATE)
        if not np.array_equal(np.stack(list(read_frames(probe(lossless)))), noise):
            raise Wrong("frames written without loss (FFV1) come back changed", FFMPEG)
        _write_tone(sound)
        write_mp4(lossy, frames, RATE, audio=AudioClip(sound, 0.0, 9 / 25))
        info = probe(lossy)
        away = np.abs(np.stack(list(read_frames(info))).astype(int) - np.stack(frames)).mean()
    if away > 3 or not info.has_audio:
        fault = f"{away:.1f} levels off" if info.has_audio else "without its sound"
        raise Wrong(f"a clip in H.264 comes back {fault}", FFMPEG)
    return Found("9 frames in FFV1 are back bit for bit, and in H.264 with sound alike")


def _write_tone(path: Path) -> None:
    """Half a second of 440 Hz."""
    samples = [round(8000 * math.sin(2 * math.pi * 440 * at / 16000)) for at in range(8000)]
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, 16000, len(samples), "NONE", ""))
        file.writeframes(np.array(samples, "<i2").tobytes())


@contextmanager
def one_thread() -> Iterator[None]:
    """Let torch compute with one thread of the CPU."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


CHECKS = (
    Check("RAM", measure_ram, "end other programs"),
    Check(
        "disk of the cache",
        measure_disk,
        "make room, or name a folder on another disk with XDG_CACHE_HOME",
    ),
    Check("from RAM to the GPU", measure_bus, DRIVER),
    Check("blocks from RAM", partial(stream_from_ram, weights="pinned"), CORRUPT),
    Check(
        "blocks through staging",
        partial(stream_from_ram, weights="pageable", shape=NARROW),
        CORRUPT,
    ),
    Check("blocks from disk", stream_from_disk, CORRUPT),
    Check("training", train_streamed_and_resident, INSTALL),
    Check("8-bit optimizer", step_in_8_bits, f'set optimizer.type = "adamw", or {QUANT}'),
    Check("VAE", encode_and_decode, INSTALL),
    Check("a clip written and read", write_and_read_clip, FFMPEG),
    # The last: under WSL2, copies may do nothing once much was pinned and given back.
    Check("memory that can be pinned", measure_pinning, DRIVER),
)
