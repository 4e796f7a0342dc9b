"""infer: what is encoded, and the results of a small edit, of real clips and of one with sound."""

import errno
import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path

import cv2
import imageio_ffmpeg
import numpy as np
import pytest
import torch
from torch import Tensor

from maskora.app.generate import Encoded, encode, generate
from maskora.app.passages import passage_of
from maskora.app.workspace import Workspace
from maskora.config import Config, load_config
from maskora.latents import TensorCache, encode_samples, encode_videos
from maskora.masks.files import read_labels, write_labels
from maskora.method.conditioning import inference_sample
from maskora.method.segments import Segment
from maskora.models.registry import Context, PromptInput, VideoModel
from maskora.video.images import read_image, write_png
from maskora.video.probe import probe
from maskora.video.read import read_frames
from tests.app.conftest import (
    FAST,
    Prepared,
    Run,
    at,
    frames_of,
    keeps_the_background,
    ok,
    recolour,
    refused,
    repaint,
    sets,
)
from tests.app.small import EDITED_CAPTION, FRAMES, configured, small_clip, small_edit, unit
from tests.streaming.driving import encoder


def test_outside_the_mask_every_pixel_is_the_source_and_inside_frame_0_the_edit(done: Path) -> None:
    frames = keeps_the_background(done)
    assert len(frames) == 9
    changed = 0
    for number, frame in enumerate(frames):
        source = read_image(done / "source" / f"{number:05d}.png")
        changed += int((frame != source).any(axis=-1).sum())
    assert changed > 1000, "inside the mask something must have been generated"
    edited = read_image(done / "edits" / "00000.png")
    inside = (read_labels(done / "masks" / "00000.png") > 0).astype(np.uint8)
    beyond_feather = cv2.distanceTransform(inside, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) > 4
    assert beyond_feather.sum() > 500
    assert np.array_equal(frames[0][beyond_feather], edited[beyond_feather])


def test_the_result_has_the_originals_size_and_rate(done: Path, ball: Path) -> None:
    result, original = probe(done / "output" / "edited.mp4"), probe(ball)
    assert (result.width, result.height) == (original.width, original.height)
    assert result.fps == original.fps
    assert result.frames == 9
    outside = np.ones((192, 320), bool)
    outside[48:176, 0:160] = False  # the box with its margin, snapped to cells of 16
    difference = np.abs(frames_of(result.path).astype(int) - frames_of(ball))[:, outside]
    assert (difference.mean(axis=(1, 2)) < 2).all(), "the background, up to the codec"
    comparison = probe(done / "output" / "comparison.mp4")
    assert (comparison.width, comparison.height) == (3 * 160, 96)
    assert (done / "output" / "strip.png").is_file()


def test_the_run_record_can_be_repeated(copied: Path, run: Run, tmp_path: Path) -> None:
    record = json.loads((copied / "output" / "run.json").read_text())
    assert record["seed"] == 0
    assert record["loras"][0]["path"].endswith("appearance/step-00002/adapter.safetensors")
    assert set(record["outside_difference"]) == {"0", "8"}
    assert record["versions"]["torch"] == torch.__version__
    assert record["config"] == load_config(copied / "edit.toml").model_dump(mode="json")
    before, output = frames_of(copied), tmp_path / "again.mp4"
    ok(run("infer", *at(copied), "--output", output))
    assert output.is_file()
    assert np.array_equal(frames_of(copied), before)


def test_a_second_edit_reuses_the_motion_lora(copied: Path, run: Run) -> None:
    named = copied / "edits" / "cap" / "00000.png"
    recolour(copied / "source" / "00000.png", named, (24, 44, 30, 20))
    config = copied / "edit.toml"
    assert "motion: done already" in ok(run("train", "--config", config, "--edit", "cap")).err
    ok(run("infer", "--config", config, "--edit", "cap", "--seed", "4,5"))
    folders = (copied / "output" / "cap", copied / "output" / "cap" / "seed-5")
    records = [json.loads((folder / "run.json").read_text()) for folder in folders]
    assert [record["seed"] for record in records] == [4, 5]
    assert "motion/" in records[0]["loras"][0]["path"]
    one, two = (frames_of(folder / "edited.mkv") for folder in folders)
    assert not np.array_equal(one[5], two[5])


