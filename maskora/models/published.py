"""The published bases in numbers: what their configuration files say of sizes. Imports no torch.

For plans on machines that do not have the files. What a file says that is also its class's default
is left out.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskora.files import write_text

Config = dict[str, Any]

UMT5: Config = {
    "vocab_size": 256384, "d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24,
    "num_heads": 64,
}  # fmt: skip
CLIP: Config = {
    "hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32,
    "num_attention_heads": 16, "image_size": 224, "patch_size": 14,
}  # fmt: skip
WAN_VAE: Config = {
    "base_dim": 96, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 2,
    "temperal_downsample": [False, True, True],
}  # fmt: skip
WAN_14B: Config = {
    "num_layers": 40, "num_attention_heads": 40, "attention_head_dim": 128, "in_channels": 36,
    "ffn_dim": 13824,
}  # fmt: skip
WAN_1B: Config = {
    **WAN_14B, "num_layers": 30, "num_attention_heads": 12, "ffn_dim": 8960,
    "image_dim": 1280, "added_kv_proj_dim": 1536,
}  # fmt: skip
WAN21: dict[str, Config] = {
    "transformer": {**WAN_14B, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "vae": WAN_VAE, "text_encoder": UMT5, "image_encoder": CLIP,
}  # fmt: skip
HUNYUAN: dict[str, Config] = {
    "transformer": {
        "num_layers": 20, "num_single_layers": 40, "num_attention_heads": 24,
        "attention_head_dim": 128, "in_channels": 33, "guidance_embeds": False,
        "image_condition_type": "latent_concat",
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 512], "latent_channels": 16, "layers_per_block": 2,
        "scaling_factor": 0.476986, "down_block_types": 4 * ["HunyuanVideoDownBlock3D"],
        "up_block_types": 4 * ["HunyuanVideoUpBlock3D"],
    },
    "text_encoder": {
        "text_config": {
            "vocab_size": 128320, "intermediate_size": 14336, "num_key_value_heads": 8,
        },
        "pad_token_id": 128258, "image_token_index": 128257,
    },
    "text_encoder_2": {
        "vocab_size": 49408, "hidden_size": 768, "intermediate_size": 3072,
        "num_hidden_layers": 12, "num_attention_heads": 12,
    },
}  # fmt: skip
HUNYUAN15: dict[str, Config] = {
    "transformer": {
        "num_layers": 54, "num_attention_heads": 16, "attention_head_dim": 128, "in_channels": 65,
    },
    "vae": {
        "block_out_channels": [128, 256, 512, 1024, 1024], "latent_channels": 32,
        "layers_per_block": 2, "scaling_factor": 1.03682,
    },
    "text_encoder": {
        "vocab_size": 152064, "hidden_size": 3584, "intermediate_size": 18944,
        "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "rope_parameters": {"rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
    },
    "text_encoder_2": {
        "vocab_size": 1510, "d_model": 1472, "d_kv": 64, "d_ff": 3584, "num_layers": 12,
        "num_heads": 6, "feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu_new",
    },
    "image_encoder": {
        "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
        "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Published:
    """A base that a configuration is shipped for.

    Attributes:
        family: one of `FAMILIES`.
        path: its id on the hub.
        parts: part -> what its configuration says.
        frames: of a clip.
        size: as in [video].
        guidance: as in [inference].
        window: as in [motion].
    """

    family: str
    path: str
    parts: dict[str, Config]
    guidance: float
    frames: int = 49
    size: str = "auto"
    window: int = 9

    def settings(self) -> dict[str, dict[str, Any]]:
        """The tables of the configuration that decide about memory."""
        return {
            "model": {"family": self.family, "path": self.path},
            "video": {"frames": self.frames, "size": self.size},
            "motion": {"window": self.window},
            "inference": {"guidance": self.guidance},
        }

    def write(self, folder: Path) -> Path:
        """A model folder of configuration files alone."""
        for part, config in self.parts.items():
            write_text(folder / part / "config.json", json.dumps(config))
        return folder


# By the name of the configuration.
PUBLISHED = {
    "wan2.1-i2v-480p": Published(
        "wan2.1-i2v", "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers", WAN21, guidance=5.0
    ),
    "wan2.1-i2v-720p": Published(
        "wan2.1-i2v", "Wan-AI/Wan2.1-I2V-14B-720P-Diffusers", WAN21, guidance=5.0, frames=29,
        size="auto:1280x720",
    ),
    "wan2.1-fun-1.3b-inp": Published(
        "wan2.1-fun-inp", "weizhou03/Wan2.1-Fun-1.3B-InP-Diffusers",
        {**WAN21, "transformer": WAN_1B}, guidance=5.0,
    ),
    "wan2.2-i2v-a14b": Published(
        "wan2.2-i2v", "Wan-AI/Wan2.2-I2V-A14B-Diffusers",
        {"transformer": WAN_14B, "vae": WAN_VAE, "text_encoder": UMT5}, guidance=3.5,
    ),
    "hunyuan-video-i2v": Published(
        "hunyuan-video-i2v", "hunyuanvideo-community/HunyuanVideo-I2V-33ch", HUNYUAN, guidance=1.0
    ),
    "hunyuan-video-1.5-i2v-480p": Published(
        "hunyuan-video-1.5-i2v", "hunyuanvideo-community/HunyuanVideo-1.5-Diffusers-480p_i2v",
        HUNYUAN15, guidance=6.0,
    ),
}  # fmt: skip
