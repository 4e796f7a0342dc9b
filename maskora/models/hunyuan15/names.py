"""What the parts of HunyuanVideo-1.5's transformer are called in Tencent's files."""

from maskora.models.hunyuan.names import (
    COMFYUI_DOUBLE_BLOCKS,
    DOUBLE_BLOCK,
    TOKEN_REFINER,
    in_blocks,
)
from maskora.models.names import Names

HUNYUAN15 = Names(
    {
        "img_in.proj": ("x_embedder.proj",),
        "time_in.mlp.0": ("time_embed.timestep_embedder.linear_1",),
        "time_in.mlp.2": ("time_embed.timestep_embedder.linear_2",),
        **TOKEN_REFINER,
        "byt5_in.layernorm": ("context_embedder_2.norm",),
        "byt5_in.fc1": ("context_embedder_2.linear_1",),
        "byt5_in.fc2": ("context_embedder_2.linear_2",),
        "byt5_in.fc3": ("context_embedder_2.linear_3",),
        "vision_in.proj.0": ("image_embedder.norm_in",),
        "vision_in.proj.1": ("image_embedder.linear_1",),
        "vision_in.proj.3": ("image_embedder.linear_2",),
        "vision_in.proj.4": ("image_embedder.norm_out",),
        "cond_type_embedding": ("cond_type_embed",),
        **in_blocks(
            "double_blocks",
            "transformer_blocks",
            {
                **{f"img_attn_{x}": (f"attn.to_{x}",) for x in "qkv"},
                **{f"txt_attn_{x}": (f"attn.add_{x}_proj",) for x in "qkv"},
                **DOUBLE_BLOCK,
            },
        ),
        "final_layer.adaLN_modulation.1": ("norm_out.linear",),
        "final_layer.linear": ("proj_out",),
    },
    swapped=frozenset({"final_layer.adaLN_modulation.1"}),
    architecture="hunyuan-video-1.5",
    # Tencent keeps q, k and v apart; ComfyUI fuses them when it loads the model.
    comfyui=Names(COMFYUI_DOUBLE_BLOCKS),
)