@pytest.mark.parametrize("lock", ["model", "latent"])
def test_the_other_locks_give_the_raw_frames(copied: Path, run: Run, lock: str) -> None:
    ok(run("infer", *at(copied, f"inference.lock={lock}")))
    keep = read_labels(copied / "masks" / "00004.png") == 0
    source = read_image(copied / "source" / "00004.png")
    assert not np.array_equal(frames_of(copied)[4][keep], source[keep])


def test_the_bare_base_further_loras_and_caches(copied: Path, run: Run) -> None:
    def generated(*settings: str) -> tuple[np.ndarray, str]:
        """The bare base's frames after nine steps, and what the command has logged."""
        options = at(copied, "inference.steps=9", *settings)
        answer = ok(run("infer", *options, "--lora", "none"))
        return frames_of(copied), answer.err

    bare, log = generated()
    assert "acceleration.cache" not in log
    adapter = "runs/motion/step-00002/adapter.safetensors"
    stacked, _ = generated(f"inference.loras=[{{path='{adapter}', strength=40.0}}]")
    assert not np.array_equal(stacked[5], bare[5])
    cached, log = generated("acceleration.cache=taylor")
    share = re.search(r"(\d+) % of the blocks' computations were skipped", log)
    assert share is not None, log
    assert 20 <= int(share[1]) <= 60, "after the first three, two of three steps"
    assert not np.array_equal(cached, bare)
    assert np.array_equal(generated()[0], bare), "nothing of it stays"


def test_an_edit_of_the_originals_size_is_fitted(copied: Path, run: Run, ball: Path) -> None:
    original = frames_of(ball)[0].copy()
    original[90:130, 60:100] = (250, 10, 10)
    write_png(copied / "edits" / "00000.png", original)
    ok(run("infer", *at(copied)))
    first = frames_of(copied / "output" / "edited.mp4")[0]
    assert np.abs(first[100:120, 70:90].astype(int) - (250, 10, 10)).mean() < 12


def test_an_edit_that_repaints_everything_is_reported(copied: Path, run: Run) -> None:
    source = read_image(copied / "source" / "00000.png")
    write_png(copied / "edits" / "00000.png", 255 - source)
    answer = ok(run("infer", *at(copied)))
    assert "differs from source frame 0 outside the mask" in answer.err
    assert (copied / "output" / "spill.png").is_file()
    record = json.loads((copied / "output" / "run.json").read_text())
    assert record["outside_difference"]["0"]["share_over_20_levels"] > 0.5
    keeps_the_background(copied)


RATE, FLASH, HERTZ = 25, 20, 16000


