"""From an empty module to one that runs: what is read, converted, kept, and what happens if not."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionModel, UMT5EncoderModel

from maskora import lora
from maskora.errors import Fault
from maskora.latents import TensorCache, encode_videos
from maskora.models.registry import PromptInput, Transformer, VideoModel
from maskora.streaming.blocks import precise
from maskora.streaming.formats import FORMATS, StoredLinear
from maskora.streaming.plan import Placement
from maskora.streaming.sources import ModuleReader
from maskora.streaming.supply import supply
from tests.streaming.driving import answer, empty_inputs, encoder, opened

PROMPTS = ["a dog", "a red dog walks over a meadow", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted weights go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "home-cache" / "maskora" / "weights"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_every_parameter_is_what_diffusers_would_load(deep_model: Path, dtype: str) -> None:
    from diffusers import WanTransformer3DModel

    theirs = WanTransformer3DModel.from_pretrained(
        deep_model / "transformer", torch_dtype=getattr(torch, dtype)
    )
    ours = opened(deep_model, Placement(0), dtype).load_transformer()
    expected = {**dict(theirs.named_parameters()), **dict(theirs.named_buffers())}
    found = {**dict(ours.named_parameters()), **dict(ours.named_buffers())}
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert value.dtype == found[name].dtype, name
        assert torch.equal(value, found[name]), name


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_streamed_text_encoder_answers_as_transformers_does(deep_model: Path, dtype: str) -> None:
    published = UMT5EncoderModel.from_pretrained(
        deep_model / "text_encoder", dtype=getattr(torch, dtype)
    )
    tokenizer = AutoTokenizer.from_pretrained(deep_model / "tokenizer")
    prompts = [PromptInput(prompt, torch.zeros(3, 8, 8)) for prompt in PROMPTS]
    with encoder(opened(deep_model, Placement(0), dtype), "text") as encode:
        together, alone = encode(prompts), encode(prompts[1:2])
    assert torch.equal(together[1]["text"], alone[0]["text"])
    for prompt, found in zip(PROMPTS, together, strict=True):
        found_LD = found["text"]
        tokens = tokenizer(
            [prompt], padding="max_length", max_length=512, truncation=True, return_tensors="pt"
        )
        with torch.no_grad():
            expected_LD = published(tokens.input_ids, tokens.attention_mask).last_hidden_state[0]
        length = int(tokens.attention_mask.sum())
        assert torch.equal(found_LD[:length], expected_LD[:length])
        assert not found_LD[length:].any()


def test_a_streamed_image_encoder_answers_as_transformers_does(deep_model: Path) -> None:
    from transformers import CLIPImageProcessorPil

    picture = torch.rand(3, 64, 48, generator=torch.Generator().manual_seed(1)) * 2 - 1
    published = CLIPVisionModel.from_pretrained(deep_model / "image_encoder")
    processor = CLIPImageProcessorPil.from_pretrained(deep_model / "image_processor")
    bytes_CHW = ((picture / 2 + 0.5) * 255).round().to(torch.uint8).numpy()
    pixels = processor(bytes_CHW, return_tensors="pt").pixel_values
    with torch.no_grad():
        expected = published(pixels, output_hidden_states=True).hidden_states[-2][0]
    with encoder(opened(deep_model, Placement(0)), "image") as encode:
        (found,) = encode([PromptInput("", picture)])
        assert torch.equal(found["image"], expected)


@pytest.mark.parametrize("storage", ["float8", "int8", "nf4"])
def test_training_and_inference_use_the_same_dequantised_weights(
    deep_model: Path, storage: str
) -> None:
    if storage == "nf4":
        pytest.importorskip("bitsandbytes")
    seen: list[dict[str, Tensor]] = []
    for placement in (
        Placement(0, storage=storage),
        Placement(5, "mapped", storage),
        Placement(3, storage=storage),
    ):
        model = opened(deep_model, placement)
        transformer = model.load_transformer()
        training: dict[str, Tensor] = {}
        for name, module in transformer.named_modules():
            if isinstance(module, StoredLinear):
                module.register_forward_hook(_remember(training, name))
        answer(model, transformer)
        seen.append(dict(training))
        training.clear()
        lora.inject(transformer, 2, 2.0, model.lora_targets("attention"), 0)
        transformer.enable_gradient_checkpointing(transformer.supply.checkpoint)
        transformer.train()
        noisy = torch.ones(1, 16, 3, 4, 6)
        model.predict(transformer, noisy, torch.tensor([5.0]), empty_inputs()).sum().backward()
        seen.append({name.replace(".base_layer", ""): value for name, value in training.items()})
    original = opened(deep_model, Placement(0)).load_transformer()
    dense = {n: m.weight for n, m in original.blocks.named_modules() if isinstance(m, nn.Linear)}
    assert len(seen[0]) == len(dense) == 5 * 12
    for one in seen:
        assert one.keys() == seen[0].keys()
        assert all(torch.equal(one[name], seen[0][name]) for name in one)
    form = FORMATS[storage]
    for name, weight in dense.items():
        shape = (weight.shape[0], weight.shape[1])
        expected = form.decode(form.encode(weight), shape, torch.float32)
        assert torch.equal(seen[0][f"blocks.{name}"], expected)
        assert not torch.equal(expected, weight)


def _remember(into: dict[str, Tensor], name: str):  # type: ignore[no-untyped-def]
    def hook(module: StoredLinear, given: object, answered: object) -> None:
        assert module.stored is not None
        shape = (module.out_features, module.in_features)
        into[name] = module.format.decode(module.stored, shape, torch.float32).clone()

    return hook


@pytest.mark.parametrize("storage", ["same", "float8", "int8"])
def test_mapped_weights_are_converted_once_and_read_from_that_file(
    deep_model: Path, cache: Path, storage: str
) -> None:
    model = opened(deep_model, Placement(5, "mapped", storage), "bfloat16")
    expected = answer(*_loaded(opened(deep_model, Placement(0, storage=storage), "bfloat16")))
    assert not cache.exists()
    assert torch.equal(answer(*_loaded(model)), expected)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(answer(*_loaded(model)), expected)
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == [written]


def test_a_checkpoint_in_the_right_precision_needs_no_converted_copy(
    deep_model: Path, cache: Path
) -> None:
    answer(*_loaded(opened(deep_model, Placement(5, "mapped"), "float32")))
    assert not cache.exists()


def test_a_disk_without_room_for_the_converted_copy_is_told_before_anything_is_written(
    deep_model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(deep_model)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(Fault, match=r"0\.0 GB are free there: make room"):
        opened(deep_model, Placement(5, "mapped"), "bfloat16").load_transformer()
    assert not list(cache.glob("*"))


def test_closing_frees_every_weight(deep_model: Path) -> None:
    model = opened(deep_model, Placement(3))
    transformer = model.load_transformer()
    transformer.supply.close()
    assert all(parameter.is_meta for parameter in transformer.parameters())


def _loaded(model: VideoModel) -> tuple[VideoModel, Transformer]:
    return model, model.load_transformer()


def test_a_vae_in_tiles_keeps_the_shape_and_has_its_own_place_in_the_cache(
    deep_model: Path, tmp_path: Path
) -> None:
    video = torch.rand(3, 5, 192, 256, generator=torch.Generator().manual_seed(2)) * 2 - 1
    cache = TensorCache(tmp_path / "cache")
    models = [opened(deep_model, Placement(0, vae_tile=tile)) for tile in (None, 128, 512)]
    whole, tiled, large = (encode_videos([video], model, cache)[0] for model in models)
    assert tiled.shape == whole.shape
    assert not torch.equal(tiled, whole)
    assert torch.equal(large, whole)  # one tile
    with models[0].vae() as one, models[1].vae() as other:
        first, second = one.decode(whole), other.decode(whole)
    assert first.shape == second.shape == video.shape
    # Far from a tile's border both see the same latents.
    assert (first - second)[..., :32, :32].abs().mean() < 0.1 * first.std()
    assert not torch.equal(first, second)


def test_two_kinds_of_blocks_pass_through_one_ring() -> None:
    """As in models whose blocks come in two lists of different shapes."""

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.wide = nn.ModuleList(
                nn.Sequential(nn.Linear(8, 32), nn.Linear(32, 8)) for _ in range(3)
            )
            self.narrow = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            for block in [*self.wide, *self.narrow]:
                x = block(x)
            return x

    original = Two()
    with torch.device("meta"):
        streamed = Two().requires_grad_(False)
    blocks = [*streamed.wide, *streamed.narrow]
    reader, precision = ModuleReader(original), precise(torch.float32)
    supplied = supply(streamed, blocks, reader, precision, Placement(6), torch.device("cpu"))
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(streamed(x), original(x))
        assert torch.equal(streamed(x), original(x))
    assert supplied.streamer.traffic.loads == 13
