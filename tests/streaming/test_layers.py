"""What a placement does to a real model: recomputation, staging, and which file is read."""

import json
import shutil
import weakref
from collections import Counter
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from maskora import lora
from maskora.models.registry import VideoModel
from maskora.models.tiny import write_tiny_model
from maskora.streaming import recompute as keep
from maskora.streaming import sources
from maskora.streaming import transfer as staging
from maskora.streaming.placement import Placement
from tests.streaming.driving import answer, empty_inputs, opened

FLOAT8 = Placement(1, "mapped", "float8")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Converted weights go to a folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home-cache"))
    return tmp_path / "home-cache" / "maskora" / "weights"


def ready_to_train(model: VideoModel) -> nn.Module:
    """A transformer with LoRAs on every layer of its blocks."""
    transformer = model.load_transformer()
    lora.inject(transformer, 2, 2.0, model.lora_targets("attention+ffn"), 0)
    transformer.enable_gradient_checkpointing(transformer.supply.checkpoint)
    return transformer.train()


def step(model: VideoModel, transformer: nn.Module) -> None:
    """One forward and backward pass."""
    noisy = torch.ones(1, 16, 3, 4, 6)
    model.predict(transformer, noisy, torch.tensor([5.0]), empty_inputs()).sum().backward()


@pytest.mark.parametrize(("recompute", "times"), [("block", 2), ("layer", 3)])
def test_a_layer_runs_once_more_in_backward_only_where_it_is_recomputed(
    deep_model: Path, recompute: str, times: int
) -> None:
    """A block runs forward, and in backward again; its layers then a third time, if they say so."""
    model = opened(deep_model, Placement(3, recompute=recompute))
    transformer = ready_to_train(model)
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
        counts[weights] = len(transformer.supply.streamer._staging.buffers)
    assert counts == {"pinned": 0, "pageable": 4, "mapped": 4}


@pytest.mark.parametrize("weights", ["pinned", "pageable"])
def test_closing_lets_all_host_memory_go(
    deep_model: Path, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, list[weakref.ref[object]]] = {}
    host_buffer = keep.host_buffer
    for user in (staging, keep, sources):

        def watched(nbytes: int, pin: bool, whose: str = user.__name__) -> Tensor:
            buffer = host_buffer(nbytes, pin)
            taken.setdefault(whose, []).append(weakref.ref(buffer.untyped_storage()))
            return buffer

        monkeypatch.setattr(user, "host_buffer", watched)
    model = opened(deep_model, Placement(5, weights, activation_offload=True))
    transformer = ready_to_train(model)
    step(model, transformer)
    assert {name: len(refs) for name, refs in taken.items()} == {
        sources.__name__: 5,
        keep.__name__: 4,
        staging.__name__: 4,
    }
    freed = [staging.__name__] if weights == "pinned" else []  # all blocks go without, at last
    for name, refs in taken.items():
        assert all((ref() is None) == (name in freed) for ref in refs)
    transformer.supply.close()
    assert not any(ref() is not None for refs in taken.values() for ref in refs)


@pytest.mark.parametrize("stray", ["a-stray.safetensors", "z-stray.safetensors"])
def test_files_that_the_index_does_not_name_are_ignored(
    deep_model: Path, tmp_path: Path, stray: str
) -> None:
    model = opened(deep_model, Placement(5))
    expected = answer(model, model.load_transformer())
    folder = shutil.copytree(deep_model, tmp_path / "model")
    (file,) = (folder / "transformer").glob("*.safetensors")
    tensors = load_file(file)
    index = {"weight_map": dict.fromkeys(tensors, file.name)}
    file.with_name(f"{file.name}.index.json").write_text(json.dumps(index))
    save_file({name: value + 1 for name, value in tensors.items()}, file.with_name(stray))
    model = opened(folder, Placement(5))
    assert torch.equal(answer(model, model.load_transformer()), expected)


def test_models_of_one_name_have_converted_files_of_their_own(tmp_path: Path, cache: Path) -> None:
    folders = [tmp_path / "one" / "model", tmp_path / "other" / "model"]
    for seed, folder in enumerate(folders):
        write_tiny_model(folder, seed, layers=1)
    answers = []
    for folder in folders:
        mapped, resident = opened(folder, FLOAT8), opened(folder, Placement(0, storage="float8"))
        answers.append(answer(mapped, mapped.load_transformer()))
        assert torch.equal(answers[-1], answer(resident, resident.load_transformer()))
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
