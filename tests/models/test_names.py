"""A table of names, in both directions."""

from maskora.models.names import Names

NAMES = Names(
    {
        "double_blocks.{}.img_attn_qkv": tuple(f"blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "double_blocks.{}.img_mlp.fc1": ("blocks.{}.ff.net.0.proj",),
        "head.modulation": ("scale_shift_table",),
        "final.1": ("norm_out.linear",),
    },
    swapped=frozenset({"final.1"}),
)


def test_a_name_is_found_from_both_sides_with_its_number() -> None:
    assert NAMES.published("blocks.7.ff.net.0.proj") == "double_blocks.7.img_mlp.fc1"
    assert NAMES.members("double_blocks.12.img_attn_qkv") == (
        "blocks.12.attn.to_q", "blocks.12.attn.to_k", "blocks.12.attn.to_v",
    )  # fmt: skip
    assert NAMES.published("blocks.12.attn.to_k") == "double_blocks.12.img_attn_qkv"
    assert NAMES.published("scale_shift_table") == "head.modulation"


def test_what_the_table_does_not_know_is_none() -> None:
    assert NAMES.published("blocks.x.ff.net.0.proj") is None
    assert NAMES.members("img_attn_qkv") is None


def test_swapped_halves_are_told() -> None:
    assert NAMES.is_swapped("final.1")
    assert not NAMES.is_swapped("head.modulation")
