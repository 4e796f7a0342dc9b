"""What the parts of Wan2.1's and Wan2.2's transformers are called in Wan-AI's files."""

from maskora.models.names import Names

_ATTENTION = {
    "q": "to_q", "k": "to_k", "v": "to_v", "o": "to_out.0", "norm_q": "norm_q", "norm_k": "norm_k",
}  # fmt: skip
# Only bases that see a picture through CLIP have these.
_PICTURE = {"k_img": "add_k_proj", "v_img": "add_v_proj", "norm_k_img": "norm_added_k"}

WAN = Names(
    {
        "patch_embedding": ("patch_embedding",),
        "time_embedding.0": ("condition_embedder.time_embedder.linear_1",),
        "time_embedding.2": ("condition_embedder.time_embedder.linear_2",),
        "time_projection.1": ("condition_embedder.time_proj",),
        "text_embedding.0": ("condition_embedder.text_embedder.linear_1",),
        "text_embedding.2": ("condition_embedder.text_embedder.linear_2",),
        "img_emb.proj.0": ("condition_embedder.image_embedder.norm1",),
        "img_emb.proj.1": ("condition_embedder.image_embedder.ff.net.0.proj",),
        "img_emb.proj.3": ("condition_embedder.image_embedder.ff.net.2",),
        "img_emb.proj.4": ("condition_embedder.image_embedder.norm2",),
        **{
            f"blocks.{{}}.self_attn.{theirs}": (f"blocks.{{}}.attn1.{ours}",)
            for theirs, ours in _ATTENTION.items()
        },
        **{
            f"blocks.{{}}.cross_attn.{theirs}": (f"blocks.{{}}.attn2.{ours}",)
            for theirs, ours in (_ATTENTION | _PICTURE).items()
        },
        "blocks.{}.norm3": ("blocks.{}.norm2",),
        "blocks.{}.ffn.0": ("blocks.{}.ffn.net.0.proj",),
        "blocks.{}.ffn.2": ("blocks.{}.ffn.net.2",),
        "blocks.{}.modulation": ("blocks.{}.scale_shift_table",),
        "head.head": ("proj_out",),
        "head.modulation": ("scale_shift_table",),
    },
    architecture="wan2.1",
)
