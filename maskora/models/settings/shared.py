"""What the configurations of parts must say that several bases have. No torch."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from maskora.models.settings.checking import (
    Activation,
    Count,
    Number,
    Settings,
    TransformersSettings,
    Whole,
)

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
