"""CLIP: the features of transformers' own model; nothing foreign is run; nothing is kept."""

import gc
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchmetrics.functional.multimodal.clip_iqa import _clip_iqa_compute
from transformers import (
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

from maskora.errors import UserError
from maskora.evaluation.clip import (
    PROMPTS,
    encode_texts,
    find_clip,
    open_pictures,
    quality_of,
    reads_words,
)
from tests.evaluation.tiny_clip import write_tiny_clip, write_tiny_clip_vision

KEY = "--clip"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "clip"
    write_tiny_clip(path)
    return path


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, **values: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def frames() -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.integers(0, 256, (48, 80, 3), dtype=np.uint8) for _ in range(3)]


def features(folder: Path) -> np.ndarray:
    with open_pictures(find_clip(str(folder), KEY), KEY) as encode:
        return encode(frames())


def test_features_are_those_of_the_whole_model(folder: Path) -> None:
    pictures = CLIPImageProcessorPil.from_pretrained(folder)(frames(), return_tensors="pt")
    texts = CLIPTokenizer.from_pretrained(folder)(list(PROMPTS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        whole = CLIPModel.from_pretrained(folder)(**pictures, **texts)
    assert features(folder) == pytest.approx(whole.image_embeds.numpy(), abs=1e-5)
    prompts = encode_texts(folder, KEY, PROMPTS)
    assert prompts == pytest.approx(whole.text_embeds.numpy(), abs=1e-5)
    assert not np.allclose(prompts[0], prompts[1], atol=1e-2)


def test_a_text_too_long_is_cut_with_a_note(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    short, longer, longest = "w" * 20, "w" * 22 + "x", "w" * 22 + "y" * 40  # of 24 tokens
    (one,) = encode_texts(folder, KEY, [short])
    cut, other = encode_texts(folder, KEY, [longer, longest])
    assert cut == pytest.approx(other, abs=1e-5)
    assert not np.allclose(one, cut, atol=1e-3)
    notes = [record.getMessage() for record in caplog.records if record.name == "maskora"]
    assert [note.rpartition(": ")[2] for note in notes] == [longer, longest]


def test_quality_is_that_of_torchmetrics(folder: Path) -> None:
    pictures, prompts = features(folder), encode_texts(folder, KEY, PROMPTS)
    theirs = _clip_iqa_compute(
        torch.from_numpy(pictures), torch.from_numpy(prompts), ["quality"], format_as_dict=False
    )
    assert quality_of(pictures, prompts) == pytest.approx(theirs.numpy(), abs=1e-5)
    pictures = np.array([[0.8, 0.6], [0.6, 0.8]], np.float32)
    assert quality_of(pictures, np.eye(2, dtype=np.float32)) == pytest.approx([1.0, 0.0], abs=1e-6)


def test_the_picture_side_alone_will_do_for_similarities(folder: Path, tmp_path: Path) -> None:
    write_tiny_clip_vision(tmp_path / "vision")
    assert np.linalg.norm(features(tmp_path / "vision"), axis=-1) == pytest.approx(1.0)
    assert not reads_words(tmp_path / "vision", KEY)
    assert reads_words(folder, KEY)
    with pytest.raises(UserError, match=r"--quality: the weights in .*vision lack"):
        encode_texts(tmp_path / "vision", "--quality", PROMPTS)


def test_the_model_is_released(folder: Path) -> None:
    def alive() -> int:
        gc.collect()
        return sum(
            type(thing) is CLIPVisionModelWithProjection and thing.device.type != "meta"
            for thing in gc.get_objects()
        )

    before = alive()
    with open_pictures(folder, KEY) as encode:
        encode(frames())
        assert alive() == before + 1
    assert alive() == before


def test_settings_that_name_code_are_without_effect(copy: Path, folder: Path) -> None:
    chosen = {
        "attn_implementation": "owner/repo", "_attn_implementation": "owner/repo",
        "experts_implementation": "owner/repo", "trust_remote_code": True,
    }  # fmt: skip
    own = {"auto_map": {"AutoTokenizer": "own.Own", "AutoImageProcessor": "own.Own"}}
    inner = json.loads((copy / "config.json").read_text())
    parts = {key: {**inner[key], **chosen, **own} for key in ("text_config", "vision_config")}
    change(copy / "config.json", **chosen, **parts)
    for name in ("tokenizer_config.json", "preprocessor_config.json"):
        change(copy / name, **chosen, **own, tokenizer_class="BertTokenizer")
    (copy / "own.py").write_text("raise SystemExit('run')\n")
    assert np.array_equal(features(copy), features(folder))
    assert np.array_equal(encode_texts(copy, KEY, PROMPTS), encode_texts(folder, KEY, PROMPTS))


FOREIGN = {"quantization_config": {"quant_method": "bitsandbytes"}}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (FOREIGN, "quantised by other software"),
        ({"vision_config": FOREIGN}, "quantised by other software"),
        ({"auto_map": {"AutoModel": "modeling.Model"}}, "code of its own"),
        ({"model_type": "siglip"}, r"--clip: .*copy holds no CLIP \(but siglip\)"),
    ],
)
def test_what_is_no_plain_clip_is_refused(
    copy: Path, values: dict[str, object], message: str
) -> None:
    change(copy / "config.json", **values)
    with pytest.raises(UserError, match=message):
        find_clip(str(copy), KEY)


@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", "model.safetensors"])
def test_a_missing_part_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(UserError, match=r"--clip: .*copy.*clip-vit-large-patch14"):
        features(copy)


def test_parts_that_do_not_fit_the_weights_are_refused(copy: Path) -> None:
    size = {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}
    change(copy / "preprocessor_config.json", **size)
    with pytest.raises(UserError, match=r"copy: its image processor does not fit its weights"):
        features(copy)
    for name in ("tokenizer.json", "tokenizer_config.json", "vocab.json", "merges.txt"):
        (copy / name).unlink(missing_ok=True)  # transformers would make one up
    with pytest.raises(UserError, match=r"copy: its tokenizer does not fit its weights"):
        encode_texts(copy, KEY, PROMPTS)


def test_weights_that_lack_a_tensor_are_refused(copy: Path) -> None:
    tensors = load_file(copy / "model.safetensors")
    del tensors["visual_projection.weight"]
    save_file(tensors, copy / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match=r"lack 1 of CLIP's tensors \(visual_projection"):
        features(copy)
