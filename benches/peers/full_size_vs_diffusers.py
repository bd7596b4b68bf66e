"""SDXL base at its real size, with random weights, through darkroom and through diffusers.

    python full_size_vs_diffusers.py DIR [--size 512] [--steps 2]

Makes the checkpoint in DIR once (6.5 GB, f16; shapes of SDXL base 1.0, seeded normals), runs the release
build of darkroom on it in float32 with --dump, then diffusers from the same seed, and prints the relative L2
error of every step and both sides' times. Needs about 19 GB of memory; the two run one after the other.
"""

import argparse
import json
import pathlib
import subprocess
import time

import torch
from diffusers import StableDiffusionXLPipeline
from safetensors.torch import load_file

import checkpoint
from work import PROMPT, ROOT


def run_darkroom(folder, options):
    command = [
        str(ROOT / "target" / "release" / "darkroom"), "generate", PROMPT, "--model", str(folder),
        "--width", str(options.size), "--height", str(options.size), "--steps", str(options.steps),
        "--guidance", "5", "--seed", "0", "--json", "--quiet", "--force",
        "-o", str(folder / "darkroom.png"), "--dump", str(folder / "dump.safetensors")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def relative(got, want):
    return float((got.double() - want.double()).norm() / want.double().norm())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--steps", type=int, default=2)
    options = parser.parse_args()
    checkpoint.make(options.folder)

    record = run_darkroom(options.folder, options)
    dump = load_file(options.folder / "dump.safetensors")
    began = time.perf_counter()
    pipeline = StableDiffusionXLPipeline.from_pretrained(
        options.folder, dtype=torch.float32, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    load_s = time.perf_counter() - began
    marks = []

    def on_step(_, index, __, tensors):
        marks.append(time.perf_counter())
        print(f"latents_{index:03}: {relative(dump[f'latents_{index:03}'], tensors['latents']):.1e}", flush=True)
        return tensors

    with torch.no_grad():
        context, _, pooled, _ = pipeline.encode_prompt(PROMPT, do_classifier_free_guidance=True)
        print(f"context: {relative(dump['context'], context):.1e}, pooled: {relative(dump['pooled'], pooled):.1e}")
        pixels = pipeline(
            PROMPT, num_inference_steps=options.steps, guidance_scale=5.0, width=options.size,
            height=options.size, generator=torch.Generator().manual_seed(0), callback_on_step_end=on_step,
            output_type="pt").images
    decode_s = time.perf_counter() - marks[-1]
    print(f"pixels: {relative(dump['pixels'], pixels):.1e}")

    ours, steps = record["stage_ms"], sorted(record["denoise_step_ms"])
    theirs = sorted(after - before for before, after in zip(marks, marks[1:]))
    print(f"load: darkroom {ours['load'] / 1e3:.1f} s, diffusers {load_s:.1f} s (files cached by then)")
    if theirs:
        print(f"guided step, median: darkroom {steps[len(steps) // 2] / 1e3:.2f} s, "
              f"diffusers {theirs[len(theirs) // 2]:.2f} s")
    print(f"VAE decode: darkroom {ours['vae_decode'] / 1e3:.2f} s, diffusers {decode_s:.2f} s")


if __name__ == "__main__":
    main()
