"""The cache serves what was made from the same content, and nothing else."""

import os
import shutil
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from weakref import ref

import psutil
import pytest
import torch
from safetensors.torch import save_file

from maskora.errors import Fault
from maskora.latents import OnDemand, TensorCache, encode_samples, encode_together
from maskora.method.conditioning import Sample, anchored, appearance_sample, motion_sample
from maskora.models.registry import VideoModel, open_model
from tests.test_ranks import Among


class Counting:
    """The real model, counting how often each encoder is loaded and in which order."""

    def __init__(self, model: VideoModel) -> None:
        self._model = model
        self.loaded: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    @contextmanager
    def _counted(self, name: str, load: Any) -> Any:
        self.loaded.append(f"+{name}")
        with load() as encoder:
            yield encoder
        self.loaded.append(f"-{name}")

    def encoders(self) -> Any:
        return tuple(
            replace(one, load=partial(self._counted, one.name, one.load))
            for one in self._model.encoders()
        )

    def vae(self) -> Any:
        return self._counted("vae", self._model.vae)


@pytest.fixture
def counting(tiny_model: Path) -> Counting:
    return Counting(open_model("wan2.1-i2v", tiny_model, "float32", "cpu"))


def make_sample(video: torch.Tensor | None = None, box: int = 8, prompt: str = "a man") -> Sample:
    if video is None:
        video = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    keep = torch.ones(5, 32, 32)
    keep[:, box : box + 16, 8:24] = 0
    return motion_sample(video, keep, 0, 5, "masked", prompt)


