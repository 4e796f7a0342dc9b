"""The claims: the conditions that are compared, the figures that decide, and the rule of the marks.

A claim is a difference between two conditions in its headline figures. Of some only "no worse" is
claimed: there a difference within the margin is allowed. A condition is how a LoRA is trained, what
the model is shown, and how long the clip is.

On edits of the shape alone a clip that turns back into its source has the right colours in nearly
the right place, so figures that such a clip would win are asked of edits of the hue.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from scipy import stats

from maskora.config.tables import MaskShape, Transfer
from research.miniature.gate import CHANGES

FIRST, FIRST_TO_CHOOSE = 3000, 6000  # numbers of cases: those reported, those chosen on
CONFIDENCE = 0.95
Conditioning = Literal["masked", "first-frame"]
Keyframing = Literal["masked", "anchored", "first-frame"]
WINDOW = 9  # frames


@dataclass(frozen=True)
class Training:
    """The training of a clip's motion LoRA.

    Attributes:
        conditioning: "masked" is the method, "first-frame" plain image-to-video.
        window: frames per sample, at most.
        recoloured: motion.augment = "colour".
        gridded: motion.masking = "grid".
        late: the LoRA is in the later half of the blocks alone.
        removing: motion.task = "remove".
    """

    conditioning: Conditioning = "masked"
    window: int = WINDOW
    recoloured: bool = False
    gridded: bool = False
    late: bool = False
    removing: bool = False


@dataclass(frozen=True)
class Subject:
    """A kind of clip, and the region that is edited in it.

    Attributes:
        frames: of the clip.
        evolving: the edit's look changes over the clip.
        mask: the shape of the region that the model is shown.
        removing: the sprite is taken away: the background is what is wanted.
    """

    frames: int = 9
    evolving: bool = False
    mask: MaskShape = "box"
    removing: bool = False


FROM_NOISE = Transfer()
INVERTED = Transfer(start="inverted")
LOOKING = Transfer(start="inverted", attention="qk", attention_share=0.8)  # as the source looks
ATTENDING = Transfer(attention="qk", attention_share=0.8)  # the same, but from noise
ALIKE = Transfer(start="inverted", attention="difference", attention_share=0.8, smooth_noise=0.005)
ANYV2V = Transfer(
    start="inverted", attention="qk", attention_share=0.5, attention_blocks=(0.33, 1.0),
    features_share=0.2, features_blocks=(0.3, 0.45),
)  # fmt: skip
CARRIED = Transfer(start="flow", start_level=0.8)


@dataclass(frozen=True)
class Condition:
    """One way to make the edited clip.

    Attributes:
        training: of the motion LoRA; None for the bare base.
        appearance: how the second stage shows an edited last frame; None without it.
        shown: what the model sees at inference; "truth" and "source" are the edited clip (the
            ceiling) and the untouched one through the autoencoder, and no model.
        blended: the paper's equation 3 at every step (`inference.lock = "latent"`).
        transfer: what of the source denoising starts from, and takes on its way.
    """

    training: Training | None
    subject: Subject = Subject()
    appearance: Keyframing | None = None
    shown: Conditioning | Literal["truth", "source"] = "masked"
    blended: bool = False
    transfer: Transfer = FROM_NOISE


NAIVE = Training("first-frame")
LONGER = 21, 49  # frames
FEWER = {49: (8, 1)}  # frames -> scenes and seeds at most: one such clip takes as long as ten of 9
EVOLVING, EVOLVING_LONGER = Subject(evolving=True), Subject(frames=13, evolving=True)
REMOVING = Subject(removing=True)
PRESETS: dict[str, Condition] = {  # configs/presets, and the bare base
    "base, plain": Condition(None, shown="first-frame"),
    "base, boxed": Condition(None),
    "naive LoRA": Condition(NAIVE, shown="first-frame"),
    "naive LoRA, blended": Condition(NAIVE, shown="first-frame", blended=True),
    "anyv2v": Condition(None, shown="first-frame", transfer=ANYV2V),
    "i2vedit": Condition(NAIVE, shown="first-frame", transfer=ALIKE),
    "instant": Condition(None, transfer=LOOKING),
    "mask-aware LoRA": Condition(Training()),
    "mask-aware LoRA, looking": Condition(Training(), transfer=LOOKING),
    "mask-aware LoRA, attending": Condition(Training(), transfer=ATTENDING),
}


def at_length(name: str, frames: int) -> str:
    """What a preset's condition is called on clips of so many frames."""
    return name if frames == Subject().frames else f"{name}, {frames} frames"


