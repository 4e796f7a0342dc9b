"""What is compared: a condition is how a LoRA is trained, what the model is shown, and how long."""

from dataclasses import dataclass
from typing import Literal

from maskora.masks.shapes import MaskShape

Conditioning = Literal["masked", "first-frame"]
Keyframing = Literal["masked", "anchored", "first-frame"]
WINDOW = 9  # frames


@dataclass(frozen=True)
class Training:
    """How the motion LoRA of a clip is trained.

    Attributes:
        conditioning: "masked" is the method, "first-frame" plain image-to-video.
        window: frames per sample, at most.
        recoloured: motion.augment = "colour".
    """

    conditioning: Conditioning = "masked"
    window: int = WINDOW
    recoloured: bool = False


@dataclass(frozen=True)
class Subject:
    """What kind of clip is edited, and where.

    Attributes:
        frames: of the clip.
        evolving: the edit's look changes over the clip.
        mask: the shape of the region that is told to the model.
    """

    frames: int = 9
    evolving: bool = False
    mask: MaskShape = "box"


@dataclass(frozen=True)
class Condition:
    """One way to make the edited clip.

    Attributes:
        training: of the motion LoRA; None for the bare base.
        appearance: how the second stage shows an edited last frame; None without it.
        shown: what the model sees at inference; "truth" and "source" are the edited clip (the
            ceiling) and the untouched one through the autoencoder, and no model.
        blended: the paper's equation 3 at every step (`inference.lock = "latent"`).
    """

    training: Training | None
    subject: Subject = Subject()
    appearance: Keyframing | None = None
    shown: Conditioning | Literal["truth", "source"] = "masked"
    blended: bool = False


NAIVE = Training("first-frame")
EVOLVING, EVOLVING_LONGER = Subject(evolving=True), Subject(frames=13, evolving=True)
CONDITIONS: dict[str, Condition] = {
    "autoencoder": Condition(None, shown="truth"),
    "source": Condition(None, shown="source"),
    "base, plain": Condition(None, shown="first-frame"),
    "base, boxed": Condition(None),
    "naive LoRA": Condition(NAIVE, shown="first-frame"),
    "naive LoRA, blended": Condition(NAIVE, shown="first-frame", blended=True),
    "mask-aware LoRA": Condition(Training()),
    "mask-aware LoRA, masked keyframe": Condition(Training(), appearance="masked"),
    "mask-aware LoRA, anchored keyframe": Condition(Training(), appearance="anchored"),
    "mask-aware LoRA, recoloured": Condition(Training(recoloured=True)),
    "mask-aware LoRA, windows of 5": Condition(Training(window=5)),
    "tight mask": Condition(Training(), Subject(mask="tight")),
    "noisy mask": Condition(Training(), Subject(mask="noisy")),
    "5 frames": Condition(Training(), Subject(frames=5)),
    "13 frames": Condition(Training(), Subject(frames=13)),
    "21 frames": Condition(Training(), Subject(frames=21)),
    "autoencoder, evolving": Condition(None, EVOLVING, shown="truth"),
    "no keyframe": Condition(Training(), EVOLVING),
    "keyframe, masked": Condition(Training(), EVOLVING, "masked"),
    "keyframe, anchored": Condition(Training(), EVOLVING, "anchored"),
    "keyframe, first-frame": Condition(Training(), EVOLVING, "first-frame"),
    "keyframe, masked, 13 frames": Condition(Training(), EVOLVING_LONGER, "masked"),
    "keyframe, anchored, 13 frames": Condition(Training(), EVOLVING_LONGER, "anchored"),
}
