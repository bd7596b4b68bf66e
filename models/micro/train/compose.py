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


def framed_composition(rgba, background, rng, conditioned=True):
    """A composition with SDXL's time ids (original height, width, crop top, left, target height, width).

    Nine of sixteen (all, without `conditioned`) are whole pictures: the icon in the middle, at 0.84 to 0.96 of the
    size, up to 4 px off. Five are crops: the picture was larger (up to 192 px), the icon in its middle, and was cut
    at `top`, `left`, half of the time at an end, where the crop tells most. Two were small (24 to 96 px) and
    enlarged, so they are blurred, as in Podell et al. 2023, 2.2.
    """
    width = round(SIZE * rng.uniform(0.84, 0.96))
    room = SIZE - width
    kind = rng.randrange(16) if conditioned else 0
    if kind < 9 or kind >= 14:
        y, x = (min(max(0, room // 2 + rng.randint(-4, 4)), room) for _ in range(2))
        picture = compose(rgba, background, width, y, x)
        small = rng.randint(24, 96) if kind >= 14 else SIZE
        return enlarged(picture, small), [small, small, 0, 0, SIZE, SIZE]
    height_px, width_px = (rng.choice((SIZE, rng.randint(144, 192), 192)) for _ in range(2))
    top, left = (rng.choice((0, *(rng.randint(0, n - SIZE) for _ in range(2)), n - SIZE)) for n in (height_px, width_px))
    picture = compose(rgba, background, width, (height_px - width) // 2 - top, (width_px - width) // 2 - left)
    return picture, [height_px, width_px, top, left, SIZE, SIZE]


def enlarged(picture, small):
    """The picture as one of `small` px would look at its size."""
    if small == SIZE:
        return picture
    image = Image.fromarray(picture)
    return np.asarray(image.resize((small, small), Image.BICUBIC).resize((SIZE, SIZE), Image.BICUBIC))


def to_tensor(pictures):
    """uint8 [B, H, W, 3] → float32 [B, 3, H, W] in −1…1."""
    import torch

    x = torch.from_numpy(np.ascontiguousarray(np.stack(pictures)))
    return x.permute(0, 3, 1, 2).float() / 127.5 - 1  # [B, 3, H, W]
