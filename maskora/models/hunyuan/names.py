"""What the parts of HunyuanVideo's transformer are called in Tencent's files."""

from collections.abc import Mapping

from maskora.models.names import Names

_REFINER = "context_embedder.token_refiner.refiner_blocks.{}"
TOKEN_REFINER = {
    "txt_in.input_embedder": ("context_embedder.proj_in",),
    "txt_in.t_embedder.mlp.0": ("context_embedder.time_text_embed.timestep_embedder.linear_1",),
    "txt_in.t_embedder.mlp.2": ("context_embedder.time_text_embed.timestep_embedder.linear_2",),
    "txt_in.c_embedder.linear_1": ("context_embedder.time_text_embed.text_embedder.linear_1",),
    "txt_in.c_embedder.linear_2": ("context_embedder.time_text_embed.text_embedder.linear_2",),
    **{
        f"txt_in.individual_token_refiner.blocks.{{}}.{theirs}": tuple(
            f"{_REFINER}.{one}" for one in ours
        )
        for theirs, ours in {
            "norm1": ("norm1",),
            "self_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
            "self_attn_proj": ("attn.to_out.0",),
            "norm2": ("norm2",),
            "mlp.fc1": ("ff.net.0.proj",),
            "mlp.fc2": ("ff.net.2",),
            "adaLN_modulation.1": ("norm_out.linear",),
        }.items()
    },
}
# What HunyuanVideo-1.5 has as well.
DOUBLE_BLOCK = {
    "img_mod.linear": ("norm1.linear",),
    "img_attn_q_norm": ("attn.norm_q",),
    "img_attn_k_norm": ("attn.norm_k",),
    "img_attn_proj": ("attn.to_out.0",),
    "img_mlp.fc1": ("ff.net.0.proj",),
    "img_mlp.fc2": ("ff.net.2",),
    "txt_mod.linear": ("norm1_context.linear",),
    "txt_attn_q_norm": ("attn.norm_added_q",),
    "txt_attn_k_norm": ("attn.norm_added_k",),
    "txt_attn_proj": ("attn.to_add_out",),
    "txt_mlp.fc1": ("ff_context.net.0.proj",),
    "txt_mlp.fc2": ("ff_context.net.2",),
}
# What ComfyUI calls modules that it has made its own, in the order in which it renames them.
COMFYUI = {
    "txt_in.t_embedder.mlp.0": "txt_in.t_embedder.in_layer",
    "txt_in.t_embedder.mlp.2": "txt_in.t_embedder.out_layer",
    "txt_in.c_embedder.linear_1": "txt_in.c_embedder.in_layer",
    "txt_in.c_embedder.linear_2": "txt_in.c_embedder.out_layer",
    "_in.mlp.0": "_in.in_layer",
    "_in.mlp.2": "_in.out_layer",
    "_mod.linear": "_mod.lin",
    "modulation.linear": "modulation.lin",
    "_attn_qkv": "_attn.qkv",
    "_attn_proj": "_attn.proj",
    "mlp.fc1": "mlp.0",
    "mlp.fc2": "mlp.2",
}


def renamed(name: str, endings: Mapping[str, str] = COMFYUI) -> str:
    """A name whose ending is replaced; the same name where no ending fits."""
    ending = next((one for one in endings if name.endswith(one)), None)
    return name if ending is None else name.removesuffix(ending) + endings[ending]


def in_blocks(
    theirs: str, ours: str, block: dict[str, tuple[str, ...]]
) -> dict[str, tuple[str, ...]]:
    """A block's table as part of the model's."""
    return {
        f"{theirs}.{{}}.{published}": tuple(f"{ours}.{{}}.{member}" for member in members)
        for published, members in block.items()
    }


_DOUBLE_BLOCK: dict[str, tuple[str, ...]] = {
    "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
    **DOUBLE_BLOCK,
}
# The matrices of a double block as ComfyUI has them, for all that it has of this kind.
COMFYUI_DOUBLE_BLOCKS = in_blocks(
    "double_blocks",
    "transformer_blocks",
    {own: ours for name, ours in _DOUBLE_BLOCK.items() if (own := renamed(name)) != name},
)
HUNYUAN = Names(
    {
        "img_in.proj": ("x_embedder.proj",),
        "time_in.mlp.0": ("time_text_embed.timestep_embedder.linear_1",),
        "time_in.mlp.2": ("time_text_embed.timestep_embedder.linear_2",),
        "guidance_in.mlp.0": ("time_text_embed.guidance_embedder.linear_1",),
        "guidance_in.mlp.2": ("time_text_embed.guidance_embedder.linear_2",),
        "vector_in.in_layer": ("time_text_embed.text_embedder.linear_1",),
        "vector_in.out_layer": ("time_text_embed.text_embedder.linear_2",),
        **TOKEN_REFINER,
        **in_blocks("double_blocks", "transformer_blocks", _DOUBLE_BLOCK),
        **in_blocks(
            "single_blocks",
            "single_transformer_blocks",
            {
                "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
                "linear2": ("proj_out",),
                "q_norm": ("attn.norm_q",),
                "k_norm": ("attn.norm_k",),
                "modulation.linear": ("norm.linear",),
            },
        ),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
        # ComfyUI's own names for what lies in blocks.
        **COMFYUI_DOUBLE_BLOCKS,
        "single_blocks.{}.modulation.lin": ("single_transformer_blocks.{}.norm.linear",),
    },
    swapped=frozenset({"final_layer.adaLN_modulation.1"}),
    shares={"single_blocks.{}.linear1": (1, 1, 1, 4)},
    architecture="hunyuan-video",
)
