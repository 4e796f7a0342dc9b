"""The keys of configurations that decide what a base is, checked before anything loads. No torch.

A value of another type, a checkpoint of another kind, parts that do not fit together and numbers
that would compute nonsense in silence are refused here. Whether sizes go with one another is left
to the classes of diffusers and transformers; `reading_config` makes their errors a message.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal, Self

from huggingface_hub.errors import StrictDataclassError
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from maskora.errors import Fault, UserError
from maskora.models.base import Grid
from maskora.models.files.model_files import ModelFiles
from maskora.streaming.out_of_memory import ran_out_of

SHOWN = 60  # characters of a value in a message
UNUSED_LAYERS = 2  # of a language model: the states of its last layers are not used
PUBLISHED = "It is damaged, or another model's: take it as it was published"
# What classes raise of a configuration that they cannot use.
UNUSABLE = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError,
    ValueError, StrictDataclassError,
)  # fmt: skip

# Part -> what its folder holds: one of these names; "a and b" is both.
Files = Mapping[str, tuple[str, ...]]
TOKENIZER = ("tokenizer.json and tokenizer_config.json",)
PROCESSOR = ("preprocessor_config.json", "processor_config.json")
SCHEDULER = ("scheduler_config.json",)

Whole = Annotated[int, Field(ge=1, le=1_000_000)]
Count = Annotated[int, Field(ge=0, le=1_000_000)]
Number = Annotated[float, Field(gt=0)]
Activation = Literal["gelu", "gelu_new", "gelu_pytorch_tanh", "quick_gelu", "relu", "silu"]


class Settings(BaseModel):
    """The keys of one part's config.json that decide its kind and sizes; others are not looked at.

    A key without a default must be there; what has one may be left out, and the default is that of
    the part's class. Values keep their JSON type.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @classmethod
    def of(cls, source: ModelFiles, part: str) -> Self:
        """A part's configuration. Raises UserError with everything in it that cannot be."""
        try:
            return cls.model_validate(source.config(part))
        except ValidationError as error:
            problems = "; ".join(_message(one) for one in error.errors())
            raise UserError(f"{source.described(part)}: {problems}. {PUBLISHED}") from None


def read_grid(source: ModelFiles, kinds: Mapping[str, type[Settings]]) -> Grid:
    """The grid, from the configurations of the VAE and the transformer. Raises UserError."""
    vae: Any = kinds["vae"].of(source, "vae")
    transformer: Any = kinds["transformer"].of(source, "transformer")
    patch = transformer.patch_size  # Wan's has one for frames, height and width each
    patch = patch if isinstance(patch, int) else patch[-1]
    return Grid(vae.spatial_compression_ratio, patch, vae.temporal_compression_ratio)


@contextmanager
def reading_config(source: ModelFiles, part: str) -> Iterator[None]:
    """Building a part, or computing with it: its errors become one that names the file.

    Raises:
        UserError: the part's class cannot use its configuration.
    """
    try:
        yield
    except (UserError, Fault):
        raise
    except UNUSABLE as error:
        if ran_out_of(error) is not None:  # memory, which is no matter of the configuration
            raise
        lines = str(error).strip().splitlines() or [""]
        if isinstance(error, StrictDataclassError):  # its second line names the key
            reason = lines[-1 if len(lines) < 2 else 1].strip().removesuffix("Errors:")
        else:
            reason = f"{type(error).__name__}: {lines[0]}"
        raise UserError(f"{source.described(part)}: {reason.rstrip(' .:')}. {PUBLISHED}") from error


def transformers_config(kind: Any, source: ModelFiles, part: str, **settings: Any) -> Any:
    """A configuration of transformers, which checks the type of every key itself.

    Args:
        kind: its class.
        settings: what goes before the file's.

    Raises:
        UserError: a value has another type than its key.
    """
    with reading_config(source, part):
        return kind(**{**source.config(part), **settings})


def _message(problem: Mapping[str, Any]) -> str:
    """The value of one key, and what it should be."""
    key = ".".join(str(step) for step in problem["loc"])
    if problem["type"] == "missing":
        return f"{key} is missing"
    wanted = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
    if not key or problem["type"] == "value_error":
        return f"{key}: {wanted}" if key else str(wanted)
    value = json.dumps(problem["input"])
    return f"{key} is {value if len(value) <= SHOWN else value[:SHOWN] + '…'}, and {wanted}"


class TransformersSettings(Settings):
    """The keys of every class of transformers; its outputs are read by name."""

    return_dict: Literal[True] = True
    dtype: Literal["float32", "float16", "bfloat16"] | None = None
    torch_dtype: Literal["float32", "float16", "bfloat16"] | None = None


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
    feed_forward_proj: Literal["relu", "gelu", "gated-gelu", "gated-silu"] = "relu"
    dense_act_fn: Activation = "relu"
    is_decoder: Literal[False] = False


class VisionTower(TransformersSettings):
    """An encoder of a picture's patches: `CLIPVisionModel`, `SiglipVisionModel`."""

    hidden_size: Whole
    intermediate_size: Whole
    num_hidden_layers: Whole
    num_attention_heads: Whole
    image_size: Whole
    patch_size: Whole
    num_channels: Literal[3] = 3
    layer_norm_eps: Number = 1e-5
    hidden_act: Activation = "quick_gelu"


class Rope(Settings):
    """The rotary embedding of a language model. Older files name its kind `type`."""

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
    def _predicts_a_flow(self) -> Self:
        needed = {"prediction_type", "use_flow_sigmas"} - self.model_fields_set
        if needed and not self.class_name.startswith("FlowMatch"):
            missing = " and ".join(sorted(needed))
            raise ValueError(f"{missing} missing, without which no flow is meant")
        return self
