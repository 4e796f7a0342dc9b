"""A scene of the miniature's world with corners to follow: a sprite before a panning background."""

from maskora.miniature.world import Backdrop, Look, Scene, Sprite, SpriteMotion, Wave

BACKDROP = Backdrop(
    (0.45, 0.5, 0.4),
    (Wave((5.0, 2.0), 0.1, (0.2, 0.1, 0.1)), Wave((-3.0, 6.0), 0.4, (0.1, 0.2, 0.15))),
    (0.08, 0.04),
)
SPRITE = Sprite(
    Look("square", "halves", 0.6), SpriteMotion((0.3, 0.4), (0.3, 0.1), 0.3, 1.0, 0.0), 0.12
)
SCENE = Scene(BACKDROP, (SPRITE,))
