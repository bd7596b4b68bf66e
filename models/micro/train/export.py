"""Writes a model folder in diffusers' layout, f16, from a start and what was trained since.

    python export.py MODEL RUN OUT

MODEL is what the training started from; RUN/unet.pt and RUN/vae.pt (their averaged weights) replace its
parts where they are there; the configs are MODEL's, byte for byte. The folder is whole or not there.
"""

import argparse
import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL

import checkpoint
from networks import Networks


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    for name in ("model", "run", "out"):
        parser.add_argument(name, type=Path)
    args = parser.parse_args()
    networks, vae = Networks(args.model), AutoencoderKL.from_pretrained(args.model / "vae", torch_dtype=torch.float32)
    if state := checkpoint.load(args.run / "unet.pt"):
        networks.load_state_dict(state["ema"])
        print(f"UNet and text encoders of step {state['step']}")
    if state := checkpoint.load(args.run / "vae.pt"):
        torch.nn.Sequential(vae.post_quant_conv, vae.decoder).load_state_dict(state["ema"])
        print(f"decoder of step {state['step']}")
    temporary = args.out.with_name(args.out.name + ".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    shutil.copytree(args.model, temporary, copy_function=shutil.copyfile)
    for part, network in [*networks.items(), ("vae", vae)]:
        network.half().save_pretrained(temporary / part)
        (temporary / part / "config.json").write_bytes((args.model / part / "config.json").read_bytes())
    if args.out.exists():
        shutil.rmtree(args.out)
    temporary.rename(args.out)
    files = [f for f in args.out.rglob("*") if f.is_file()]
    print(f"{args.out}: {sum(f.stat().st_size for f in files) / 1e6:.1f} MB in {len(files)} files")


if __name__ == "__main__":
    main()