@pytest.fixture(scope="module")
def flash_and_beep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 frames, frame 20 white; a beep of 0.2 s starts with it."""
    path = tmp_path_factory.mktemp("sound") / "flash.mp4"
    at = FLASH / RATE
    subprocess.run(
        [
            imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-y",
            "-f", "lavfi", "-i", f"color=gray:s=160x96:r={RATE}:d={40 / RATE}",
            "-f", "lavfi", "-i", f"sine=1000:r=48000:d={40 / RATE}",
            "-vf", f"drawbox=c=white:t=fill:enable='eq(n,{FLASH})'",
            "-af", f"volume=0:enable='not(between(t,{at},{at + 0.2}))'",
            "-c:v", "libx264", "-c:a", "aac", str(path),
        ],
        check=True,
    )  # fmt: skip
    return path


def beep_onset(path: Path) -> float:
    """Seconds from the start of the file to the beep."""
    command = [
        imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path),
        "-map", "0:a:0", "-ac", "1", "-ar", str(HERTZ), "-f", "s16le", "pipe:1",
    ]  # fmt: skip
    sound = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, "<i2")
    assert np.abs(sound.astype(int)).max() > 1000, "there is a beep"
    return float(np.argmax(np.abs(sound.astype(int)) > 500)) / HERTZ


def flash_onset(path: Path) -> float:
    """Seconds from the start of the file to the white frame, by its corner outside the mask."""
    info = probe(path)
    corner = [frame[:8, :8].mean() for frame in read_frames(info)]
    assert max(corner) > 200, "there is a flash"
    return float(int(np.argmax(corner)) / info.fps)


@pytest.mark.parametrize(("options", "flash_frame"), [(["--start", 8], 12), (["--every", 2], 10)])
def test_flash_and_beep_stay_together(
    run: Run, flash_and_beep: Path, tiny_model: Path, tmp_path: Path,
    options: list[object], flash_frame: int,
) -> None:  # fmt: skip
    """Sound and picture stay in step, also for a part of the clip."""
    root = tmp_path / "ws"
    ok(run(
        "prepare", flash_and_beep, root, "--box", "60,30,40,40", "--size", "160x96",
        "--frames", 17, *options, "--caption", "grey", "--edited-caption", "grey",
        "--set", f"model.path={tiny_model}", *FAST,
    ))  # fmt: skip
    write_png(root / "edits" / "00000.png", read_image(root / "source" / "00000.png"))
    ok(run("infer", *at(root), "--lora", "none"))
    result, lossless = root / "output" / "edited.mp4", root / "output" / "edited.mkv"
    info = probe(result)
    assert info.frames == 17
    assert flash_onset(result) == pytest.approx(float(flash_frame / info.fps), abs=1e-3)
    for video in (result, lossless):
        assert abs(beep_onset(video) - flash_onset(video)) <= float(1 / info.fps)


@pytest.mark.slow
def test_the_man_walks_on_in_red(
    run: Run, real_clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """A real edited first frame, a box around the man, a recoloured later frame, a second edit."""
    clips, root = real_clips / "man_walking", tmp_path / "ws"
    words = ["--caption", "a man walks", "--edited-caption", "a man in a red shirt walks"]
    place = ["--box", "50,60,360,452", "--size", "256x256"]
    base = [*sets(f"model.path={tiny_model}"), *FAST]
    answer = ok(run("prepare", clips / "source.mp4", root, *place, *words, *base))
    assert "16 frames are used" in answer.out
    red = read_image(clips / "red_clothes.png")  # of the original's size, 512x512
    write_png(root / "edits" / "00000.png", red)
    repaint(root, 12, (80, 110, 90, 100))
    config = root / "edit.toml"
    ok(run("train", "--config", config))
    answer = ok(run("infer", "--config", config))
    assert "00000.png differs from source frame 0 outside the mask" in answer.err

    assert len(keeps_the_background(root)) == 16
    first = frames_of(root / "output" / "edited.mp4", 1)[0]
    shirt = (slice(260, 440), slice(170, 330))
    assert first.shape == (512, 512, 3)
    assert np.abs(first[shirt].astype(int) - red[shirt]).mean() < 4, "frame 0 is the edit itself"
    record = json.loads((root / "output" / "run.json").read_text())
    small = cv2.resize(red, (256, 256), interpolation=cv2.INTER_AREA).astype(int)
    keep = read_labels(root / "masks" / "00000.png") == 0
    mean = np.abs(small - read_image(root / "source" / "00000.png"))[keep].mean()
    assert record["outside_difference"]["0"]["mean_levels"] == pytest.approx(mean, rel=0.02)
    assert "appearance/" in record["loras"][0]["path"]

    write_png(root / "edits" / "hat" / "00000.png", read_image(clips / "cowboy_hat.png"))
    assert "motion: done already" in run("train", "--config", config, "--edit", "hat").err
    ok(run("infer", "--config", config, "--edit", "hat"))
    assert (root / "output" / "hat" / "edited.mp4").is_file()


@pytest.mark.slow
def test_the_dog_keeps_its_size_rate_sound_and_background(
    run: Run, real_clips: Path, tiny_model: Path, tmp_path: Path
) -> None:
    """49 frames of 1280x720 at 29.97 fps; only the box may change."""
    video, root = real_clips / "dog.mp4", tmp_path / "ws"
    words = ["--caption", "a dog", "--edited-caption", "a red dog"]
    place = ["--box", "500,200,300,300", "--size", "208x112"]
    ok(run("prepare", video, root, *place, *words, *sets(f"model.path={tiny_model}"), *FAST))
    repaint(root, 0, (90, 40, 30, 30))
    for command in ("train", "infer"):
        ok(run(command, *at(root)))
    result, original = probe(root / "output" / "edited.mp4"), probe(video)
    assert (result.width, result.height, result.frames) == (1280, 720, 49)
    assert result.fps == original.fps
    assert result.has_audio == original.has_audio
    # The box in the original, grown by the margin and snapped to cells of 8 workspace pixels.
    outside = np.ones((720, 1280), bool)
    outside[100:600, 380:920] = False
    inside_change = []
    pairs = zip(read_frames(result), read_frames(original, 0, 49), strict=True)
    for mine, theirs in pairs:
        difference = np.abs(mine.astype(int) - theirs.astype(int))
        assert difference[outside].mean() < 2, "the codec's own loss, at full resolution"
        inside_change.append(difference[250:450, 550:750].mean())
    assert np.mean(inside_change) > 5


NOTHING = np.zeros((0, 32, 48, 3), np.uint8)
TOKEN, NEGATIVE = "s0me0ne", "blurred and overexposed"


def settings(**inference: object) -> Config:
    return configured(
        prompt={"token": TOKEN, "caption": "a blue ball", "negative": NEGATIVE},
        inference={"steps": 3, "guidance": 1.0, **inference},
    )


class Base:
    """A model that encodes the small edit and generates clips of it."""

    def __init__(self, model: VideoModel, folder: Path) -> None:
        self.model, self.workspace = model, Workspace(folder)
        self.cache = TensorCache(self.workspace.cache_dir)

    def encoded(self, **inference: object) -> Encoded:
        config = settings(**inference)
        whole = passage_of(Segment(0, FRAMES), small_clip(), small_edit(), NOTHING, 81)
        return encode(config, whole, self.model, self.cache)

    def generated(self, told: Encoded, *seeds: int, **inference: object) -> list[Tensor]:
        config = settings(**inference)
        numbers, kept = list(seeds or [0]), dict[int, Tensor]()
        keep = kept.__setitem__
        encoded = dict.fromkeys(numbers, told)
        results = generate(config, self.model, encoded, [], self.cache, float, keep)
        assert list(kept) == list(results) == numbers
        assert all(torch.equal(kept[seed], one) for seed, one in results.items())
        return list(results.values())


@pytest.fixture(scope="module")
def base(model: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> Base:
    return Base(model, tmp_path_factory.mktemp("ws"))


def test_the_words_are_the_token_with_the_caption_and_the_negative_prompt(base: Base) -> None:
    told = base.encoded()
    prompts = [f"{TOKEN} an orange ball", NEGATIVE, ""]
    with encoder(base.model, "text") as text:
        wanted, negative, empty = text(
            [PromptInput(prompt, torch.zeros(3, 8, 8)) for prompt in prompts]
        )
    assert torch.equal(told.sample.context["text"], wanted["text"])
    assert torch.equal(told.negative["text"], negative["text"])
    assert not torch.equal(told.negative["text"], empty["text"])


@pytest.mark.parametrize("how", ["masked", "first-frame"])
def test_the_sample_is_of_the_clip_and_the_edited_first_frame(base: Base, how: str) -> None:
    clip, first = small_clip(), unit(small_edit().first.image_HWC)[:, None]
    sample = inference_sample(clip.video(), clip.keep(), first, how, f"{TOKEN} {EDITED_CAPTION}")
    (expected,) = encode_samples([sample], base.model, base.cache)
    found = base.encoded(conditioning=how).sample
    assert torch.equal(found.keep_THW, expected.keep_THW)
    assert torch.equal(found.condition_CTHW, expected.condition_CTHW)
    assert found.context.keys() == expected.context.keys()
    assert all(torch.equal(found.context[name], one) for name, one in expected.context.items())


def test_the_latent_lock_keeps_the_source_and_leaves_latent_frame_0_free(base: Base) -> None:
    clip = small_clip()
    assert [base.encoded(lock=lock).lock for lock in ("pixel", "model")] == [None] * 2
    told = base.encoded(lock="latent")
    (result,) = base.generated(told, lock="latent")
    (source,) = encode_videos([clip.video()], base.model, base.cache)
    keep_THW = base.model.latent_keep(clip.keep())
    outside_first = keep_THW[0].bool().expand(result[:, 0].shape)
    later = keep_THW[1:].bool().expand(result[:, 1:].shape)
    assert not told.lock.keep_THW[0].any()
    assert later.any()
    assert not later.all()
    assert torch.allclose(result[:, 1:][later], source[:, 1:][later], atol=1e-5)
    assert not torch.isclose(result[:, 1:][~later], source[:, 1:][~later], atol=1e-3).all()
    free = (result[:, 0] - source[:, 0])[outside_first].abs()
    assert free.median() > 1e-2, "latent frame 0 holds the edit, also outside the box"


def test_the_shift_is_the_models_own_or_the_one_that_is_set(base: Base) -> None:
    told = base.encoded()
    own, same, other = (base.generated(told, shift=shift)[0] for shift in ("model", 3.0, 1.0))
    assert torch.equal(own, same), "the tiny model's scheduler has a shift of 3"
    assert not torch.allclose(own, other, atol=1e-3)


def test_the_negative_prompt_works_through_guidance(base: Base) -> None:
    told = base.encoded()
    silent = torch.zeros_like(told.negative["text"])
    other = replace(told, negative={**told.negative, "text": silent})
    assert torch.equal(base.generated(told)[0], base.generated(other)[0])
    with_words, without = (base.generated(e, guidance=5.0)[0] for e in (told, other))
    assert not torch.allclose(with_words, without, atol=1e-3)


def test_every_seed_has_latents_of_its_own_in_order(base: Base) -> None:
    told = base.encoded()
    both = base.generated(told, 4, 9)
    assert len(both) == 2
    assert torch.equal(both[1], base.generated(told, 9)[0])
    assert not torch.allclose(both[0], both[1], atol=1e-3)


def test_several_objects_are_edited_in_one_pass_each_with_its_caption(
    prepared: Prepared, run: Run, ball: Path, tmp_path: Path
) -> None:
    labels = np.zeros((192, 320), np.uint8)
    labels[80:140, 20:100], labels[20:80, 220:300] = 1, 2
    write_labels(tmp_path / "mask.png", labels)
    root, source = tmp_path / "ws", prepared()
    words = sets(
        'prompt.caption=["a blue ball", "a meadow"]',
        'prompt.edited_caption=["an orange ball", "a pond"]',
    )
    base = load_config(source / "edit.toml").model.path
    ok(run(
        "prepare", ball, root, "--mask", tmp_path / "mask.png", "--size", "160x96", "--frames", 9,
        *words, *sets(f"model.path={base}"), *FAST,
    ))  # fmt: skip
    masks = [read_labels(root / "masks" / f"{number:05d}.png") for number in range(9)]
    assert all(set(np.unique(mask)) == {0, 1, 2} for mask in masks)
    image = read_image(root / "source" / "00000.png").copy()
    for number in (1, 2):
        image[masks[0] == number] = image[masks[0] == number][:, ::-1]
    write_png(root / "edits" / "00000.png", image)
    for command in ("train", "infer"):
        ok(run(command, *at(root)))
    record = json.loads((root / "output" / "run.json").read_text())
    assert record["prompt"] == "p3rs0n an orange ball; a pond"
    for frame, mask, number in zip(keeps_the_background(root), masks, range(9), strict=True):
        shown = read_image(root / "source" / f"{number:05d}.png")
        assert all((frame != shown).any(axis=-1)[mask == one].any() for one in (1, 2))


TRANSFERRED = (
    'transfer.start="inverted"', 'transfer.attention="qk"', "transfer.features_share=0.5",
    "transfer.smooth_noise=0.01",
)  # fmt: skip


def test_the_source_is_inverted_once_and_kept(copied: Path, run: Run) -> None:
    bare = [*at(copied, *TRANSFERRED), "--lora", "none"]
    workspace = Workspace(copied)
    first = ok(run("infer", *bare, "--seed", "1,2"))
    assert "invert:" in first.err
    assert "every seed gives the same clip" in first.err
    (way,) = (copied / "cache").glob("way-*.safetensors")
    one, two = (frames_of(workspace.output_dir(None, seed) / "edited.mp4") for seed in (None, 2))
    assert np.array_equal(one, two)
    again = ok(run("infer", *bare, "--seed", "3"))
    assert "invert:" not in again.err
    ok(run("infer", *bare, "--set", "transfer.inversion_passes=2"))
    assert len(list((copied / "cache").glob("way-*.safetensors"))) == 2
    way.write_bytes(way.read_bytes()[:-1])
    mended = ok(run("infer", *bare))
    assert f"{way.name} is damaged, and is made again" in mended.err


def test_presets_change_the_method_and_instant_needs_no_training(
    prepared: Prepared, run: Run
) -> None:
    root = prepared()
    trained = ok(run("train", *at(root), "--preset", "instant"))
    assert "there is nothing to train" in trained.err
    ok(run("infer", *at(root, "inference.steps=3"), "--preset", "instant"))
    record = json.loads((root / "output" / "run.json").read_text())
    assert record["loras"] == []
    assert record["config"]["transfer"]["attention"] == "qk"
    refused(run("infer", *at(root), "--preset", "fast"), "--preset fast", "instant", "anyv2v")
    ok(run("train", *at(root), "--preset", "best"))
    for preset, start in (("best", "inverted"), ("evolving", "noise")):
        ok(run("infer", *at(root, "inference.steps=3"), "--preset", preset))
        record = json.loads((root / "output" / "run.json").read_text())
        assert len(record["loras"]) == 1
        assert record["config"]["transfer"]["start"] == start
        assert record["config"]["transfer"]["attention"] == "qk"
    both = ["acceleration.cache=taylor", "inference.steps=9"]
    for command in ("infer", "check", "plan"):
        answer = run(command, *at(root, *both), "--preset", "instant")
        assert answer.status == 2
        assert "[acceleration] cache cannot be used while [transfer] takes" in answer.err
    refused(run("plan", *at(root), "--preset", "anyv2v"), "[transfer] features_blocks", "2 blocks")


def test_in_half_precision_the_source_is_inverted_too(prepared: Prepared, run: Run) -> None:
    root = prepared()
    half = ["model.dtype=bfloat16", "inference.steps=3"]
    ok(run("infer", *at(root, *half), "--preset", "instant"))
    assert len(list((root / "cache").glob("way-*.safetensors"))) == 1


def test_the_way_of_another_schedule_is_another(prepared: Prepared, run: Run) -> None:
    root = prepared()
    bare = [*at(root, "inference.steps=3"), "--preset", "instant"]
    ok(run("infer", *bare))
    ok(run("infer", *bare, "--set", "inference.shift=7"))
    ok(run("infer", *bare, "--set", "transfer.start_level=0.9"))
    assert len(list((root / "cache").glob("way-*.safetensors"))) == 3
    repaint(root, 8)
    assert "edited frames 8 have no effect" in ok(run("infer", *bare)).err


def test_the_perturbed_source_is_the_same_whatever_the_seed(prepared: Prepared, run: Run) -> None:
    root = prepared()
    bare = [*at(root, "inference.steps=3", "transfer.smooth_noise=0.05"), "--preset", "instant"]
    ok(run("infer", *bare, "--seed", "7"))
    first = frames_of(root / "output" / "edited.mkv")
    ok(run("rerun", root / "output" / "run.json"))
    assert np.array_equal(frames_of(root / "output" / "edited.mkv"), first)


def test_a_way_that_cannot_be_kept_is_used_all_the_same(
    prepared: Prepared, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, put = prepared(), TensorCache.put

    def full(cache: TensorCache, name: str, tensors: Context) -> None:
        if name.startswith("way-"):
            raise OSError(errno.ENOSPC, "No space left on device")
        put(cache, name, tensors)

    monkeypatch.setattr(TensorCache, "put", full)
    answer = ok(run("infer", *at(root, "inference.steps=3"), "--preset", "instant"))
    assert "the inverted source cannot be kept" in answer.err
