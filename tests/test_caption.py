"""Florence-2 says what a picture shows: what it is told, what it is shown, what is left of it."""

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import BartTokenizerFast, Florence2ForConditionalGeneration

from maskora.caption import open_captioner
from maskora.errors import UserError
from tests.tiny_florence import DEVIATION, IMAGE_TOKENS, MEAN, SIDE, write_tiny_florence

PROMPT = "Describe in detail what is shown in the image."
BEGIN, END = 0, 2


@pytest.fixture(scope="module")
def florence(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("captioner") / "florence"
    write_tiny_florence(folder)
    return folder


@pytest.fixture
def broken(florence: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(florence, tmp_path / "broken"))


def picture(seed: int, height: int = 50, width: int = 80) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def captions(folder: Path, *pictures: np.ndarray) -> list[str]:
    with open_captioner(str(folder), Path("/")) as caption:
        return [caption(picture_HWC) for picture_HWC in pictures]


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What every call of the model's own `generate` is given."""
    calls: list[dict[str, Any]] = []
    generate = Florence2ForConditionalGeneration.generate

    def listen(self: Any, **given: Any) -> Any:
        calls.append(given)
        return generate(self, **given)

    monkeypatch.setattr(Florence2ForConditionalGeneration, "generate", listen)
    return calls


def test_the_same_picture_has_the_same_caption_and_another_has_another(florence: Path) -> None:
    first = captions(florence, picture(0), picture(1), picture(2))
    assert captions(florence, picture(2), picture(0), picture(1)) == [first[2], *first[:2]]
    assert len(set(first)) == 3


def test_the_prompt_is_image_tokens_then_the_task_in_words(
    florence: Path, told: list[dict[str, Any]]
) -> None:
    captions(florence, picture(0))
    tokenizer = BartTokenizerFast.from_pretrained(florence)
    spelled = tokenizer(PROMPT, add_special_tokens=False).input_ids
    image = [tokenizer.convert_tokens_to_ids("<image>")] * IMAGE_TOKENS
    assert told[0]["input_ids"].tolist() == [[*image, BEGIN, *spelled, END]]
    assert told[0]["attention_mask"].all()


@pytest.mark.parametrize("size", [(50, 80), (3, 200), (64, 64)])
def test_the_pixels_are_stretched_to_a_square_and_normalised(
    florence: Path, told: list[dict[str, Any]], size: tuple[int, int]
) -> None:
    picture_HWC = picture(3, *size)
    captions(florence, picture_HWC)
    square = Image.fromarray(picture_HWC).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    expected_HWC = (np.asarray(square) / 255 - np.array(MEAN)) / np.array(DEVIATION)
    (pixels_CHW,) = told[0]["pixel_values"].numpy()
    assert np.allclose(pixels_CHW, expected_HWC.transpose(2, 0, 1), atol=1e-5)


def test_the_caption_is_the_likeliest_of_three_beams_without_tokens_and_line_ends(
    tmp_path: Path, told: list[dict[str, Any]]
) -> None:
    write_tiny_florence(tmp_path / "talker", seed=0)
    pictures = [picture(seed) for seed in range(3)]
    said = captions(tmp_path / "talker", *pictures)
    model = Florence2ForConditionalGeneration.from_pretrained(tmp_path / "talker").eval()
    tokenizer = BartTokenizerFast.from_pretrained(tmp_path / "talker")
    raw = []
    for given in told[: len(pictures)]:
        inputs = {key: given[key] for key in ("input_ids", "attention_mask", "pixel_values")}
        tokens = model.generate(**inputs, num_beams=3, do_sample=False, max_new_tokens=256)[0]
        assert tokens[1] == BEGIN
        assert tokens[-1] == END
        letters = [token for token in tokens.tolist() if token not in (BEGIN, END)]
        raw.append(tokenizer.decode(letters))
    assert said == [" ".join(text.split()) for text in raw]
    assert said != raw  # these random texts do hold line ends
    assert all(said)


def test_the_captioner_is_released_whoever_still_holds_it(florence: Path) -> None:
    def held() -> int:
        gc.collect()
        models = [m for m in gc.get_objects() if type(m) is Florence2ForConditionalGeneration]
        return sum(p.device.type != "meta" for model in models for p in model.parameters())

    assert held() == 0
    with open_captioner(str(florence), Path("/")) as caption:
        caption(picture(0))
        assert held() > 0
    assert held() == 0
    with pytest.raises(KeyError), open_captioner(str(florence), Path("/")) as caption:
        raise KeyError
    assert held() == 0
    del caption


def test_a_relative_folder_counts_from_the_workspace(florence: Path) -> None:
    with open_captioner(florence.name, florence.parent) as caption:
        assert caption(picture(0)) == captions(florence, picture(0))[0]


def test_the_old_layout_is_named_with_what_to_use_instead(broken: Path) -> None:
    """As in microsoft/Florence-2-large: these keys in config.json, pickled weights."""
    (broken / "model.safetensors").rename(broken / "pytorch_model.bin")
    (broken / "modeling_florence2.py").write_text("raise SystemExit('code of the folder ran')")
    auto_map = {"AutoModelForCausalLM": "modeling_florence2.Florence2ForConditionalGeneration"}
    # A fine-tune may have lost its auto_map.
    for words, others in (("bart_of_old", {"auto_map": auto_map}), ("florence2_language", {})):
        config = json.loads((broken / "config.json").read_text())
        config.pop("auto_map", None)
        config["text_config"]["model_type"] = words
        (broken / "config.json").write_text(json.dumps(config | others))
        with pytest.raises(UserError, match=r"microsoft/Florence-2.*florence-community/Florence-2"):
            captions(broken, picture(0))


def test_weights_under_other_names_are_refused(broken: Path) -> None:
    weights = load_file(broken / "model.safetensors")
    renamed = {name.replace(".conv.", ".proj."): tensor for name, tensor in weights.items()}
    save_file(renamed, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"lack 8 of Florence-2's tensors .*florence-community"):
        captions(broken, picture(0))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("config.json", None, "config.json is missing"),
        ("config.json", "{", "config.json is damaged"),
        ("config.json", '{"model_type": "blip"}', r"no Florence-2 \(but blip\)"),
        ("config.json", "[]", r"no Florence-2 \(but nothing\)"),
        ("model.safetensors", None, "cannot be loaded .*model.safetensors"),
        ("model.safetensors", "short", "cannot be loaded"),
        ("tokenizer.json", None, "its tokenizer does not fit"),
        ("tokenizer.json", "{}", "cannot be loaded"),
        ("tokenizer_config.json", None, "cannot be loaded .*image_token"),
        ("preprocessor_config.json", None, "cannot be loaded .*image processor"),
        ("preprocessor_config.json", "{}", "its image processor does not fit"),
        ("generation_config.json", "{}", "its generation_config.json does not fit"),
    ],
)
def test_a_folder_that_is_not_florence_is_told(
    broken: Path, name: str, content: str | None, said: str
) -> None:
    path = broken / name
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(UserError, match=said) as error:
        captions(broken, picture(0))
    assert "[caption] model" in str(error.value)
    assert "\n" not in str(error.value)


def test_pickled_weights_are_not_read(broken: Path) -> None:
    torch.save(load_file(broken / "model.safetensors"), broken / "pytorch_model.bin")
    (broken / "model.safetensors").unlink()
    with pytest.raises(UserError, match="cannot be loaded"):
        captions(broken, picture(0))


def test_a_captioner_that_is_nowhere_is_told_by_its_key(tmp_path: Path) -> None:
    said = r"^\[caption\] model: './no' is neither a folder nor"
    with pytest.raises(UserError, match=said), open_captioner("./no", tmp_path):
        pass
