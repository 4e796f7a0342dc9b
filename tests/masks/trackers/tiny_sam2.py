"""A tiny random SAM2 of the real classes, in the folder layout of a published checkpoint."""

import json
from pathlib import Path

import torch
from transformers import Sam2VideoConfig, Sam2VideoModel

SIDE = 64  # of the model's picture, in pixels

CONFIG = {
    "image_size": SIDE,
    "vision_config": {
        "model_type": "sam2_vision_model",
        "backbone_config": {
            "model_type": "sam2_hiera_det_model",
            "hidden_size": 8,
            "num_attention_heads": 1,
            "image_size": [SIDE, SIDE],
            "blocks_per_stage": [1, 2, 1, 1],
            "embed_dim_per_stage": [8, 16, 32, 64],
            "num_attention_heads_per_stage": [1, 1, 2, 2],
            "window_size_per_stage": [4, 4, 2, 2],
            "window_positional_embedding_background_size": [4, 4],
            "global_attention_blocks": [2],
        },
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[SIDE // 4] * 2, [SIDE // 8] * 2, [SIDE // 16] * 2],
        "fpn_hidden_size": 128,
    },
    "prompt_encoder_config": {"hidden_size": 128, "image_size": SIDE, "mask_input_channels": 4},
    "mask_decoder_config": {
        "hidden_size": 128,
        "mlp_dim": 16,
        "num_attention_heads": 2,
        "iou_head_hidden_dim": 16,
        "num_hidden_layers": 2,
    },
    "memory_attention_hidden_size": 128,
    "memory_attention_num_layers": 1,
    "memory_attention_feed_forward_hidden_size": 16,
    "memory_attention_rope_feat_sizes": [SIDE // 16, SIDE // 16],
    "memory_encoder_hidden_size": 128,
    "memory_encoder_output_channels": 64,
    "mask_downsampler_embed_dim": 128,
    "memory_fuser_embed_dim": 128,
    "memory_fuser_intermediate_dim": 16,
}

# As in the published folders; a mean and a std that no default has.
PREPARATION = {
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.25, 0.3],
    "resample": 2,
    "rescale_factor": 1 / 255,
    "size": {"height": SIDE, "width": SIDE},
    "video_processor_type": "Sam2VideoVideoProcessor",
}


def write_tiny_sam2(folder: Path) -> None:
    """Random weights, those too that start as zeros; it always thinks that the object is there.

    Its norms leave values as they are: what is remembered changes its masks visibly.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Sam2VideoModel(Sam2VideoConfig(**CONFIG))
        for name, parameter in model.named_parameters():
            if "norm" in name and name.endswith("weight"):
                torch.nn.init.ones_(parameter)
            else:
                torch.nn.init.normal_(parameter, std=0.1)
        torch.nn.init.constant_(model.mask_decoder.pred_obj_score_head.proj_out.bias, 20.0)
    model.save_pretrained(folder)
    (folder / "video_preprocessor_config.json").write_text(json.dumps(PREPARATION))
