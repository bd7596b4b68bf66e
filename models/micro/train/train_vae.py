"""Trains the VAE's decoder; the encoder stays, and with it the latents that the UNet knows.

    python train_vae.py DATA MODEL RUN

The encoder's posterior is narrow (7.5 nats a number at KL weight 1e-4), so the latents hold more than the
decoder draws. RUN/vae.pt is written every few minutes and on SIGTERM, and resumed when it is there; step n
draws from seeds made of n.
"""

import argparse
import copy
import math
import random
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL

import checkpoint
from cache import Icons
from compose import BACKGROUNDS, random_composition, to_tensor
from optim import Muon
from precision import bfloat16, keep_group_norms
from split import held_out_backgrounds, trained_backgrounds

EMA = 0.99


def batch(icons, size, step):
    rng = random.Random(f"vae {step}")
    pictures = []
    for _ in range(size):
        i = rng.randrange(len(icons))
        background = rng.choice(trained_backgrounds(icons.names[i], BACKGROUNDS))
        picture = random_composition(icons.pictures[i], background, rng)
        pictures.append(picture[:, ::-1] if rng.random() < 0.5 else picture)
    return to_tensor(pictures)


def unseen(icons, count=256):
    """Compositions of held-out pairs, always the same."""
    rng = random.Random("vae validation")
    pairs = [(i, b) for i in range(len(icons)) for b in held_out_backgrounds(icons.names[i], BACKGROUNDS)]
    return to_tensor([random_composition(icons.pictures[i], b, rng) for i, b in rng.sample(pairs, count)])


def slopes(x):
    return x[..., 1:] - x[..., :-1], x[..., 1:, :] - x[..., :-1, :]


def loss_of(difference, done):
    """Absolute and squared error, and the absolute error of slopes, for edges; over the last third of the training
    (`done`: 0…1 of it) more and more the squared error, by which it is judged."""
    edges = sum(s.abs().mean() for s in slopes(difference))
    finish = min(1, max(0, 3 * done - 2))
    return (1 - finish) * (difference.abs().mean() + 0.25 * edges) + (2 + 6 * finish) * difference.square().mean()


@torch.no_grad()
def psnr(decode, latents, pictures):
    """dB of the mean squared error over all pictures, clamped as when they are shown."""
    drawn = torch.cat([decode(latents[s : s + 4]) for s in range(0, len(latents), 4)]).clamp(-1, 1)
    return 10 * math.log10(4 / (drawn - pictures).square().mean().item())


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "model", "run"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--steps", type=int, default=2400, help="the rate falls to 0 by then")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--rate", type=float, default=8e-4)
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=4)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    icons = Icons(args.data)
    vae = AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32).requires_grad_(False)
    vae.to(memory_format=torch.channels_last)
    decoder = keep_group_norms(torch.nn.Sequential(vae.post_quant_conv, vae.decoder)).requires_grad_(True)
    ema = copy.deepcopy(decoder).requires_grad_(False)
    parameters = list(decoder.parameters())
    opts = [
        Muon([p for p in parameters if p.dim() > 1], args.rate),
        torch.optim.AdamW([p for p in parameters if p.dim() == 1], args.rate, betas=(0.9, 0.95), weight_decay=0),
    ]
    step, path = 0, args.run / "vae.pt"
    if state := checkpoint.load(path):
        step = state["step"]
        decoder.load_state_dict(state["decoder"])
        ema.load_state_dict(state["ema"])
        for o, s in zip(opts, state["optimizers"]):
            o.load_state_dict(s)
    pictures = unseen(icons)
    with torch.no_grad():
        latents = vae.encode(pictures).latent_dist.mode()
    print(f"{len(icons)} icons, from step {step}, unseen {psnr(ema, latents, pictures):.2f} dB", flush=True)
    stop, last_save = checkpoint.Stop(), time.monotonic()

    def save():
        state = {"step": step, "decoder": decoder.state_dict(), "ema": ema.state_dict()}
        saved = checkpoint.save(path, state | {"optimizers": [o.state_dict() for o in opts]})
        unseen_db = psnr(ema, latents, pictures)
        how = "saved" if saved else "NOT saved"
        print(f"{time.strftime('%H:%M:%S')} step {step} {how}, unseen {unseen_db:.2f} dB", flush=True)
        return saved

    while not stop and step < args.steps:
        rate = args.rate * min(1, (step + 1) / 20) * (1 + math.cos(math.pi * step / args.steps)) / 2
        for o in opts:
            for group in o.param_groups:
                group["lr"] = rate
        x = batch(icons, args.batch, step)
        torch.manual_seed(step)
        with torch.no_grad():
            z = vae.encode(x.contiguous(memory_format=torch.channels_last)).latent_dist.sample()
        with bfloat16(args.bf16):
            drawn = decoder(z)
        loss = loss_of(drawn.float() - x, step / args.steps)
        for o in opts:
            o.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for o in opts:
            o.step()
        step += 1
        with torch.no_grad():
            for p, q in zip(ema.parameters(), decoder.parameters()):
                p.lerp_(q, 1 - min(EMA, step / (step + 10)))
        if step % 20 == 0:
            print(f"{time.strftime('%H:%M:%S')} step {step} loss {loss.item():.4f}", flush=True)
        if time.monotonic() - last_save > 60 * args.save_minutes:
            save()
            last_save = time.monotonic()
    if not save():
        raise SystemExit(1)


if __name__ == "__main__":
    main()