CONDITIONS: dict[str, Condition] = {
    "autoencoder": Condition(None, shown="truth"),
    "source": Condition(None, shown="source"),
    **PRESETS,
    **{
        at_length(name, frames): replace(condition, subject=Subject(frames=frames))
        for frames in LONGER
        for name, condition in {"autoencoder": Condition(None, shown="truth"), **PRESETS}.items()
    },
    "mask-aware LoRA, masked keyframe": Condition(Training(), appearance="masked"),
    "mask-aware LoRA, anchored keyframe": Condition(Training(), appearance="anchored"),
    "mask-aware LoRA, recoloured": Condition(Training(recoloured=True)),
    "mask-aware LoRA, gridded": Condition(Training(gridded=True)),
    "mask-aware LoRA, late blocks": Condition(Training(late=True)),
    "mask-aware LoRA, windows of 5": Condition(Training(window=5)),
    "tight mask": Condition(Training(), Subject(mask="tight")),
    "noisy mask": Condition(Training(), Subject(mask="noisy")),
    "5 frames": Condition(Training(), Subject(frames=5)),
    "13 frames": Condition(Training(), Subject(frames=13)),
    "mask, inverted": Condition(None, transfer=INVERTED),
    "mask, carried along the flow": Condition(None, transfer=CARRIED),
    "naive LoRA, inverted": Condition(NAIVE, shown="first-frame", transfer=INVERTED),
    "mask-aware LoRA, inverted": Condition(Training(), transfer=INVERTED),
    "mask, attending": Condition(None, transfer=ATTENDING),
    "autoencoder, evolving": Condition(None, EVOLVING, shown="truth"),
    "no keyframe": Condition(Training(), EVOLVING),
    "keyframe, masked": Condition(Training(), EVOLVING, "masked"),
    "keyframe, looking": Condition(Training(), EVOLVING, "masked", transfer=LOOKING),
    "keyframe, anchored": Condition(Training(), EVOLVING, "anchored"),
    "keyframe, anchored, attending": Condition(
        Training(), EVOLVING, "anchored", transfer=ATTENDING
    ),
    "keyframe, first-frame": Condition(Training(), EVOLVING, "first-frame"),
    "keyframe, masked, 13 frames": Condition(Training(), EVOLVING_LONGER, "masked"),
    "keyframe, anchored, 13 frames": Condition(Training(), EVOLVING_LONGER, "anchored"),
    "autoencoder, removal": Condition(None, REMOVING, shown="truth"),
    "removal, base": Condition(None, REMOVING),
    "removal, plain LoRA": Condition(Training(), REMOVING),
    "removal": Condition(Training(removing=True), REMOVING),
}


Mark = Literal["reproduced", "not reproduced", "undecided"]
BETTER: dict[str, int] = {
    "hit": 1, "strict": 1, "centroid": -1, "angle": -1, "inside_db": 1, "background_db": 1,
    "grown": 1, "faded": -1, "evolved": 1, "early_db": 1, "late_db": 1,
}  # fmt: skip
POSE = ("angle", "strict", "centroid", "background_db")
SHAPES, HUES = ("shape", "hue+shape"), ("hue", "hue+shape")
ALL = ("hue", "shape", "hue+shape")


@dataclass(frozen=True)
class Comparison:
    """One condition against another.

    Attributes:
        ours, other: names of conditions; ours is claimed to be the better one.
        headline: the figures that decide.
        margins: of a figure, by how much ours may be worse.
        kinds: of edits that count.
        beside: conditions whose figures stand beside these.
    """

    ours: str
    other: str
    headline: tuple[str, ...]
    margins: Mapping[str, float] = field(default_factory=dict)
    kinds: tuple[str, ...] = ALL
    beside: tuple[str, ...] = ()


