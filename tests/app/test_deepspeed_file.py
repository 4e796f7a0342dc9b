"""A DeepSpeed JSON of the user's own: what counts of it, and what is refused by name."""

import json
from pathlib import Path

import pytest

from maskora.app.deepspeed_file import read_deepspeed_file
from maskora.config import Config
from maskora.errors import UserError
from tests.app.small import configured


def settings(**training: object) -> Config:
    """A configuration that names ds.json; four samples a step."""
    return configured(
        deepspeed={"config": "ds.json"},
        model={"dtype": "bfloat16"},
        training={"gradient_accumulation_steps": 4, **training},
    )


def write(root: Path, **said: object) -> None:
    (root / "ds.json").write_text(json.dumps(said), encoding="utf-8")


def test_without_a_file_nothing_is_read(tmp_path: Path) -> None:
    assert read_deepspeed_file(configured(), tmp_path, 2).notes == []


def test_a_file_that_agrees_is_taken_and_its_logger_used(tmp_path: Path) -> None:
    write(
        tmp_path, train_batch_size=4, gradient_accumulation_steps=2, bf16={"enabled": True},
        train_micro_batch_size_per_gpu="auto", fp16={"enabled": False}, gradient_clipping=1.0,
        optimizer={"type": "AdamW", "params": {"lr": 1e-4, "betas": [0.9, 0.999]}},
        comms_logger={"enabled": True, "verbose": False}, steps_per_print=10,
        zero_optimization={"stage": 2},
    )  # fmt: skip
    found = read_deepspeed_file(settings(), tmp_path, 2)
    assert found.logger == {"enabled": True, "verbose": False}
    assert [note.split()[1] for note in found.notes] == [
        "steps_per_print", "zero_optimization.stage",
    ]  # fmt: skip


def test_everything_that_contradicts_is_refused_at_once_by_name(tmp_path: Path) -> None:
    write(
        tmp_path, train_batch_size=8, train_micro_batch_size_per_gpu=2, fp16={"enabled": True},
        gradient_accumulation_steps=4, gradient_clipping=0.5, pipeline={}, scheduler={}, nonsense=1,
        zero_optimization={"stage": 3, "offload_param": {"device": "cpu"}},
        activation_checkpointing={}, optimizer={"type": "OneBitAdam", "params": {"lr": 1}},
    )  # fmt: skip
    with pytest.raises(UserError) as refusal:
        read_deepspeed_file(settings(), tmp_path, 2)
    message = str(refusal.value)
    for name in (
        "train_batch_size is 8", "it is 4", "train_micro_batch_size_per_gpu is 2",
        "fp16.enabled contradicts", "gradient_accumulation_steps is 4", "it is 2",
        "gradient_clipping is 0.5", "pipeline: ", "scheduler: ", "nonsense: ",
        "zero_optimization.stage is 3", "zero_optimization.offload_param",
        "activation_checkpointing: ", 'optimizer.type is "OneBitAdam"', "optimizer.params.lr is 1",
    ):  # fmt: skip
        assert name in message, name


def test_another_number_of_processes_may_use_what_was_made_for_two(tmp_path: Path) -> None:
    """One process, infer and check do not share samples; what holds for all still counts."""
    write(tmp_path, train_batch_size=4, gradient_accumulation_steps=2)
    assert read_deepspeed_file(settings(), tmp_path, None).notes == []
    write(tmp_path, train_batch_size=8, gradient_accumulation_steps=2)
    with pytest.raises(UserError, match=r"train_batch_size is 8; .* it is 4"):
        read_deepspeed_file(settings(), tmp_path, None)


@pytest.mark.parametrize("text", ["", "[]", "{", "3"])
def test_what_is_no_object_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "ds.json").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match="JSON"):
        read_deepspeed_file(settings(), tmp_path, 1)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        read_deepspeed_file(settings(), tmp_path, 1)
