"""Pictures from prompts, by diffusers or darkroom, as the model is shipped: 20 Euler steps, guidance 4, 128 × 128."""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionXLPipeline
from PIL import Image

from compose import SIZE, to_tensor

STEPS, GUIDANCE = 20, 4.0
BATCH = 16


class Drawer:
    def __init__(self, folder):
        self.pipe = StableDiffusionXLPipeline.from_pretrained(folder, torch_dtype=torch.float32, add_watermarker=False)
        self.pipe.set_progress_bar_config(disable=True)
        for part in (self.pipe.unet, self.pipe.vae):
            part.to(memory_format=torch.channels_last)

    @torch.no_grad()
    def __call__(self, prompts, seeds, original=SIZE, crop=(0, 0)):
        """Yields one uint8 [H, W, 3] a prompt; `original` edge in px and `crop` (top, left) are its time ids."""
        for s in range(0, len(prompts), BATCH):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[s : s + BATCH]]
            images = self.pipe(
                prompts[s : s + BATCH],
                num_inference_steps=STEPS,
                guidance_scale=GUIDANCE,
                height=SIZE,
                width=SIZE,
                original_size=(original, original),
                crops_coords_top_left=crop,
                generator=generators,
                output_type="np",
            ).images  # [B, H, W, 3] in 0…1
            yield from (images * 255).round().astype(np.uint8)

    @torch.no_grad()
    def round_trip(self, pictures):
        """Through the VAE and back: the best that the model could draw."""
        for s in range(0, len(pictures), BATCH):
            yield from self.decoded(self.pipe.vae.encode(to_tensor(pictures[s : s + BATCH])).latent_dist.mode())

    @torch.no_grad()
    def noise(self, seeds):
        """Latents that no prompt had a part in, decoded."""
        for s in range(0, len(seeds), BATCH):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[s : s + BATCH]]
            z = torch.cat([torch.randn((1, 4, SIZE // 8, SIZE // 8), generator=g) for g in generators])
            yield from self.decoded(z / self.pipe.vae.config.scaling_factor)

    def decoded(self, latents):
        x = self.pipe.vae.decode(latents).sample.clamp(-1, 1).add(1).mul(127.5).round()
        return x.permute(0, 2, 3, 1).to(torch.uint8).numpy()  # [B, H, W, 3]


class Engine:
    """The same by darkroom's program, a process for each picture, with options of its own (`--quant w8a8`)."""

    def __init__(self, program, folder, options):
        self.command = [program.resolve(), "generate", "--model", folder, "--steps", STEPS, "--guidance", GUIDANCE,
                        "--width", SIZE, "--height", SIZE, "--quiet", "--offline", *options]  # fmt: skip

    def __call__(self, prompts, seeds, original=SIZE, crop=(0, 0)):
        framing = ["--original-size", f"{original}x{original}", "--crop", f"{crop[0]},{crop[1]}"]
        with tempfile.TemporaryDirectory() as folder:
            for i, (prompt, seed) in enumerate(zip(prompts, seeds)):
                path = Path(folder) / f"{i}.png"
                line = [*self.command, *framing, "--seed", seed, "-o", path, "--", prompt]
                subprocess.run([str(part) for part in line], check=True, stdout=subprocess.DEVNULL)
                yield np.asarray(Image.open(path).convert("RGB"))
                path.unlink()
