"""The keys of configurations that the arithmetic of `*_sizes` reads; goes with it. No torch."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maskora.errors import UserError
from maskora.models.files.source import Source

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


UNUSED_LAYERS = 2  # nobody looks at what a language model's last layers give


class T5Encoder(TransformersSettings):
    """`T5EncoderModel`."""

    vocab_size: Whole
    d_model: Whole
    d_kv: Whole
    d_ff: Whole
    num_layers: Whole
    num_heads: Whole
    relative_attention_num_buckets: Annotated[int, Field(ge=4, le=1_000)] = 32
    relative_attention_max_distance: Whole = 128
    layer_norm_epsilon: Number = 1e-6
    feed_forward_proj: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "relu"
    dense_act_fn: Activation = "relu"
    dropout_rate: Annotated[float, Field(ge=0, le=1)] = 0.1
    is_decoder: Literal[False] = False

    @property
    def gated(self) -> bool:
        """Whether the feed-forward has two ways in, one of which opens the other."""
        return self.feed_forward_proj.startswith("gated")

    @model_validator(mode="after")
    def _tells_distances_apart(self) -> Self:
        distance, exact = (
            self.relative_attention_max_distance,
            self.relative_attention_num_buckets // 4,
        )
        if distance <= exact:
            raise ValueError(
                f"relative_attention_max_distance is {distance}, and should be above {exact}, a "
                f"quarter of relative_attention_num_buckets"
            )
        return self


class VisionTower(TransformersSettings):
    """A tower of pictures' patches: `CLIPVisionModel`, `SiglipVisionModel`."""

    hidden_size: Whole
    intermediate_size: Whole
    num_hidden_layers: Whole
    num_attention_heads: Whole
    image_size: Whole
    patch_size: Whole
    num_channels: Literal[3] = 3
    layer_norm_eps: Number = 1e-5
    hidden_act: Activation = "quick_gelu"

    @model_validator(mode="after")
    def _divides(self) -> Self:
        check_heads(self.hidden_size, self.num_attention_heads)
        if self.patch_size > self.image_size:
            raise ValueError(
                f"patch_size is {self.patch_size}, and should be at most image_size, "
                f"{self.image_size}"
            )
        return self


class Rope(Settings):
    """How a language model tells places apart. Older files name its kind `type`."""

    rope_theta: Number = 10_000.0
    rope_type: Literal["default", "mrope"] = "default"
    type: Literal["default", "mrope"] = "default"
    mrope_section: list[Whole] | None = None


class LanguageModel(TransformersSettings):
    """A language model, `LlamaModel` or `Qwen2_5_VLTextModel`, of which only states are used."""

    vocab_size: Whole
    hidden_size: Whole
    intermediate_size: Whole
    num_hidden_layers: Annotated[int, Field(gt=UNUSED_LAYERS, le=1_000)]
    num_attention_heads: Whole
    num_key_value_heads: Whole | None
    hidden_act: Activation = "silu"
    rope_parameters: Rope | None = None
    rope_scaling: Rope | None = None
    rope_theta: Number | None = None

    @model_validator(mode="after")
    def _divides(self) -> Self:
        check_heads(self.hidden_size, self.num_attention_heads)
        if self.num_attention_heads % (self.num_key_value_heads or 1):
            raise ValueError(
                f"num_key_value_heads is {self.num_key_value_heads}, and should divide "
                f"num_attention_heads, {self.num_attention_heads}"
            )
        return self


class Scheduler(Settings):
    """A scheduler of diffusers for flow matching that draws no noise of its own.

    The second half are keys of solvers that were made for other models first, and which take
    another answer than a flow where nothing is said.
    """

    class_name: Literal[
        "FlowMatchEulerDiscreteScheduler",
        "FlowMatchHeunDiscreteScheduler",
        "UniPCMultistepScheduler",
        "DPMSolverMultistepScheduler",
        "DPMSolverSinglestepScheduler",
        "DEISMultistepScheduler",
    ] = Field(alias="_class_name")
    num_train_timesteps: Whole = 1000
    shift: Number = 1.0
    flow_shift: Number = 1.0
    shift_terminal: Annotated[float, Field(gt=0, lt=1)] | None = None
    time_shift_type: Literal["exponential", "linear"] = "exponential"
    timestep_spacing: Literal["linspace", "leading", "trailing"] = "linspace"
    steps_offset: Count = 0
    use_dynamic_shifting: Literal[False] = False
    invert_sigmas: Literal[False] = False
    stochastic_sampling: Literal[False] = False
    use_beta_sigmas: bool = False
    use_exponential_sigmas: bool = False
    use_karras_sigmas: bool = False
    prediction_type: Literal["flow_prediction"] = "flow_prediction"
    use_flow_sigmas: Literal[True] = True
    predict_x0: Literal[True] = True
    algorithm_type: Literal["dpmsolver++", "deis"] | None = None
    solver_order: Annotated[int, Field(ge=1, le=3)] = 2
    solver_type: Literal["bh1", "bh2", "midpoint", "heun", "logrho"] = "bh2"
    solver_p: None = None
    final_sigmas_type: Literal["zero", "sigma_min"] = "zero"
    lower_order_final: bool = True
    disable_corrector: list[Count] = Field([])
    beta_start: Number = 0.0001
    beta_end: Number = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[Number] | None = None

    @model_validator(mode="after")
    def _takes_the_answer_as_a_flow(self) -> Self:
        needed = {"prediction_type", "use_flow_sigmas"} - self.model_fields_set
        if needed and not self.class_name.startswith("FlowMatch"):
            told = " and ".join(sorted(needed))
            raise ValueError(f"{told} missing, without which no flow is meant")
        return self


def check_heads(width: int, heads: int) -> None:
    """Attention heads divide a width. Raises ValueError."""
    if width % heads:
        raise ValueError(f"num_attention_heads is {heads}, and should divide hidden_size, {width}")
