"""LoRA files: diffusers reads them as they are, they stack, and others are refused by name."""

from pathlib import Path

import pytest
import torch
from diffusers import WanImageToVideoPipeline
from safetensors.torch import save_file

from maskora import lora
from maskora.errors import UserError
from maskora.models import ModelInputs, VideoModel, open_model


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> VideoModel:
    return open_model("wan2.1-i2v", tiny_model, "float32", "cpu")


def trained_file(model: VideoModel, path: Path, seed: int, alpha: float = 8.0) -> Path:
    """A LoRA file with random values in both halves, as after training."""
    transformer = model.load_transformer()
    lora.inject(transformer, 4, alpha, model.lora_targets("attention"), seed)
    generator = torch.Generator().manual_seed(seed)
    for parameter in lora.trainable(transformer):
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    lora.save(path, transformer, {"stage": "motion", "step": 3})
    return path


def answer(model: VideoModel, transformer: torch.nn.Module) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)

    def noise(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    inputs = ModelInputs(noise(1, 20, 2, 4, 6), noise(1, 512, 32), noise(1, 257, 32))
    with torch.inference_mode():
        return model.predict(transformer, noise(1, 16, 2, 4, 6), torch.tensor([500.0]), inputs)


def with_loras(model: VideoModel, *files: tuple[Path, float]) -> torch.Tensor:
    transformer = model.load_transformer()
    lora.stack(transformer, files)
    return answer(model, transformer)


def test_diffusers_reads_the_file_and_answers_the_same(
    model: VideoModel, tiny_model: Path, tmp_path: Path
) -> None:
    path = trained_file(model, tmp_path / "a.safetensors", seed=1, alpha=8.0)
    pipeline = WanImageToVideoPipeline.from_pretrained(tiny_model)
    pipeline.load_lora_weights(str(path))
    ours = with_loras(model, (path, 1.0))
    assert (ours - answer(model, pipeline.transformer)).abs().max() <= 1e-4
    assert (ours - with_loras(model)).abs().max() > 1e-2, "the LoRA must do something"


def test_strength_scales_and_zero_is_the_bare_base(model: VideoModel, tmp_path: Path) -> None:
    path = trained_file(model, tmp_path / "a.safetensors", seed=1)
    bare = with_loras(model)
    assert torch.allclose(with_loras(model, (path, 0.0)), bare, atol=1e-6)
    half, double = (with_loras(model, (path, s)) for s in (0.5, 2.0))
    assert not torch.allclose(half, double, atol=1e-3)
    twice = with_loras(model, (path, 1.0), (path, 1.0))
    assert torch.allclose(twice, double, atol=1e-4)


def test_several_loras_stack_in_any_order(model: VideoModel, tmp_path: Path) -> None:
    a = trained_file(model, tmp_path / "a.safetensors", seed=1)
    b = trained_file(model, tmp_path / "b.safetensors", seed=2)
    one = with_loras(model, (a, 1.0), (b, 0.3))
    other = with_loras(model, (b, 0.3), (a, 1.0))
    assert torch.allclose(one, other, atol=1e-4)
    assert not torch.allclose(one, with_loras(model, (a, 1.0)), atol=1e-3)


def test_the_file_says_what_it_is(model: VideoModel, tmp_path: Path) -> None:
    weights = lora.read(trained_file(model, tmp_path / "a.safetensors", seed=1, alpha=2.0))
    assert weights.metadata == {"stage": "motion", "step": 3}
    assert (weights.rank, weights.alpha) == (4, 2.0)
    assert not any("add_" in name for name in weights.tensors)


def test_feed_forward_layers_are_an_option(model: VideoModel) -> None:
    transformer = model.load_transformer()
    lora.inject(transformer, 4, 4.0, model.lora_targets("attention+ffn"), 0)
    names = [name for name, p in transformer.named_parameters() if p.requires_grad]
    assert sum("ffn" in name for name in names) == 2 * 2 * 2


def test_on_a_half_precision_base_the_lora_is_trained_and_saved_in_float32(
    tiny_model: Path, tmp_path: Path
) -> None:
    half = open_model("wan2.1-i2v", tiny_model, "bfloat16", "cpu")
    path = trained_file(half, tmp_path / "a.safetensors", seed=1)
    transformer = half.load_transformer()
    lora.inject(transformer, 4, 8.0, half.lora_targets("attention"), 0)
    parameters = lora.trainable(transformer)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert transformer.blocks[0].attn1.to_q.base_layer.weight.dtype == torch.bfloat16
    lora.fill(transformer, lora.read(path), path)
    assert {parameter.dtype for parameter in parameters} == {torch.float32}
    assert {tensor.dtype for tensor in lora.read(path).tensors.values()} == {torch.float32}
    assert answer(half, transformer).isfinite().all()


def test_what_is_no_lora_is_refused_by_name(model: VideoModel, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        lora.read(tmp_path / "missing.safetensors")
    (tmp_path / "text.safetensors").write_text("hello")
    with pytest.raises(UserError, match=r"text\.safetensors is no readable"):
        lora.read(tmp_path / "text.safetensors")
    save_file({"lora_unet_x.alpha": torch.ones(1)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match=r"found 'lora_unet_x\.alpha'"):
        lora.read(tmp_path / "other.safetensors")


def test_a_lora_of_another_base_is_refused(model: VideoModel, tmp_path: Path) -> None:
    save_file(
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.ones(4, 99),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.ones(99, 4),
        },
        tmp_path / "big.safetensors",
    )
    with pytest.raises(UserError, match=r"does not fit this base: blocks\.0\.attn1\.to_q"):
        lora.stack(model.load_transformer(), [(tmp_path / "big.safetensors", 1.0)])


def test_a_stacked_lora_keeps_its_values_on_a_half_precision_base(
    tiny_model: Path, tmp_path: Path
) -> None:
    half = open_model("wan2.1-i2v", tiny_model, "bfloat16", "cpu")
    path = trained_file(half, tmp_path / "a.safetensors", seed=1)
    transformer = half.load_transformer()
    lora.stack(transformer, [(path, 1.0)])
    stacked = dict(transformer.named_parameters())
    for name, tensor in lora.read(path).tensors.items():
        assert torch.equal(stacked[name.replace(".weight", ".lora_0.weight")], tensor)