@dataclass(frozen=True)
class Claim:
    """A claim of the paper, or one of ours.

    Attributes:
        source: where it stands.
        says: the claim in a sentence.
        note: what a reader of its marks should know.
    """

    number: int
    title: str
    source: str
    says: str
    comparisons: tuple[Comparison, ...]
    note: str = ""

    @property
    def groups(self) -> dict[tuple[str, ...], list[str]]:
        """Kinds of edits, and the conditions that are reported on them."""
        found: dict[tuple[str, ...], set[str]] = {}
        for each in self.comparisons:
            found.setdefault(each.kinds, set()).update((each.ours, each.other, *each.beside))
        order = list(CONDITIONS)
        return {kinds: sorted(names, key=order.index) for kinds, names in found.items()}


LOOK, BOUNDS = ("evolved", "late_db"), ("autoencoder", "source")
FEW = (
    "The mark hangs on *evolved*, which differs by little: in an earlier run, whose second stage "
    "had other recipes and the first one's seeds, it was undecided."
)
WITHIN = (
    'Where "no worse" is claimed, a difference may be certain and lie within its margin, or be '
    "about as large: read the figures."
)
CLAIMS = (
    Claim(
        1, "Mask-aware LoRA against naive LoRA and the bare base", "sections 3.3 and 4.3",
        "A LoRA trained with the spatiotemporal mask carries the edit along with the source's "
        "motion and leaves the rest alone; one trained as plain image-to-video, or none, does not.",
        (
            Comparison(
                "mask-aware LoRA", "naive LoRA", ("centroid", "background_db"),
                kinds=HUES, beside=BOUNDS,
            ),
            Comparison("mask-aware LoRA", "naive LoRA", ("angle", "strict"), kinds=HUES),
            Comparison("mask-aware LoRA", "base, plain", POSE, kinds=HUES),
            # The mask alone tells where the sprite is: the LoRA's part is the motion within.
            Comparison("mask-aware LoRA", "base, boxed", ("angle", "strict"), kinds=HUES),
        ),
    ),
    Claim(
        2, "The mask at the input against the mask in the features", "appendix B.1, table 3",
        "Conditioning on the mask gives better clips than a naive LoRA whose latents are blended "
        "with the source's at every step (equation 3).",
        (Comparison(
            "mask-aware LoRA", "naive LoRA, blended", ("strict", "inside_db", "background_db"),
            kinds=HUES, beside=BOUNDS,
        ),),
        "The mark hangs on the background, which blending copies by construction.",
    ),
    Claim(
        3, "Box, tight and noisy masks where the shape changes", "appendix B.2",
        "Loose masks, a box or a noisy one, let the new shape grow beyond the old outline, into "
        "which a tight one forces it.",
        (
            Comparison(
                "mask-aware LoRA", "tight mask", ("grown",), kinds=SHAPES, beside=BOUNDS
            ),
            Comparison("noisy mask", "tight mask", ("grown",), kinds=SHAPES),
        ),
        "In pictures of 64x64 a noisy mask is no larger than a tight one, and the latent cells of "
        "either leave most of the pixels beyond the outline free: what is tested is the emptied "
        "picture, not the latent mask, and of noisy masks not that they are loose.",
    ),
    Claim(
        4, "Appearance stage with its mask against plain image-to-video", "appendix B.3",
        "Without a mask the second stage learns to copy the frame that it is shown, and the look "
        "of the later keyframe does not come.",
        (Comparison("keyframe, masked", "keyframe, first-frame", LOOK, beside=("no keyframe",)),),
        FEW,
    ),
    Claim(
        5, "Longer clips", "appendix B.4",
        "How well the clip keeps to the edited first frame stays the same with its length: 5, 9 "
        "(the plain mask-aware LoRA), 13, 21 and 49 frames, trained on windows of at most 9.",
        tuple(
            Comparison(name, "5 frames", ("hit",), {"hit": 0.1}, HUES)
            for name in ("mask-aware LoRA", "13 frames", "mask-aware LoRA, 21 frames",
                         "mask-aware LoRA, 49 frames")
        ),
        f"{WITHIN} The base itself saw mostly 9 frames, and few clips of 21, when it was "
        "pretrained.",
    ),
    Claim(
        6, "Windows against the full clip", "appendix C.1",
        "Training on short overlapping windows is as good as training on the whole clip.",
        (Comparison(
            "mask-aware LoRA, windows of 5", "mask-aware LoRA", POSE,
            {"angle": 10.0, "strict": 0.05, "centroid": 0.5, "background_db": 0.5}, HUES,
        ),),
        WITHIN,
    ),
    Claim(
        7, "With and without a later keyframe", "section 4.3, figure 7",
        "Where the look evolves, an edited later frame brings the last frames nearer to it.",
        (Comparison("keyframe, masked", "no keyframe", LOOK, beside=("autoencoder, evolving",)),),
        FEW,
    ),
    Claim(
        8, "Training on recoloured sources", 'an addition of ours, motion.augment = "colour"',
        "A LoRA turns edits of the hue back towards the source; trained on recoloured sources it "
        "lets more of such an edit come through, at little cost to motion and background.",
        (
            Comparison("base, boxed", "mask-aware LoRA", ("faded",), kinds=HUES, beside=BOUNDS),
            Comparison(
                "mask-aware LoRA, recoloured", "mask-aware LoRA", ("faded", "hit", "strict"),
                kinds=HUES,
            ),
            Comparison(
                "mask-aware LoRA, recoloured", "mask-aware LoRA",
                ("angle", "centroid", "background_db"),
                {"angle": 10.0, "centroid": 0.5, "background_db": 0.5}, HUES,
            ),
        ),
        "Few pixels turn back, in few scenes; what recolouring mends is mostly something else. It "
        "imitates edits of the hue: other kinds of edit were not tried.",
    ),
    Claim(
        9, "A keyframe at its time after the edited first frame",
        'an addition of ours, appearance.conditioning = "anchored"',
        "A keyframe that is learned at its time after the edited first frame, instead of alone, "
        "brings the last frames nearer to it, at little cost to earlier frames, motion and "
        "background.",
        (
            Comparison("keyframe, anchored", "keyframe, masked", LOOK, beside=("no keyframe",)),
            Comparison(
                "keyframe, anchored", "keyframe, masked", ("early_db",), {"early_db": 0.5}
            ),
            Comparison("keyframe, anchored, 13 frames", "keyframe, masked, 13 frames", LOOK),
            Comparison(
                "keyframe, anchored, 13 frames", "keyframe, masked, 13 frames", ("early_db",),
                {"early_db": 0.5},
            ),
            # Where the look does not evolve: else angle and centroid tell of the look, too.
            Comparison(
                "mask-aware LoRA, anchored keyframe", "mask-aware LoRA, masked keyframe",
                ("angle", "centroid", "background_db"),
                {"angle": 10.0, "centroid": 0.5, "background_db": 0.5}, HUES,
                beside=("mask-aware LoRA",),
            ),
        ),
    ),
    Claim(
        10, "The source's inverted noise with the mask, and no training", "an addition of ours",
        "A base that is shown the mask and begins at the noise that gives the source keeps the "
        "source's motion without training: no worse than a mask-aware LoRA from noise, and on a "
        "longer clip better.",
        (
            Comparison("mask, inverted", "base, boxed", ("angle", "strict"), kinds=HUES),
            Comparison("instant", "mask, inverted", ("angle", "strict"), kinds=HUES),
            Comparison(
                "instant", "mask-aware LoRA", POSE,
                {"angle": 10.0, "strict": 0.05, "centroid": 0.5, "background_db": 0.5}, HUES,
                beside=("mask, carried along the flow",),
            ),
            *(
                Comparison(f"instant, {frames} frames", f"mask-aware LoRA, {frames} frames", POSE,
                           kinds=HUES, beside=(f"base, boxed, {frames} frames",))
                for frames in LONGER
            ),
        ),
    ),
    Claim(
        11, "A mask-aware LoRA and the inverted noise together", "an addition of ours",
        "A LoRA with the source's inverted noise and its queries and keys is better than the LoRA "
        "from noise, and than the noise without a LoRA.",
        (
            Comparison("mask-aware LoRA, inverted", "mask-aware LoRA", POSE, kinds=HUES),
            Comparison("mask-aware LoRA, looking", "mask-aware LoRA", POSE, kinds=HUES),
            Comparison("mask-aware LoRA, looking", "instant", POSE, kinds=HUES),
            *(
                Comparison(f"mask-aware LoRA, looking, {frames} frames",
                           f"mask-aware LoRA, {frames} frames", POSE, kinds=HUES)
                for frames in LONGER
            ),
        ),
    ),
    Claim(
        12, "What it costs an edit's colours, shape and later looks", "a question of ours",
        "What is taken from the source does not bring the source's colours or outline back, nor "
        "hold back a look that evolves.",
        (
            Comparison("instant", "mask-aware LoRA", ("faded",), {"faded": 0.02}, HUES,
                       beside=BOUNDS),
            Comparison("instant", "mask-aware LoRA", ("grown",), {"grown": 0.05}, SHAPES,
                       beside=BOUNDS),
            Comparison("keyframe, looking", "keyframe, masked", ("evolved",), {"evolved": 0.05}),
        ),
    ),
    Claim(
        13, "AnyV2V's way, and I2VEdit's", "AnyV2V, section 4; I2VEdit, section 3",
        "Without a mask, inverted noise with what is taken from the source is better than the "
        "bare base (AnyV2V), and than a LoRA alone (I2VEdit).",
        (
            Comparison("anyv2v", "base, plain", POSE, kinds=HUES),
            Comparison("i2vedit", "naive LoRA", POSE, kinds=HUES),
            Comparison("i2vedit", "naive LoRA, inverted", POSE, kinds=HUES),
        ),
        "Their numbers are those of their papers, carried over to a transformer as far as there is "
        "something to take them for.",
    ),
    Claim(
        14, "Masks by a grid, and fewer blocks", "IVEDiff, section 4.3; I2VEdit, section 3.1",
        "A LoRA that has also seen grids of masked cells, or that is in the later blocks alone, "
        "carries the edit better.",
        (
            Comparison("mask-aware LoRA, gridded", "mask-aware LoRA", POSE, kinds=HUES),
            Comparison("mask-aware LoRA, late blocks", "mask-aware LoRA", POSE, kinds=HUES),
        ),
    ),
    Claim(
        15, "Taking a thing away", "VIVID-10M, section 3.2",
        "A LoRA that learns from the mask's track over background, the thing itself neither shown "
        "nor asked for, paints the background where the thing was; the plain recipe has learned "
        "to paint the thing.",
        (
            Comparison("removal", "removal, plain LoRA", ("inside_db",),
                       beside=("autoencoder, removal",)),
            Comparison("removal", "removal, base", ("inside_db",)),
        ),
        "*inside* is the PSNR to the true background within the box; the figures of an edited "
        "sprite say nothing here. The first frame without the thing is given.",
    ),
    Claim(
        16, "The source's queries and keys, from noise", "an addition of ours",
        "From noise, the source's queries and keys bring its motion, too, and let more of a new "
        "shape come through than from its inverted noise, and no less of a look that evolves.",
        (
            Comparison("mask, attending", "base, boxed", ("angle", "strict"), kinds=HUES,
                       beside=("instant",)),
            Comparison("mask-aware LoRA, attending", "mask-aware LoRA", POSE, kinds=HUES,
                       beside=("mask-aware LoRA, looking",)),
            Comparison("mask-aware LoRA, attending", "mask-aware LoRA, looking", ("grown",),
                       kinds=SHAPES, beside=BOUNDS),
            Comparison("keyframe, anchored, attending", "keyframe, anchored", ("evolved",),
                       {"evolved": 0.05}, beside=("keyframe, looking",)),
        ),
        "Thought of when the picture of `maskora demo` was made, on a scene of its own.",
    ),
)  # fmt: skip
MAIN = 1, 2, 10, 11, 12, 13, 16  # claims that are asked of a second base, too


