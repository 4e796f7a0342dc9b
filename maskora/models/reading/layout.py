"""What a kind of file is recognised by, and what follows from it."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from maskora.errors import UserError
from maskora.models.names import Names
from maskora.models.reading.translation import Translation, translate
from maskora.models.reading.weights import Weights

# What may stand before all names of a file.
PREFIXES = ("", "model.diffusion_model.", "model.model.", "vision_model.")
DIFFUSERS = r"(single_)?(transformer_)?blocks\.\d+\.attn\d?\.to_q\..*|(en|de)coder\.conv_in\..*"
LORA = r".*[._]lora[._]?(A|B|up|down)\b.*"


@dataclass(frozen=True)
class Layout:
    """One way in which the weights of a part are laid out.

    Attributes:
        marks: regular expressions; of each, a file of this layout has a tensor.
        names: the table of names, which may depend on the tensors' names; None for none.
        config: the configuration of diffusers' or transformers' class, from the shapes.
        told: the configuration in words.
        instead: what to use where a file holds a related model.
        ignore: regular expressions of tensors that are not read.
        others: regular expressions of tensors of related models that do not serve -> what they are.
        other: what a configuration tells of such a model; None where it serves.
    """

    marks: tuple[str, ...]
    names: Callable[[Collection[str]], Names] | Names | None
    config: Callable[[Translation], dict[str, Any]]
    told: Callable[[dict[str, Any]], str]
    instead: str
    ignore: tuple[str, ...] = ()
    others: Mapping[str, str] = field(default_factory=dict)
    other: Callable[[dict[str, Any]], str | None] = lambda config: None


@dataclass(frozen=True)
class Kind:
    """What a part's files turned out to be.

    Attributes:
        translation: its tensors by the module's names.
        config: the module's configuration.
        told: both in words.
    """

    translation: Translation
    config: dict[str, Any]
    told: str


def recognise(weights: Weights, layouts: Collection[Layout], what: str) -> Kind:
    """Find the layout of some weights.

    Args:
        layouts: those that the part may have.
        what: what the part should be, for people.

    Raises:
        UserError: they are none of these, or of a related model that does not serve.
    """
    for prefix in PREFIXES:
        bare = [name.removeprefix(prefix) for name in weights.names if name.startswith(prefix)]
        for layout in layouts:
            if all(_any(mark, bare) for mark in layout.marks):
                return _kind(weights, layout, prefix, bare)
    if _any(LORA, weights.names):
        raise UserError(f"{weights.told} is a LoRA, not {what}: name it in [inference] loras")
    if _any(DIFFUSERS, weights.names):
        raise UserError(
            f"{weights.told} has diffusers' names: name the folder that it belongs to as "
            f"[model] path"
        )
    raise UserError(
        f"{weights.told} is not {what}: is it another part, or another model? (Of HunyuanVideo "
        f"only the transformer may be a single file.)"
    )


def _kind(weights: Weights, layout: Layout, prefix: str, bare: list[str]) -> Kind:
    for pattern, related in layout.others.items():
        if _any(pattern, bare):
            raise UserError(f"{weights.told} is {related}: {layout.instead}")
    names = layout.names(bare) if callable(layout.names) else layout.names
    translation = translate(weights, names, prefix, layout.ignore)
    config = layout.config(translation)
    if other := layout.other(config):
        raise UserError(f"{weights.told} is {other}: {layout.instead}")
    return Kind(translation, config, f"{weights.precision}, {layout.told(config)}")


def _any(pattern: str, names: Iterable[str]) -> bool:
    expression = re.compile(pattern)
    return any(expression.fullmatch(name) for name in names)
