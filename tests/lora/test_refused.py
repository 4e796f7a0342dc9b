"""What is no LoRA, is damaged, or is of another kind: refused, and by its name."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from maskora import lora
from maskora.errors import UserError
from maskora.models.hunyuan.names import HUNYUAN
from tests.lora.files import DOWN, UP, pair, written

ALPHA = "blocks.0.attn1.to_q.alpha"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "any name at all.safetensors"


def key(name: str, tensor: Tensor | None = None) -> dict[str, Tensor]:
    return pair("blocks.0.attn1.to_q") | {name: torch.ones(2) if tensor is None else tensor}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (key("blocks.0.attn1.to_q.dora_scale"), r"'blocks\.0\.attn1\.to_q\.dora_scale' belongs to"),
        (key("blocks.0.attn1.to_q.lora_magnitude_vector"), "lora_magnitude_vector' belongs to no"),
        (key("lora_unet_blocks_0_ffn_0.lokr_w1"), r"lora_unet_blocks_0_ffn_0\.lokr_w1' belongs"),
        (key("lora_unet_blocks_0_ffn_0.hada_w1_a"), "hada_w1_a' belongs to no LoRA of a kind"),
        (key("blocks.0.attn1.to_q.lora_mid.weight"), r"lora_mid\.weight' belongs to no LoRA"),
        (key("blocks.0.attn1.to_q.weight"), r"to_q\.weight' belongs to no LoRA of a kind"),
        (key("proj_out.lora_A.weight"), "proj_out lacks one of the two matrices"),
        (key("proj_out.diff", torch.full((2,), torch.nan)), r"'proj_out\.diff' holds values that"),
        (key("proj_out.alpha", torch.tensor(1.0)), "proj_out lacks one of the two matrices"),
        (key("blocks.0.attn1.to_q.alpha", torch.tensor(0.0)), "its alpha is not a positive"),
        (key("blocks.0.attn1.to_q.alpha", torch.ones(2)), "its alpha is not a positive number"),
        (key("proj_out.diff", torch.ones(2, dtype=torch.int8)), r"stored as torch\.int8"),
        (
            {name: one.to(torch.float8_e4m3fn) for name, one in key(ALPHA, torch.ones(1)).items()},
            r"to_q.*stored as torch\.float8_e4m3fn",
        ),
        (
            key(ALPHA, torch.ones(1).to(torch.float8_e5m2)),
            r"'blocks\.0\.attn1\.to_q\.alpha' is stored as torch\.float8_e5m2",
        ),
        (key("blocks.0.self_attn.q.lora_B.weight"), r"self_attn\.q lacks one of the two"),
        (pair("blocks.0.attn1.to_q") | pair("blocks.0.self_attn.q"), "holds blocks.* twice"),
        (
            pair("transformer.proj_out") | pair("transformer_2.proj_out"),
            "holds proj_out twice, under several names",
        ),
        (key("blocks.0.attn1.to_q.lora_down.weight", DOWN), "twice, under several names"),
        (
            {"proj_out.lora_A.weight": DOWN, "proj_out.lora_B.weight": torch.ones(24, 3)},
            r"proj_out: its matrices \(2, 24\) and \(24, 3\) do not belong together",
        ),
        (
            {"proj_out.lora_A.weight": DOWN[:0], "proj_out.lora_B.weight": UP[:, :0]},
            "do not belong together",
        ),
        (pair("up_blocks.0.attn1.to_q"), "another kind of base: nothing here is called 'up_blocks"),
    ],
)  # fmt: skip
def test_what_is_no_lora_is_refused_by_name(
    path: Path, tensors: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(UserError, match=rf"any name at all\.safetensors.*{message}"):
        written(path, tensors)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ({"maskora": "[]"}, "its metadata 'maskora' is damaged: no JSON object"),
        ({"maskora": "{"}, "its metadata 'maskora' is damaged: "),
        ({"lora_adapter_metadata": "nan"}, "its metadata 'lora_adapter_metadata' is damaged"),
        ({"lora_adapter_metadata": {"lora_alpha": "much"}}, "its alphas are damaged"),
        ({"lora_adapter_metadata": {"lora_alpha": -1}}, "alpha is not a positive number"),
        ({"lora_adapter_metadata": {"alpha_pattern": [1]}}, "its alphas are damaged"),
        (
            {"lora_adapter_metadata": {"lora_alpha": 1, "alpha_pattern": {"(a+)+$": 2}}},
            r"'\(a\+\)\+\$' is no module's name",
        ),
        ({"lora_adapter_metadata": {"transformer.use_dora": True}}, "uses use_dora, which is not"),
        ({"maskora_joined": {"proj_out": [1]}}, "its metadata 'maskora_joined' is damaged"),
    ],
)
def test_damaged_settings_are_refused_by_name(
    path: Path, texts: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=rf"any name at all\.safetensors.*{message}"):
        written(path, pair("proj_out"), **texts)


def test_rows_that_cannot_be_divided_are_refused(path: Path) -> None:
    for rows, name in ((25, "double_blocks.0.img_attn_qkv"), (50, "single_blocks.0.linear1")):
        tensors = {f"{name}.lora_A.weight": DOWN, f"{name}.lora_B.weight": torch.ones(rows, 2)}
        with pytest.raises(UserError, match=rf"{name}: its rows cannot be divided among"):
            written(path, tensors, HUNYUAN)


def test_a_file_that_adds_nothing_is_refused(path: Path) -> None:
    tensors = {"img_attn_qkv.lora_A.weight": DOWN, "img_attn_qkv.lora_B.weight": torch.zeros(24, 2)}
    with pytest.raises(UserError, match="all that it would add is zero"):
        written(path, {f"double_blocks.0.{name}": one for name, one in tensors.items()}, HUNYUAN)


def test_damaged_files_are_refused_by_name(path: Path) -> None:
    with pytest.raises(UserError, match=r"any name at all\.safetensors does not exist"):
        lora.read(path)
    path.write_text("hello")
    with pytest.raises(UserError, match=r"any name at all\.safetensors is no readable"):
        lora.read(path)
    path.write_bytes((2).to_bytes(8, "little") + b"{}")
    with pytest.raises(UserError, match=r"any name at all\.safetensors is no LoRA: it is empty"):
        lora.read(path)
    written(path, pair("proj_out"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(UserError, match=r"any name at all\.safetensors is no readable"):
        lora.read(path)
    with pytest.raises(UserError, match="is no readable safetensors file"):
        lora.read(path.parent)
