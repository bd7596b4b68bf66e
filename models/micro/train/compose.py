"""An icon on a plain background: the pictures that everything here trains on and is judged by."""

import numpy as np
from PIL import Image

SIZE = 128  # px, both sides

BACKGROUNDS = {
    "white": (255, 255, 255),
    "black": (24, 24, 28),
    "red": (214, 48, 49),
    "green": (46, 160, 67),
    "blue": (52, 120, 220),
    "yellow": (250, 211, 60),
    "orange": (245, 140, 40),
    "purple": (130, 80, 200),
    "pink": (250, 160, 190),
    "gray": (128, 132, 138),
}


def compose(rgba, background, width, top, left):
    """The icon `width` px wide at `top`, `left` (px), cut where it lies outside: uint8 [SIZE, SIZE, 3]."""
    icon = Image.fromarray(rgba).resize((width, width), Image.LANCZOS)  # Pillow weighs colours by alpha
    icon = np.asarray(icon).astype(np.float32)[max(0, -top) : SIZE - top, max(0, -left) : SIZE - left]
    picture = np.empty((SIZE, SIZE, 3), np.float32)
    picture[:] = BACKGROUNDS[background]
    top, left = max(0, top), max(0, left)
    box = picture[top : top + icon.shape[0], left : left + icon.shape[1]]
    box += (icon[..., :3] - box) * (icon[..., 3:] / 255)
    return picture.round().astype(np.uint8)


def random_composition(rgba, background, rng, smallest=0.8):
    """A random scale of at least `smallest`, at a random place."""
    width = round(SIZE * rng.uniform(smallest, 1))
    room = SIZE - width
    return compose(rgba, background, width, rng.randint(0, room), rng.randint(0, room))


def framed_composition(rgba, background, rng, cropped=True):
    """A composition with SDXL's time ids (original height, width, crop top, left, target height, width).

    Six of seven are whole pictures: the icon in the middle, at 0.84 to 0.96 of the size, up to 4 px off. The
    others are crops (none without `cropped`): the picture was larger (up to 192 px), the icon in its middle, and was
    cut at `top`, `left`.
    """
    width = round(SIZE * rng.uniform(0.84, 0.96))
    room = SIZE - width
    height_px, width_px, top, left = SIZE, SIZE, 0, 0
    if cropped and rng.randrange(7) == 0:
        height_px, width_px = rng.randint(SIZE, 192), rng.randint(SIZE, 192)
        top, left = rng.randint(0, height_px - SIZE), rng.randint(0, width_px - SIZE)
    y = (height_px - width) // 2 - top
    x = (width_px - width) // 2 - left
    if (height_px, width_px) == (SIZE, SIZE):
        y, x = (min(max(0, place + rng.randint(-4, 4)), room) for place in (y, x))
    return compose(rgba, background, width, y, x), [height_px, width_px, top, left, SIZE, SIZE]


def to_tensor(pictures):
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in −1…1."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1  # [B, 3, H, W]
