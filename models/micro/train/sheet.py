"""A contact sheet of what a model draws: held-out pairs in the last row.

    python sheet.py DATA MODEL OUT.png [--columns 8 --rows 4 --seed 0]
"""

import argparse
import random
from pathlib import Path

import torch
from PIL import Image

from cache import Icons
from captions import question
from compose import BACKGROUNDS, SIZE
from draw import Drawer
from split import held_out_backgrounds, trained_backgrounds


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "model", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--columns", type=int, default=8)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    icons, rng = Icons(args.data), random.Random(args.seed)
    prompts = []
    while len(prompts) < args.columns * args.rows:
        choose = held_out_backgrounds if len(prompts) >= args.columns * (args.rows - 1) else trained_backgrounds
        i = rng.randrange(len(icons))
        if backgrounds := choose(icons.names[i], BACKGROUNDS):
            prompts.append(question(icons.names[i], icons.styles[i], rng.choice(backgrounds)))
    sheet = Image.new("RGB", (args.columns * SIZE, args.rows * SIZE))
    for n, picture in enumerate(Drawer(args.model)(prompts, [args.seed] * len(prompts))):
        sheet.paste(Image.fromarray(picture), (n % args.columns * SIZE, n // args.columns * SIZE))
    sheet.save(args.out)
    for r in range(args.rows):
        print("; ".join(prompts[r * args.columns : (r + 1) * args.columns]))


if __name__ == "__main__":
    main()