def test_encoders_come_one_after_another_and_only_once(counting: Counting, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    first = encode_samples([make_sample()], counting, cache)
    assert counting.loaded == [
        "+text", "-text", "+image", "-image", "+vae", "-vae",
    ]  # fmt: skip
    counting.loaded.clear()
    again = encode_samples([make_sample()], counting, cache)
    assert counting.loaded == []
    assert torch.equal(first[0].condition_CTHW, again[0].condition_CTHW)
    assert torch.equal(first[0].target_CTHW, again[0].target_CTHW)


def test_a_changed_prompt_mask_or_frame_is_encoded_anew(counting: Counting, tmp_path: Path) -> None:
    cache = TensorCache(tmp_path)
    (base,) = encode_samples([make_sample()], counting, cache)

    counting.loaded.clear()
    (other,) = encode_samples([make_sample(prompt="a woman")], counting, cache)
    assert counting.loaded == ["+text", "-text"]
    assert not torch.equal(base.context["text"], other.context["text"])

    counting.loaded.clear()
    (other,) = encode_samples([make_sample(box=0)], counting, cache)
    assert counting.loaded == ["+vae", "-vae"]
    assert not torch.equal(base.condition_CTHW, other.condition_CTHW)
    assert torch.equal(base.target_CTHW, other.target_CTHW)

    video = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
    video[0, 3, 5, 5] += 0.01
    counting.loaded.clear()
    (other,) = encode_samples([make_sample(video=video)], counting, cache)
    assert counting.loaded == ["+vae", "-vae"]
    assert not torch.equal(base.target_CTHW, other.target_CTHW)


def test_another_models_entries_are_not_served(tiny_model: Path, tmp_path: Path) -> None:
    from maskora.models.tiny import write_tiny_model

    cache = TensorCache(tmp_path / "cache")
    one = open_model("wan2.1-i2v", tiny_model, "float32", "cpu")
    write_tiny_model(tmp_path / "other", seed=1)
    other = open_model("wan2.1-i2v", tmp_path / "other", "float32", "cpu")
    (a,), (b,) = (encode_samples([make_sample()], model, cache) for model in (one, other))
    assert not torch.equal(a.context["text"], b.context["text"])
    assert not torch.equal(a.context["image"], b.context["image"])
    assert not torch.equal(a.target_CTHW, b.target_CTHW)


def test_another_precision_of_the_words_is_encoded_anew(tiny_model: Path, tmp_path: Path) -> None:
    """What always computes in float32, the picture and the video, is served."""
    cache = TensorCache(tmp_path)
    wide, narrow = (
        Counting(open_model("wan2.1-i2v", tiny_model, dtype, "cpu"))
        for dtype in ("float32", "bfloat16")
    )
    (a,), (b,) = (encode_samples([make_sample()], model, cache) for model in (wide, narrow))
    assert narrow.loaded == ["+text", "-text"]
    assert (a.context["text"].dtype, b.context["text"].dtype) == (torch.float32, torch.bfloat16)


def flip(path: Path) -> None:
    """One other bit of the values, as a disk has it."""
    content = bytearray(path.read_bytes())
    content[-3] ^= 4
    path.write_bytes(content)


def make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", [lambda path: os.truncate(path, 40), flip, make_folder])
def test_a_damaged_entry_counts_as_absent(
    counting: Counting, tmp_path: Path, damage: Callable[[Path], None],
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    cache = TensorCache(tmp_path)
    (whole,) = encode_samples([make_sample()], counting, cache)
    files = {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")}
    for path in files:
        damage(path)
    (again,) = encode_samples([make_sample()], counting, cache)
    assert torch.equal(whole.target_CTHW, again.target_CTHW)
    assert {path: path.read_bytes() for path in tmp_path.glob("*.safetensors")} == files
    notes = [f"note: {path} is damaged, and is made again" for path in files]
    assert sorted(caplog.messages)[-len(files) :] == sorted(notes)
    shutil.rmtree(tmp_path)
    (fresh,) = encode_samples([make_sample()], counting, cache)
    assert torch.equal(whole.target_CTHW, fresh.target_CTHW)


def test_entries_of_earlier_versions_are_served(tmp_path: Path) -> None:
    """They have no digest."""
    values = torch.randn(4, 4)
    save_file({"latents": values}, tmp_path / "name.safetensors")
    given = TensorCache(tmp_path).get("name")
    assert given is not None
    assert torch.equal(given["latents"], values)


def test_the_condition_is_four_mask_channels_and_the_latents(counting: Counting) -> None:
    keep = torch.ones(9, 32, 32)
    keep[1:, 8:16, 16:32] = 0
    keep[6, 0, 0] = 0  # one unknown pixel makes its whole cell unknown
    packed = counting.pack_condition(keep, torch.zeros(16, 3, 4, 4))
    assert packed.shape == (20, 3, 4, 4)
    mask = packed[:4]
    assert mask[:, 0].all(), "the first frame, four times"
    expected = torch.ones(4, 4)
    expected[1, 2:] = 0
    assert torch.equal(mask[0, 1], expected)  # frame 1
    assert torch.equal(mask[3, 2], expected)  # frame 8
    expected[0, 0] = 0
    assert torch.equal(mask[1, 2], expected)  # frame 6 is the second of its group
    assert torch.equal(counting.latent_keep(keep)[2], expected)


def test_another_temporal_layout_of_the_mask_would_be_noticed(counting: Counting) -> None:
    keep = torch.ones(5, 8, 8)
    keep[2] = 0
    mask = counting.pack_condition(keep, torch.zeros(16, 2, 1, 1))[:4, :, 0, 0]
    assert mask.T.tolist() == [[1, 1, 1, 1], [1, 0, 1, 1]]


def test_an_encoded_sample_keeps_its_times(counting: Counting, tmp_path: Path) -> None:
    picture, keep = torch.rand(3, 32, 32), torch.ones(32, 32)
    alone = appearance_sample(8, picture, picture, keep, picture, "masked", "a man")
    after = anchored(alone, picture, 8, 4)
    encoded = encode_samples([make_sample(), alone, after], counting, TensorCache(tmp_path))
    assert [each.times for each in encoded] == [None, None, (0, 2)]


def test_what_the_cache_has_given_keeps_no_file(tmp_path: Path) -> None:
    """On Windows, a file that is still mapped can be neither replaced nor removed."""
    cache = TensorCache(tmp_path)
    cache.put("name", {"latents": torch.randn(64, 64)})
    given = cache.get("name")
    assert given is not None
    held = {*psutil.Process().open_files(), *psutil.Process().memory_maps()}
    assert not any(str(tmp_path) in file.path for file in held)


def drawn(number: int) -> Sample:
    """Samples of different pictures, with the same words."""
    video = torch.rand(3, 5, 32, 32, generator=torch.Generator().manual_seed(number)) * 2 - 1
    return replace(make_sample(video), name=str(number))


def test_samples_are_made_one_at_a_time_and_read_back_as_they_were(
    counting: Counting, tmp_path: Path
) -> None:
    made: list[ref[Sample]] = []
    most = 0

    def make(number: int) -> Sample:
        nonlocal most
        sample = drawn(number)
        made.append(ref(sample))
        most = max(most, sum(one() is not None for one in made))
        return sample

    encoded = encode_samples(OnDemand(make, 6), counting, TensorCache(tmp_path))
    assert most <= 2, "the next is made while the last is let go"
    assert counting.loaded == ["+text", "-text", "+image", "-image", "+vae", "-vae"]
    assert encoded.names == [str(number) for number in range(6)]
    for number, sample in enumerate(encoded):
        (alone,) = encode_samples([drawn(number)], counting, TensorCache(tmp_path / "other"))
        assert (sample.name, sample.times) == (alone.name, alone.times)
        assert torch.equal(sample.target_CTHW, alone.target_CTHW)
        assert torch.equal(sample.condition_CTHW, alone.condition_CTHW)
        assert torch.equal(sample.keep_THW, alone.keep_THW)
        assert all(torch.equal(sample.context[key], alone.context[key]) for key in alone.context)


def test_few_encoded_samples_stay_in_memory(
    counting: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The words, which all have, are there once."""
    cache = TensorCache(tmp_path)
    encoded = encode_samples([drawn(number) for number in range(4)], counting, cache)
    assert all(one is other for one, other in zip(encoded, encoded, strict=True))
    assert encoded[2:][0] is encoded[2]
    size = sum(
        tensor.nbytes
        for tensor in (encoded[0].target_CTHW, encoded[0].condition_CTHW, encoded[0].keep_THW,
                       *encoded[0].context.values())
    )  # fmt: skip
    monkeypatch.setattr("maskora.latents.SAMPLE_ROOM", 2 * size)
    read = [ref(encoded[number]) for number in range(4)]
    assert [one() is None for one in read] == [True, True, False, False]
    assert encoded[0].context["text"] is encoded[1].context["text"]


def test_a_process_without_a_sample_to_encode_reads_what_others_have_encoded(
    tiny_model: Path, tmp_path: Path
) -> None:
    model, cache = open_model("wan2.1-i2v", tiny_model, "float32", "cpu"), TensorCache(tmp_path)
    (alone,) = encode_samples([make_sample()], model, cache)
    model.ranks = Among(1, 2)
    (read,) = encode_together([make_sample()], model, cache)
    assert torch.equal(read.condition_CTHW, alone.condition_CTHW)


def test_a_cache_that_goes_while_it_is_needed_is_told(counting: Counting, tmp_path: Path) -> None:
    encoded = encode_samples([drawn(0)], counting, TensorCache(tmp_path / "cache"))
    shutil.rmtree(tmp_path / "cache")
    with pytest.raises(Fault, match=r"safetensors has gone .* --resume continues"):
        encoded[0]
