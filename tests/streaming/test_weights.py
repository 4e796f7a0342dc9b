"""From an empty module to one that runs: what is read, converted, kept, and what happens if not."""

import json
import os
import shutil
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoTokenizer, CLIPVisionModel, UMT5EncoderModel

from maskora import lora
from maskora.errors import Fault, UserError
from maskora.latents import TensorCache, encode_videos
from maskora.models.registry import PromptInput, Transformer, VideoModel
from maskora.models.tiny import write_tiny_model
from maskora.streaming import recompute, sources, transfer
from maskora.streaming.blocks import precise
from maskora.streaming.formats import FORMATS, StoredLinear
from maskora.streaming.placement import Placement
from maskora.streaming.tensor_files import ModuleReader
from maskora.streaming.weights import stream_weights
from tests.streaming.driving import answer, empty_inputs, encoder, opened

PROMPTS = ["a dog", "a red dog walks over a meadow", ""]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted weights go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "home-cache" / "maskora" / "weights"


def answered(folder: Path, placement: Placement, dtype: str = "float32") -> Tensor:
    """What a model, just opened and loaded, answers."""
    model = opened(folder, placement, dtype)
    return answer(model, model.load_transformer())


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
        used: dict[str, Tensor] = {}
        for name, module in transformer.named_modules():
            if isinstance(module, StoredLinear):
                module.register_forward_hook(_remember(used, name))
        answer(model, transformer)
        seen.append(dict(used))
        used.clear()
        step(model, ready_to_train(model, transformer))
        seen.append(dict(used))
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
    mapped = Placement(5, "mapped", storage)
    expected = answered(deep_model, Placement(0, storage=storage), "bfloat16")
    assert not cache.exists()
    assert torch.equal(answered(deep_model, mapped, "bfloat16"), expected)
    (file,) = cache.iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(answered(deep_model, mapped, "bfloat16"), expected)
    assert [file.stat().st_mtime_ns for file in cache.iterdir()] == [written]


def test_a_checkpoint_in_the_right_precision_needs_no_converted_copy(
    deep_model: Path, cache: Path
) -> None:
    answered(deep_model, Placement(5, "mapped"), "float32")
    assert not cache.exists()


