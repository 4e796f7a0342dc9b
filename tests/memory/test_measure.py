"""What is measured without memory is what is counted with it, at other sizes too."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLHunyuanVideo, AutoencoderKLHunyuanVideo15, AutoencoderKLWan
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from maskora import lora
from maskora.config.tables import Transfer
from maskora.matching import Matching
from maskora.memory.live_bytes import LiveBytes
from maskora.memory.measure import STEPS, Probe, fitted, pruned
from maskora.memory.profile import Profile, measure, published
from maskora.models.base import ModelInputs
from maskora.models.registry import open_model, open_source
from maskora.models.tiny import write_tiny_model
from maskora.streaming.placement import Placement
from tests.models import tiny_hunyuan, tiny_hunyuan15
from tests.models.counting import LiveBytes as CountedBytes
from tests.models.counting import make_fake, on_meta, peak_of

CLOSE = 0.10  # how far a planned peak may be from the counted one
SIZE = (832, 480)
FAMILIES: dict[str, Callable[[Path], object]] = {
    "wan2.1-i2v": write_tiny_model,
    "wan2.2-i2v": lambda folder: write_tiny_model(folder, family="wan2.2-i2v"),
    "hunyuan-video-i2v": lambda folder: tiny_hunyuan.write(folder, double=1),
    "hunyuan-video-1.5-i2v": tiny_hunyuan15.write,
}


@pytest.fixture(scope="module", params=FAMILIES)
def probe(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Probe:
    """A tiny base of each architecture."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    FAMILIES[request.param](folder)
    return Probe(request.param, open_source(folder), "bfloat16")


def test_a_step_of_another_size_takes_what_the_table_says(probe: Probe) -> None:
    """A third number of tokens, and a third rank, through the same code."""
    model, latents, rank = probe.model, (3, 10, 14), 40
    tokens = 3 * 10 * 14
    table = {**probe.base(), "weights": {"bfloat16": {**probe.weights()}}}
    table["weights"]["bfloat16"]["steps"] = {"attention": probe.steps("attention")}
    told = Profile(table)
    around = told._latents(tokens, 1)
    for step, (batch, trains, placement) in STEPS.items():
        peaks = []
        for kind in model.block_lists:
            transformer, blocks = probe.prepared(kind, placement, "attention", rank, trains)
            moments, carried = probe.traced(transformer, blocks[0], latents, batch, trains)
            peaks.append(max(moments) - (2 * carried if trains else 0))
            if kind == model.block_lists[-1]:
                assert told.input_bytes("bfloat16", tokens) == carried // batch
        if trains:
            planned = told.train_bytes("bfloat16", tokens, step, rank, "attention") - around
            assert planned == pytest.approx(max(peaks), rel=1e-6)
        else:
            planned = told.infer_bytes("bfloat16", tokens, batch, step == "split", "attention")
            # In inference the rank is left at 8: a LoRA's short rows come and go.
            assert planned - batch * around == pytest.approx(max(peaks), rel=0.03)


@pytest.mark.parametrize("way", ["block", "layer"])
def test_a_real_step_on_the_cpu_takes_what_was_measured(tiny_model: Path, way: str) -> None:
    """Real tensors, real weights and the real engine, each tensor that is alive counted."""
    from maskora.streaming.placement import Placement

    rank, batch, latents = 4, 1, (16, 3, 16, 24)
    model = open_model("wan2.1-i2v", tiny_model, "float32", "cpu", Placement(0, recompute=way))
    transformer = model.load_transformer()
    lora.inject(transformer, rank, rank, model.lora_targets("attention"), seed=0)
    transformer.train()
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    condition = torch.zeros(batch, 20, *latents[1:])
    context = {"text": torch.zeros(batch, 512, 32), "image": torch.zeros(batch, 257, 32)}
    noisy, timestep = torch.zeros(batch, *latents), torch.zeros(batch)
    for weight in lora.trainable(transformer):
        weight.grad = torch.zeros_like(weight)
    held = [*transformer.parameters(), *transformer.buffers(), noisy, condition, timestep]
    held += [p.grad for p in transformer.parameters() if p.grad is not None]
    with CountedBytes() as counter:
        counter.mark([*held, *context.values()])
        answer = model.predict(transformer, noisy, timestep, ModelInputs(condition, context))
        torch.autograd.backward([answer], [torch.zeros_like(answer)])
    transformer.streamed.close()
    told = Profile(measure("wan2.1-i2v", open_source(tiny_model), "float32", "attention"))
    tokens = 3 * 8 * 12
    planned = told.train_bytes("float32", tokens, way, rank, "attention")
    planned += 2 * told.input_bytes("float32", tokens) - told._latents(tokens, 1)
    assert planned == pytest.approx(counter.grown, rel=CLOSE)