@dataclass(frozen=True)
class Interval:
    """A mean over scenes, and where it may lie: a 95 % interval of Student's t."""

    mean: float
    low: float
    high: float

    def toward(self, better: int, border: float) -> int:
        """1 where all of it is better than a border, -1 where all is worse, 0 where it holds it.

        Args:
            better: 1 where more is better, -1 where less is.
            border: in the direction of better.
        """
        worst, best = sorted((better * self.low, better * self.high))
        return int(worst > border) - int(best < border)


def interval(values: Sequence[float]) -> Interval:
    """Of the mean of independent values, one a scene; NaN where a scene tells nothing.

    With fewer than two scenes that tell something, nothing is known: all of it is NaN.
    """
    known = np.array(values)[~np.isnan(values)]
    if len(known) < 2:
        return Interval(np.nan, np.nan, np.nan)
    mean = float(known.mean())
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(known) - 1) * stats.sem(known))
    return Interval(mean, mean - half, mean + half)


def by_scene(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    """Values by (scene, seed) as means over seeds: a scene counts once, however often it is run."""
    scenes = dict.fromkeys(scene for scene, _ in values)
    return {
        scene: float(np.mean([value for (where, _), value in values.items() if where == scene]))
        for scene in scenes
    }


def paired(
    ours: Mapping[tuple[int, int], float], other: Mapping[tuple[int, int], float]
) -> dict[int, float]:
    """Ours minus other per scene; both hold the same (scene, seed)."""
    assert ours.keys() == other.keys()
    return by_scene({key: ours[key] - other[key] for key in ours})


def kind(number: int) -> str:
    """The change that a case makes: "hue", "shape" or "hue+shape"."""
    return "+".join(CHANGES[number % len(CHANGES)])


def mark(comparison: Comparison, differences: Mapping[str, Interval]) -> Mark:
    """Reproduced where every headline figure's interval lies wholly on the claimed side.

    Not reproduced where one lies wholly on the other side; undecided else.

    Args:
        differences: ours minus other, by figure.
    """
    allowed = [
        differences[figure].toward(BETTER[figure], -comparison.margins.get(figure, 0.0))
        for figure in comparison.headline
    ]
    if any(side < 0 for side in allowed):
        return "not reproduced"
    return "reproduced" if all(side > 0 for side in allowed) else "undecided"


def scenes_of(kinds: Sequence[str], scenes: int, frames: int = 0) -> list[int]:
    """Numbers of the first cases that are of some kinds; of long clips there are fewer.

    Args:
        frames: of the clips.
    """
    scenes = min(scenes, FEWER.get(frames, (scenes,))[0])
    numbers = range(FIRST, FIRST + len(ALL) * scenes)
    return [number for number in numbers if kind(number) in kinds][:scenes]


def keys(
    claims: Sequence[Claim], scenes: int, seeds: int, tables: bool = False
) -> list[tuple[str, int, int]]:
    """All clips that claims need: (condition, scene, seed).

    Args:
        tables: those of the presets' tables, too.
    """
    wanted = [
        (kinds, name) for claim in claims for kinds, names in claim.groups.items() for name in names
    ]
    if tables:
        named = ("autoencoder", *PRESETS)
        wanted += [(HUES, at_length(name, n)) for n in (WINDOW, *LONGER) for name in named]
    return list(
        dict.fromkeys(
            (name, scene, seed)
            for kinds, name in wanted
            for frames in (CONDITIONS[name].subject.frames,)
            for scene in scenes_of(kinds, scenes, frames)
            for seed in range(min(seeds, FEWER.get(frames, (0, seeds))[1]))
        )
    )
