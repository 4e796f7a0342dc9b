"""A clip for tests: a striped ball that rolls over a drifting meadow, and where it is."""

import cv2
import numpy as np

WIDTH, HEIGHT, FRAMES = 320, 192, 33
RADIUS = 26


def draw_frame(number: int, colour: tuple[int, int, int]) -> np.ndarray:
    """A frame: a striped ball over a drifting meadow; (H, W, 3) uint8."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH].astype(np.float32)
    drift = x + 2.0 * number
    meadow = 96 + 22 * np.sin(drift / 9) * np.cos(y / 7) + 18 * np.sin((drift + 2 * y) / 31)
    frame = np.stack([0.55 * meadow, meadow, 0.45 * meadow], axis=-1)
    centre_x, centre_y = ball_centre(number)
    across, down = (x - centre_x) / RADIUS, (y - centre_y) / RADIUS
    angle = number / 5
    stripe = np.cos(angle) * across + np.sin(angle) * down
    shade = (1.0 - 0.45 * (across**2 + down**2)) * np.where(np.abs(stripe) < 0.3, 1.35, 0.85)
    ball = np.asarray(colour, np.float32) * shade[..., None]
    edge = np.clip((1 - np.hypot(across, down)) * RADIUS + 0.5, 0, 1)[..., None]
    return np.clip(frame * (1 - edge) + ball * edge, 0, 255).astype(np.uint8)


def draw_mask(number: int) -> np.ndarray:
    """The ball's silhouette, (H, W) uint8, 1 inside."""
    mask = np.zeros((HEIGHT, WIDTH), np.uint8)
    x, y = ball_centre(number)
    cv2.circle(mask, (round(x), round(y)), RADIUS + 1, 1, thickness=-1)
    return mask


def ball_centre(number: int) -> tuple[float, float]:
    """Where the ball is in a frame, in pixels."""
    share = number / (FRAMES - 1)
    return 50 + 215 * share, 110 - 45 * float(np.sin(np.pi * share))