def test_a_vae_in_tiles_keeps_the_shape_and_has_its_own_place_in_the_cache(
    deep_model: Path, tmp_path: Path
) -> None:
    video = torch.rand(3, 1, 144, 192, generator=torch.Generator().manual_seed(2)) * 2 - 1
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
    supplied = stream_weights(
        streamed, blocks, reader, precision, Placement(6), torch.device("cpu")
    )
    x = torch.randn(2, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(streamed(x), original(x))
        assert torch.equal(streamed(x), original(x))
    assert supplied.streamer.traffic.loads == 13


FLOAT8 = Placement(1, "mapped", "float8")


def ready_to_train(model: VideoModel, transformer: Transformer) -> Transformer:
    """A transformer with LoRAs on every layer of its blocks."""
    lora.inject(transformer, 2, 2.0, model.lora_targets("attention+ffn"), 0)
    transformer.enable_gradient_checkpointing(transformer.streamed.checkpoint)
    return transformer.train()


def step(model: VideoModel, transformer: Transformer) -> None:
    """One forward and backward pass."""
    noisy = torch.ones(1, 16, 3, 4, 6)
    model.predict(transformer, noisy, torch.tensor([5.0]), empty_inputs()).sum().backward()


@pytest.mark.parametrize(("recompute", "times"), [("block", 2), ("layer", 3)])
def test_a_layer_runs_once_more_in_backward_only_where_it_is_recomputed(
    deep_model: Path, recompute: str, times: int
) -> None:
    """A block runs forward, and in backward again; its layers then a third time, if they say so."""
    model = opened(deep_model, Placement(3, recompute=recompute))
    transformer = ready_to_train(model, model.load_transformer())
    runs: Counter[str] = Counter()
    first = [f"{i}.{layer}" for i in range(5) for layer in ("attn1.to_q", "attn2.to_q", "ffn.net")]
    for name in first:
        module = transformer.get_submodule(f"blocks.{name}")
        inner = module[0] if isinstance(module, nn.ModuleList) else module
        inner.register_forward_pre_hook(lambda module, given, name=name: runs.update([name]))
    step(model, transformer)
    assert runs == dict.fromkeys(first, times)


def test_only_weights_that_are_not_pinned_go_through_staging(deep_model: Path) -> None:
    counts = {}
    for weights in ("pinned", "pageable", "mapped"):
        model = opened(deep_model, Placement(3, weights, ring=2))
        transformer = model.load_transformer()
        answer(model, transformer)  # blocks are pinned at the first visit
        staging = transformer.streamed.streamer._staging
        staging._worker.submit(int).result()  # a piece that it works with is not among them
        counts[weights] = len(staging.buffers)
    assert counts == {"pinned": 0, "pageable": 4, "mapped": 4}


@pytest.mark.parametrize("weights", ["pinned", "pageable"])
def test_closing_lets_all_host_memory_go(
    deep_model: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, list[weakref.ref[object]]] = {}
    host_buffer = recompute.host_buffer
    for user in (transfer, recompute, sources):

        def watched(nbytes: int, whose: str = user.__name__) -> Tensor:
            buffer = host_buffer(nbytes)
            taken.setdefault(whose, []).append(weakref.ref(buffer.untyped_storage()))
            return buffer

        monkeypatch.setattr(user, "host_buffer", watched)
    model = opened(deep_model, Placement(5, weights, activation_offload=True))
    transformer = ready_to_train(model, model.load_transformer())
    step(model, transformer)
    assert {name: len(refs) for name, refs in taken.items()} == {
        sources.__name__: 5,
        recompute.__name__: 4,
        transfer.__name__: 4,
    }
    freed = [transfer.__name__] if weights == "pinned" else []  # all blocks go without, at last
    for name, refs in taken.items():
        assert all((ref() is None) == (name in freed) for ref in refs)
    transformer.streamed.close()
    assert not any(ref() is not None for refs in taken.values() for ref in refs)
    assert all(parameter.is_meta for parameter in transformer.parameters())


@pytest.mark.parametrize("stray", ["a-stray.safetensors", "z-stray.safetensors"])
def test_files_that_the_index_does_not_name_are_ignored(
    deep_model: Path, tmp_path: Path, stray: str
) -> None:
    expected = answered(deep_model, Placement(5))
    folder = shutil.copytree(deep_model, tmp_path / "model")
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    index = {"weight_map": dict.fromkeys(tensors, file.name)}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    save_file({name: value + 1 for name, value in tensors.items()}, file.with_name(stray))
    assert torch.equal(answered(folder, Placement(5)), expected)


def test_models_of_one_name_have_converted_files_of_their_own(tmp_path: Path, cache: Path) -> None:
    folders = [tmp_path / "one" / "model", tmp_path / "other" / "model"]
    for seed, folder in enumerate(folders):
        write_tiny_model(folder, seed, layers=1)
    answers = [answered(folder, FLOAT8) for folder in folders]
    for folder, found in zip(folders, answers, strict=True):
        assert torch.equal(found, answered(folder, Placement(0, storage="float8")))
    assert not torch.equal(*answers)
    assert len(list(cache.iterdir())) == 2


def test_a_float8_copy_for_another_precision_is_another_file(tiny_model: Path, cache: Path) -> None:
    written = []
    for dtype in ("bfloat16", "float16", "bfloat16"):
        model = opened(tiny_model, FLOAT8, dtype)
        model.load_transformer()
        written.append({path: path.stat().st_mtime_ns for path in cache.iterdir()})
    assert [len(files) for files in written] == [1, 2, 2]
    assert written[1] == written[2]


@pytest.fixture
def copied(deep_model: Path, tmp_path: Path) -> Path:
    """A model folder that may be damaged."""
    return shutil.copytree(deep_model, tmp_path / "model")


def test_a_cut_off_file_is_known_at_once(copied: Path) -> None:
    path = copied / "transformer" / "diffusion_pytorch_model.safetensors"
    os.truncate(path, path.stat().st_size - 100)
    with pytest.raises(UserError, match=r"is cut off within .*: download it again"):
        opened(copied, Placement(5)).load_transformer()


def test_a_file_that_shrinks_in_use_is_a_fault(copied: Path) -> None:
    model = opened(copied, Placement(5, "mapped"))
    transformer = model.load_transformer()
    os.truncate(copied / "transformer" / "diffusion_pytorch_model.safetensors", 5000)
    with pytest.raises(Fault, match="ends early"):
        answer(model, transformer)


@pytest.mark.parametrize(
    ("own", "other", "message"),
    [
        ('"ffn_dim": 96', '"ffn_dim": 112', r"net.0.proj.weight is \(96, 48\) instead of \(112"),
        ('"num_layers": 5', '"num_layers": 6', r"lacks the tensor blocks\.5\."),
    ],
)
def test_weights_of_another_model_name_the_tensor(
    copied: Path, own: str, other: str, message: str
) -> None:
    config = copied / "transformer" / "config.json"
    config.write_text(config.read_text().replace(own, other))
    with pytest.raises(UserError, match=message):
        opened(copied, Placement(5)).load_transformer()


@pytest.mark.parametrize("text", ["{", "[]", '{"weights": {}}', '{"weight_map": []}'])
def test_a_damaged_index_is_told(copied: Path, text: str) -> None:
    index = copied / "transformer" / "diffusion_pytorch_model.safetensors.index.json"
    index.write_text(text)
    with pytest.raises(UserError, match=r"index\.json is damaged .*: download it again"):
        opened(copied, Placement(5))
