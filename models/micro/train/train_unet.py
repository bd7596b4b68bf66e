"""Trains the UNet and both text encoders on encoded compositions (latents.py), for as long as it is let.

    python train_unet.py DATA MODEL LATENTS RUN

MODEL gives the start, the tokenizers and the latents' scaling factor; RUN/unet.pt is written every few minutes
and on SIGTERM, and resumed when it is there. Step n draws from seeds made of n: a resumed run is the run
that was not stopped, as long as LATENTS has the same rounds.
"""

import argparse
import copy
import json
import random
import time
from pathlib import Path

import torch

import checkpoint
from cache import Icons
from captions import caption
from latents import load_round
from networks import Networks, Tokenizers, alphas_cumprod
from optim import Muon
from precision import bfloat16, keep_group_norms

NO_TEXT = 0.1  # of the samples: the zeros that guidance starts from
EMA = 0.997


class Bank:
    """All encoded rounds; `refresh` looks for new ones."""

    def __init__(self, folder):
        self.folder, self.rounds = Path(folder), {}
        self.refresh()

    def refresh(self):
        for path in sorted(self.folder.glob("*.npz")):
            if path.name not in self.rounds:
                self.rounds[path.name] = load_round(path)

    def draw(self, icon, rng):
        part = self.rounds[rng.choice(sorted(self.rounds))]
        latents = torch.from_numpy(part["latents"][icon]).float()  # [4, 16, 16]
        return latents, str(part["backgrounds"][icon]), part["time_ids"][icon].tolist()


def batch(icons, favoured, bank, tokenizers, size, scale, step):
    """Every caption stands for two samples: reading it costs as much as drawing. Half are of `favoured` icons."""
    rng = random.Random(f"unet {step}")
    latents, texts, time_ids = [], [], []
    for _ in range(size // 2):
        i = rng.choice(favoured) if favoured and rng.random() < 0.5 else rng.randrange(len(icons))
        z, background, ids = bank.draw(i, rng)
        latents.append(z)
        texts.append(caption(icons.names[i], icons.styles[i], icons.tags[i], background, rng))
        time_ids.append(ids)
    ids, ids_2 = tokenizers(texts)
    return torch.stack(latents).repeat(2, 1, 1, 1) * scale, ids, ids_2, torch.tensor(time_ids).repeat(2, 1)


def loss_of(networks, sample, alphas, generator):
    """Epsilon loss, weighed by min-SNR 5 (Hang et al. 2023); the timesteps are stratified over the batch."""
    z, ids, ids_2, time_ids = sample
    count = len(z)
    place = (torch.randperm(count, generator=generator) + torch.rand(count, generator=generator)) / count
    t = (place * len(alphas)).long().clamp(max=len(alphas) - 1)
    noise = torch.randn(z.shape, generator=generator)
    a = alphas[t].view(-1, 1, 1, 1)
    noisy = (a.sqrt() * z + (1 - a).sqrt() * noise).contiguous(memory_format=torch.channels_last)
    context, pooled = (x.repeat(2, *[1] * (x.dim() - 1)) for x in networks.encode(ids, ids_2))
    told = (torch.rand(count, generator=generator) >= NO_TEXT).float()
    added = {"text_embeds": pooled * told.view(-1, 1), "time_ids": time_ids}
    out = networks["unet"](noisy, t, context * told.view(-1, 1, 1), added_cond_kwargs=added).sample
    error = (out.float() - noise).square().mean((1, 2, 3))  # [B]
    snr = a.flatten() / (1 - a.flatten())
    weight = (snr.clamp(max=5) / snr).clamp(min=0.05)
    return (error * weight).sum() / weight.sum()


def optimizers(networks, rate, bf16):
    tables = [m.weight for m in networks.modules() if isinstance(m, torch.nn.Embedding)]
    matrices = [p for p in networks.parameters() if p.dim() > 1 and not any(p is q for q in tables)]
    rest = [p for p in networks.parameters() if not any(p is q for q in matrices)]
    return [Muon(matrices, rate, bf16=bf16), torch.optim.AdamW(rest, rate, betas=(0.9, 0.99), weight_decay=0)]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("data", "model", "latents", "run"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--batch", type=int, default=64, help="samples a step; even")
    parser.add_argument("--rate", type=float, default=5e-4)
    parser.add_argument("--favour", type=Path, metavar="FILE", help="concepts, one a line, that half of it is of")
    parser.add_argument("--bf16", action="store_true", help="products in bfloat16")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--save-minutes", type=float, default=4)
    parser.add_argument("--stop-after", type=int, help="the last step; without it, until it is told to stop")
    parser.add_argument("--decay", type=int, default=0, help="lower the rate to 0 over the last so many steps")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    icons, bank, tokenizers = Icons(args.data), Bank(args.latents), Tokenizers(args.model)
    wanted = args.favour.read_text(encoding="utf-8").split("\n") if args.favour else []
    favoured = [i for i, name in enumerate(icons.names) if name in wanted]
    scale = json.loads((args.model / "vae/config.json").read_text())["scaling_factor"]
    alphas = alphas_cumprod(args.model)
    networks = keep_group_norms(Networks(args.model).train())
    networks["unet"].to(memory_format=torch.channels_last)
    ema = copy.deepcopy(networks).requires_grad_(False)
    opts = optimizers(networks, args.rate, args.bf16)
    step, path = 0, args.run / "unet.pt"
    if state := checkpoint.load(path):
        step = state["step"]
        networks.load_state_dict(state["networks"])
        ema.load_state_dict(state["ema"])
        for o, s in zip(opts, state["optimizers"]):
            o.load_state_dict(s)
    print(f"{len(icons)} icons ({len(favoured)} favoured), {len(bank.rounds)} rounds, from step {step}", flush=True)

    stop, saved, mean, started, first = checkpoint.Stop(), time.monotonic(), None, time.monotonic(), step

    def save():
        state = {"step": step, "networks": networks.state_dict(), "ema": ema.state_dict()}
        return checkpoint.save(path, state | {"optimizers": [o.state_dict() for o in opts]})

    while not stop and step != args.stop_after:
        rate = args.rate * min(1, (step + 1) / 50)
        if args.decay and args.stop_after:
            rate *= min(1, (args.stop_after - step) / args.decay)
        for o in opts:
            for group in o.param_groups:
                group["lr"] = rate
        sample = batch(icons, favoured, bank, tokenizers, args.batch, scale, step)
        with bfloat16(args.bf16):
            loss = loss_of(networks, sample, alphas, torch.Generator().manual_seed(step))
        for o in opts:
            o.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), 1.0)
        for o in opts:
            o.step()
        step += 1
        with torch.no_grad():
            for p, q in zip(ema.parameters(), networks.parameters()):
                p.lerp_(q, 1 - min(EMA, (step + 10) / (step + 20)))
        mean = loss.item() if mean is None else 0.98 * mean + 0.02 * loss.item()
        if step % 20 == 0:
            pace = (step - first) * args.batch / (time.monotonic() - started)
            print(f"{time.strftime('%H:%M:%S')} step {step} loss {mean:.4f} {pace:.1f} samples/s", flush=True)
        if time.monotonic() - saved > 60 * args.save_minutes:
            save()
            bank.refresh()
            saved = time.monotonic()
    if not save():
        raise SystemExit(1)
    print(f"saved at step {step}", flush=True)


if __name__ == "__main__":
    main()