VAES: dict[str, tuple[type[nn.Module], int, int]] = {
    "wan2.1-i2v-480p": (AutoencoderKLWan, 8, 16),
    "hunyuan-video-i2v": (AutoencoderKLHunyuanVideo, 8, 16),
    "hunyuan-video-1.5-i2v-480p": (AutoencoderKLHunyuanVideo15, 16, 32),
}


def vae_peak(name: str, what: str, frames: int, size: tuple[int, int], tile: int | None) -> int:
    """Bytes that a published VAE takes at most beside its weights; the clip included."""
    kind, cell, channels = VAES[name]
    vae, mode, (width, height) = on_meta(kind), FakeTensorMode(), size
    if tile is not None and cell == 16:
        vae.enable_tiling(tile, tile, tile // cell, tile // cell, 0.25)
    elif tile is not None:
        edges = ("min_height", "min_width", "stride_height", "stride_width")
        sizes = (tile, tile, tile * 3 // 4, tile * 3 // 4)
        vae.enable_tiling(**dict(zip([f"tile_sample_{e}" for e in edges], sizes, strict=True)))
    with mode:
        make_fake(vae, lambda n, p: torch.float32)

    def compute() -> Tensor:
        if what == "encode":
            return vae.encode(torch.empty(1, 3, frames, height, width)).latent_dist.mode()
        latents = torch.empty(1, channels, frames // 4 + 1, height // cell, width // cell)
        return vae.decode(latents).sample

    with torch.no_grad():
        return int(peak_of(vae.parameters(), compute, mode)[1])


SLOW = pytest.mark.slow


@pytest.mark.parametrize("what", ["encode", "decode"])
@pytest.mark.parametrize(
    ("name", "frames", "size", "tile"),
    [
        ("wan2.1-i2v-480p", 1, SIZE, None),
        ("wan2.1-i2v-480p", 13, (416, 240), None),
        ("wan2.1-i2v-480p", 9, (416, 240), 192),
        pytest.param("wan2.1-i2v-480p", 49, SIZE, None, marks=SLOW),
        pytest.param("wan2.1-i2v-480p", 9, SIZE, 256, marks=SLOW),
        pytest.param("wan2.1-i2v-480p", 25, SIZE, 128, marks=SLOW),  # joining them takes most
        ("hunyuan-video-i2v", 1, SIZE, None),
        ("hunyuan-video-i2v", 13, (416, 240), None),
        ("hunyuan-video-i2v", 9, (416, 240), 192),
        ("hunyuan-video-i2v", 49, (2048, 2048), None),  # the mask of the attention takes most
        pytest.param("hunyuan-video-i2v", 49, SIZE, 256, marks=SLOW),
        pytest.param("hunyuan-video-i2v", 81, SIZE, 128, marks=SLOW),
        ("hunyuan-video-1.5-i2v-480p", 1, SIZE, None),
        ("hunyuan-video-1.5-i2v-480p", 13, (416, 240), None),
        ("hunyuan-video-1.5-i2v-480p", 5, (240, 240), 192),
        pytest.param("hunyuan-video-1.5-i2v-480p", 49, (416, 240), None, marks=SLOW),
        pytest.param("hunyuan-video-1.5-i2v-480p", 9, SIZE, 256, marks=SLOW),
        pytest.param("hunyuan-video-1.5-i2v-480p", 1, (640, 448), 64, marks=SLOW),
    ],
)
def test_a_vaes_planned_peak_is_near_the_counted_one(
    what: str, name: str, frames: int, size: tuple[int, int], tile: int | None
) -> None:
    """Whole clips, in tiles too, at other sizes than those that were measured."""
    told = published()[name].profile
    planned = told.vae_encode_bytes if what == "encode" else told.vae_decode_bytes
    counted = vae_peak(name, what, frames, size, tile)
    assert planned(frames, *size, tile=tile) == pytest.approx(counted, rel=CLOSE)


def test_live_bytes_rise_and_fall_with_the_tensors() -> None:
    with LiveBytes() as live:
        kept = torch.empty(1000, device="meta")
        live.mark([kept])
        for _ in range(3):
            kept = (kept + 1).view(10, 100)  # the view shares its storage
        torch.ones(1000)  # what lies in host memory does not count
    assert live.peak == 4000
    assert live.live == 4000
    assert live.moments[-1] == 0


def test_moments_are_lines_of_which_the_highest_are_kept() -> None:
    """7 + 3 t is above 2 + 4 t up to five tokens; 1 + t never is."""
    sizes = [(1, tokens) for tokens in (2, 8)]
    moments = [[7 + 3 * t, 2 + 4 * t, 1 + t] for _, t in sizes]
    kept = pruned(fitted(moments, sizes), [(1, tokens) for tokens in (1, 4, 6, 9)])
    assert kept == [[2, 4], [7, 3]]
    assert pruned(fitted([[1, 9], [1, 5, 17]], sizes), sizes) == [[6.333333, 1.333333]]


@pytest.mark.slow
def test_a_new_base_is_measured_within_20_seconds() -> None:
    """With the import of torch and all classes; of processor time, whatever else runs here."""
    code = (
        "import json, sys, tempfile, time; from pathlib import Path\n"
        "from benchmarks.profiles import write_parts\n"
        "from maskora.memory.profile import PROFILES, measure\n"
        "from maskora.models.registry import open_source\n"
        "table = json.loads((PROFILES / 'hunyuan-video-i2v.json').read_text())\n"
        "folder = write_parts(table['parts'], Path(tempfile.mkdtemp()))\n"
        "measure(table['family'], open_source(folder), 'bfloat16', 'attention')\n"
        "print(time.process_time())"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(told.stdout) < 20


@pytest.mark.parametrize("split", [False, True])
def test_the_sources_row_beside_two_branches_takes_what_is_planned(
    probe: Probe, split: bool
) -> None:
    """Three rows, where the last two take queries, keys and features of the first."""
    latents, tokens = (3, 10, 14), 3 * 10 * 14
    table = {**probe.base(), "weights": {"bfloat16": {**probe.weights()}}}
    table["weights"]["bfloat16"]["steps"] = {"attention": probe.steps("attention")}
    told, peaks = Profile(table), []
    for kind in probe.model.block_lists:
        placement = Placement(0, split_batch=split)
        transformer, blocks = probe.prepared(kind, placement, "attention", 8, False)
        everything = Transfer(attention="qk", features_share=1.0)
        matching = Matching(list(blocks), everything, 4, tokens // probe.model.grid.patch**2)
        with matching.during(0, 3):
            moments, _ = probe.traced(transformer, blocks[0], latents, 3, False)
        peaks.append(max(moments))
    planned = told.infer_bytes("bfloat16", tokens, 3, split, "attention")
    planned += split * everything.waiting * told.input_bytes("bfloat16", tokens)
    assert planned - told._latents(tokens, 3) == pytest.approx(max(peaks), rel=0.05)
