"""Encodes compositions once: encoding costs more than a training step of the UNet.

    python latents.py DATA MODEL OUT --rounds 24

A round is one composition of each icon, in OUT/ROUND.npz; rounds that are there are kept, so it can be
stopped, run beside the training (which looks for new rounds now and then) and asked for more.
"""

import argparse
import os
import random
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

from cache import Icons
from compose import BACKGROUNDS, framed_composition, to_tensor
from split import trained_backgrounds

PLAIN = 4  # every so many rounds the background is white, for captions that name none


def encode_round(icons, vae, number):
    pictures, backgrounds, time_ids = [], [], []
    for i in range(len(icons)):
        rng = random.Random(f"round {number} icon {i}")
        allowed = trained_backgrounds(icons.names[i], BACKGROUNDS)
        white = number % PLAIN == PLAIN - 1 and "white" in allowed
        backgrounds.append("white" if white else rng.choice(allowed))
        picture, ids = framed_composition(icons.pictures[i], backgrounds[-1], rng)
        pictures.append(picture)
        time_ids.append(ids)
    with torch.no_grad():
        means = [vae.encode(to_tensor(pictures[s : s + 8])).latent_dist.mode() for s in range(0, len(pictures), 8)]
    return {
        "latents": torch.cat(means).numpy().astype(np.float16),  # [N, 4, 16, 16], not scaled
        "backgrounds": np.array(backgrounds),
        "time_ids": np.array(time_ids, np.float32),  # [N, 6]
    }


def load_round(path):
    with np.load(path) as f:
        return {k: f[k] for k in f.files}


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=24)
    args = parser.parse_args()
    torch.set_num_threads(1)
    icons = Icons(args.data)
    vae = AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32).eval()
    vae.encoder.to(memory_format=torch.channels_last)
    args.out.mkdir(parents=True, exist_ok=True)
    for number in range(args.rounds):
        path = args.out / f"{number:03}.npz"
        if not path.exists():
            with open(path.with_suffix(".tmp"), "wb") as f:
                np.savez(f, **encode_round(icons, vae, number))
            os.replace(path.with_suffix(".tmp"), path)
            print(path.name, flush=True)


if __name__ == "__main__":
    main()
