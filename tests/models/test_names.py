"""A table of names, in both directions."""

from maskora.models.names import Names

NAMES = Names(
    {
        "double_blocks.{}.img_attn_qkv": tuple(f"blocks.{{}}.attn.to_{x}" for x in "qkv"),
        "double_blocks.{}.img_mlp.fc1": ("blocks.{}.ff.net.0.proj",),
        "head.modulation": ("scale_shift_table",),
        "final.1": ("norm_out.linear",),
        "single_blocks.{}.linear1": ("singles.{}.to_q", "singles.{}.proj_mlp"),
        "double_blocks.{}.img_mlp.0": ("blocks.{}.ff.net.0.proj",),
    },
    swapped=frozenset({"final.1"}),
    shares={"single_blocks.{}.linear1": (1, 4)},
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
    assert NAMES.underscored.is_swapped("final_1")


def test_members_divide_the_rows_alike_or_as_the_table_says() -> None:
    assert NAMES.divide("double_blocks.3.img_attn_qkv", 12) == (4, 4, 4)
    assert NAMES.divide("single_blocks.0.linear1", 10) == (2, 8)
    assert NAMES.underscored.divide("single_blocks_0_linear1", 10) == (2, 8)
    assert NAMES.divide("double_blocks.3.img_attn_qkv", 13) is None


def test_names_without_dots_are_found_by_the_table_alone() -> None:
    assert NAMES.underscored.members("double_blocks_7_img_mlp_fc1") == ("blocks.7.ff.net.0.proj",)
    assert NAMES.underscored.published("blocks.7.attn.to_v") == "double_blocks_7_img_attn_qkv"


def test_the_first_of_several_names_is_the_publishers() -> None:
    assert NAMES.members("double_blocks.7.img_mlp.0") == ("blocks.7.ff.net.0.proj",)
    assert NAMES.published("blocks.7.ff.net.0.proj") == "double_blocks.7.img_mlp.fc1"
