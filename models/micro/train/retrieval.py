"""Which icon is this? Pictures are compared without their background, their place and their size.

The background is the median colour of the rim. What differs from it is the thing drawn; it is moved to the
middle and scaled to one radius (root mean square), then 32 × 32 pixels of colour and mask are compared with
every icon, composed on the same background and treated alike. The distance is the mean absolute difference,
each pixel's cut at 0.4 so that a stray patch costs no more than its area, at the best of nine shifts.
"""

import numpy as np
import torch
import torch.nn.functional as F

from compose import BACKGROUNDS, SIZE, compose

SIDE = 32  # px of a feature
REACH = 2.2  # a feature covers so many radii on each side
CUT = 0.4
NAMES = list(BACKGROUNDS)


def rim_colour(x):
    """[3, H, W] in 0…1 → [3]."""
    sides = (x[:, :3], x[:, -3:], x[:, :, :3], x[:, :, -3:])
    rim = torch.cat([side.flatten(1) for side in sides], 1)  # [3, pixels]
    return rim.median(1).values


def background_of(picture):
    """The name of the palette's colour that is nearest to the rim's."""
    colour = rim_colour(pixels(picture)) * 255
    return min(NAMES, key=lambda n: (colour - torch.tensor(BACKGROUNDS[n])).square().sum().item())


def pixels(picture):
    return torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1).float() / 255  # [3, H, W]


def mask_of(x):
    """[3, H, W] in 0…1 → [H, W]: 1 where something is, 0 on the background."""
    difference = (x - rim_colour(x).view(3, 1, 1)).abs().amax(0)
    return ((difference - 0.06) / 0.12).clamp(0, 1)


def middle(picture):
    """Where the thing drawn lies on average: px from the top, from the left."""
    mask = mask_of(pixels(picture))
    line = torch.arange(SIZE) + 0.5
    total = mask.sum().clamp(min=1)
    return (mask.sum(1) @ line / total).item(), (mask.sum(0) @ line / total).item()


def feature(picture):
    """uint8 [H, W, 3] → [4, SIDE, SIDE]: colours (gray where there is nothing) and the mask."""
    x = pixels(picture)
    mask = mask_of(x)  # [H, W]
    total = mask.sum().clamp(min=1)
    line = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    down, right = torch.meshgrid(line, line, indexing="ij")  # [H, W]
    top, left = (mask * down).sum() / total, (mask * right).sum() / total
    radius = ((mask * ((down - top) ** 2 + (right - left) ** 2)).sum() / total).sqrt().clamp(min=0.1)
    theta = torch.tensor([[[radius * REACH, 0, left], [0, radius * REACH, top]]])
    grid = F.affine_grid(theta, (1, 4, 2 * SIDE, 2 * SIDE), align_corners=False)
    whole = torch.cat([x * mask + 0.5 * (1 - mask), mask[None]])  # [4, H, W]
    whole[:3] -= 0.5  # what lies outside is 0: gray and no mask
    seen = F.grid_sample(whole[None], grid, align_corners=False)
    return F.avg_pool2d(seen, 2)[0]  # [4, SIDE, SIDE]


def shifts(f):
    """[4, S, S] → [9, 4, S, S], moved by up to a pixel."""
    padded = F.pad(f, (1, 1, 1, 1))
    return torch.stack([padded[:, y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)])


class Gallery:
    """Every icon on every background, as features, made when first asked for."""

    def __init__(self, icons):
        self.icons, self.on = icons, {}

    def features(self, background):
        if background not in self.on:
            width = round(SIZE * 0.9)
            place = (SIZE - width) // 2
            composed = (compose(p, background, width, place, place) for p in self.icons.pictures)
            self.on[background] = torch.stack([feature(picture) for picture in composed])
        return self.on[background]  # [N, 4, S, S]

    def distances(self, picture):
        """To every icon, as it would be on this picture's own background: [N]."""
        all_icons = self.features(background_of(picture))
        each = [(all_icons - s).abs().clamp(max=CUT).mean((1, 2, 3)) for s in shifts(feature(picture))]
        return torch.stack(each).amin(0)

    def ranked_concepts(self, distances):
        """Concepts, the nearest first; a concept is as near as its nearest style."""
        best = {}
        for name, d in zip(self.icons.names, distances.tolist()):
            best[name] = min(d, best.get(name, d))
        return sorted(best, key=best.get)

    def nearest_style(self, concept, distances):
        """The style of the concept's nearest icon; None where it has one style only."""
        own = [(d, s) for n, s, d in zip(self.icons.names, self.icons.styles, distances.tolist()) if n == concept]
        return min(own)[1] if len({s for _, s in own}) > 1 else None
