"""A part's configuration as a checked table: what is wrong is told by file and key. No torch."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from maskora.errors import UserError
from maskora.models.source import Source

SHOWN = 60  # characters of a value that is told

Whole = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Number = Annotated[float, Field(gt=0)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]


class Settings(BaseModel):
    """The keys of one part's config.json that maskora reads, or that its class computes with.

    A key without a default must be there; what has one may be left out, and the default is that of
    the part's class. Other keys are not looked at. Values keep their JSON type.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def of(cls, source: Source, part: str) -> Self:
        """A part's configuration. Raises UserError with everything in it that cannot be."""
        try:
            return cls.model_validate(source.config(part))
        except ValidationError as error:
            problems = "; ".join(_told(one) for one in error.errors())
            raise UserError(
                f"{source.described(part)}: {problems}. It is damaged, or another model's: take "
                f"it as it was published"
            ) from None


class TransformersSettings(Settings):
    """What the configurations of transformers' classes have in common."""

    return_dict: Literal[True] = True
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    torch_dtype: Literal["float32", "float16", "bfloat16"] | None = None


def check_settings(source: Source, kinds: Mapping[str, type[Settings]]) -> None:
    """Every part's configuration is sound.

    Args:
        kinds: part -> what it must say.

    Raises:
        UserError: with all that is wrong, in one message.
    """
    problems = []
    for part, kind in kinds.items():
        try:
            kind.of(source, part)
        except UserError as error:
            problems.append(str(error))
    if problems:
        raise UserError("\n".join(problems))


def transformers_config(kind: Any, source: Source, part: str, **settings: Any) -> Any:
    """A configuration of transformers, which checks the type of every further key itself.

    Args:
        kind: its class.
        settings: what goes before the file's.

    Raises:
        UserError: a value has another type than its key.
    """
    from huggingface_hub.errors import StrictDataclassError

    try:
        return kind(**{**source.config(part), **settings})
    except StrictDataclassError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(
            f"{source.described(part)}: {reason}. It is damaged, or another model's: take it as it "
            f"was published"
        ) from None


def _told(problem: Mapping[str, Any]) -> str:
    """What one key says, and what it should."""
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    wanted = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if not key or problem["type"] == "value_error":
        return f"{key}: {wanted}" if key else str(wanted)
    value = json.dumps(problem["input"])
    return f"{key} is {value if len(value) <= SHOWN else value[:SHOWN] + '…'}, and {wanted}"
