"""A DeepSpeed JSON of the user's own: what of it counts, and what contradicts the rest.

Weights are streamed and gradients are added up by this program, so a file that was made for another
one may say things that cannot hold here. They are refused by name, all at once.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from maskora.config import Config
from maskora.errors import UserError
from maskora.files import read_text

AUTO = "auto"  # whoever runs the file fills it in
ENGINE = "weights are streamed block by block ([memory])"
# What contradicts the way in which this program trains, and why.
REFUSED = {
    "activation_checkpointing": f"{ENGINE}, and recomputed so",
    "pipeline": f"{ENGINE}, and each process runs all blocks",
    "tensor_parallel": f"{ENGINE}, and each process runs whole blocks",
    "sequence_parallel_size": "each process computes whole samples",
    "sparse_attention": "attention is chosen by [acceleration] attention",
    "hybrid_engine": ENGINE,
    "compression_training": "weights are compressed by model.transformer_dtype",
    "elasticity": "a run goes on with another number of processes by train --resume",
    "curriculum_learning": "samples are drawn from training.seed and the step",
    "data_efficiency": "samples are drawn from training.seed and the step",
    "progressive_layer_drop": "every block computes in every step",
    "scheduler": "the learning rate stays optimizer.lr",
    "amp": "the precision is model.dtype",
}
WITHOUT_EFFECT = (
    "steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown", "flops_profiler",
    "tensorboard", "wandb", "csv_monitor", "comet", "zero_allow_untested_optimizer",
    "zero_force_ds_cpu_optimizer", "communication_data_type", "prescale_gradients",
    "gradient_predivide_factor", "sparse_gradients", "disable_allgather", "aio", "autotuning",
    "checkpoint", "data_types", "compile",
)  # fmt: skip
LOGGER = ("enabled", "prof_all", "prof_ops", "verbose", "debug")


@dataclass(frozen=True)
class DeepSpeedFile:
    """What a file says that counts here.

    Attributes:
        logger: of communication, as `deepspeed.comm.configure` takes it.
        notes: what in it has no effect.
    """

    logger: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def read_deepspeed_file(config: Config, root: Path, count: int | None) -> DeepSpeedFile:
    """Read and check the file of [deepspeed] config; an empty one where none is named.

    Args:
        root: the workspace, from which its path counts.
        count: how many processes train together; None: that is not known, or they do not.

    Raises:
        UserError: it cannot be read, or contradicts something; with everything that does.
    """
    if not config.deepspeed.config:
        return DeepSpeedFile()
    path = root / Path(config.deepspeed.config).expanduser()
    try:
        said = json.loads(read_text(path))
    except (FileNotFoundError, IsADirectoryError):
        raise UserError(f"[deepspeed] config: {path} is no file") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"[deepspeed] config: {path} is no JSON: {error}") from None
    if not isinstance(said, dict):
        raise UserError(f"[deepspeed] config: {path} holds no JSON object")
    problems = [
        *_unknown(said), *_batches(said, config, count), *_zero(said), *_precision(said, config),
        *_optimizer(said, config),
    ]  # fmt: skip
    if problems:
        lines = [f"  {problem}" for problem in problems]
        raise UserError("\n".join([f"{path}: it contradicts this run", *lines]))
    notes = [f"{path.name}: {name} has no effect here" for name in said if name in WITHOUT_EFFECT]
    notes += [f"{path.name}: {note}" for note in _unused_zero(said)]
    logger = _table(said, "comms_logger")
    return DeepSpeedFile({key: logger[key] for key in LOGGER if key in logger}, notes)


def _table(said: dict[str, Any], name: str) -> dict[str, Any]:
    """One of its objects; an empty one where it is not there, or is none."""
    found = said.get(name)
    return found if isinstance(found, dict) else {}


def _unknown(said: dict[str, Any]) -> Iterator[str]:
    checked = (
        "train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps",
        "gradient_clipping", "zero_optimization", "fp16", "bf16", "optimizer", "comms_logger",
    )  # fmt: skip
    for name in said:
        if name in REFUSED:
            yield f"{name}: {REFUSED[name]}; take it out"
        elif name not in (*checked, *WITHOUT_EFFECT):
            yield f"{name}: it is not known here; take it out"


def _batches(said: dict[str, Any], config: Config, count: int | None) -> Iterator[str]:
    """Samples of a step: what the file says, and [training] gradient_accumulation_steps."""
    samples, key = config.training.gradient_accumulation_steps, "gradient_accumulation_steps"
    wanted = {"train_batch_size": samples, "train_micro_batch_size_per_gpu": 1}
    if count is not None and samples % count == 0:
        wanted[key] = samples // count
    among = "" if count is None else f" of {count} processes"
    for name, number in wanted.items():
        if said.get(name, AUTO) not in (AUTO, number):
            yield (
                f"{name} is {json.dumps(said[name])}; with [training] {key} = {samples} samples a "
                f'step{among} and one sample at a time it is {number} (or "auto")'
            )
    clipping = config.training.gradient_clipping
    if said.get("gradient_clipping", AUTO) not in (AUTO, clipping):
        yield (
            f"gradient_clipping is {json.dumps(said['gradient_clipping'])}, and [training] "
            f"gradient_clipping is {clipping:g}"
        )


def _zero(said: dict[str, Any]) -> Iterator[str]:
    zero = _table(said, "zero_optimization")
    if zero.get("stage") == 3:
        yield f"zero_optimization.stage is 3, which shares out the weights: {ENGINE}; use 0"
    for name in ("offload_param", "zero_quantized_weights", "zero_hpz_partition_size"):
        if zero.get(name):
            yield f"zero_optimization.{name}: {ENGINE}; take it out"


def _unused_zero(said: dict[str, Any]) -> Iterator[str]:
    zero = _table(said, "zero_optimization")
    if zero.get("stage") in (1, 2):
        yield (
            f"zero_optimization.stage = {zero['stage']} has no effect here: only a LoRA has "
            f"gradients and optimizer states, and each process holds them whole"
        )
    if zero.get("offload_optimizer"):
        yield (
            "zero_optimization.offload_optimizer has no effect here: the LoRA's optimizer states "
            "stay beside it"
        )


def _precision(said: dict[str, Any], config: Config) -> Iterator[str]:
    for name, dtype in (("fp16", "float16"), ("bf16", "bfloat16")):
        if _table(said, name).get("enabled") is True and config.model.dtype != dtype:
            yield f'{name}.enabled contradicts [model] dtype = "{config.model.dtype}"'


def _optimizer(said: dict[str, Any], config: Config) -> Iterator[str]:
    optimizer = _table(said, "optimizer")
    kind, values = optimizer.get("type", AUTO), _table(optimizer, "params")
    if kind not in (AUTO, "Adam", "AdamW"):
        yield f"optimizer.type is {json.dumps(kind)}; [optimizer] type chooses among AdamW's kinds"
    settings = config.optimizer
    wanted = {
        "lr": settings.lr, "weight_decay": settings.weight_decay, "betas": [0.9, 0.999],
        "eps": 1e-8,
    }  # fmt: skip
    for name, value in wanted.items():
        if values.get(name, AUTO) not in (AUTO, value):
            yield f"optimizer.params.{name} is {json.dumps(values[name])}, and here it is {value}"
