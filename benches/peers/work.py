"""What every peer is asked to do, and how it answers.

A peer is one process: `python peer_NAME.py WORK VARIANT …`. It loads, warms up, takes times and prints one
line of JSON: `load_ms`, `samples_ms`, `versions` and, where there is something to say, `notes`. What it
computed goes to `--output`, so that a fast but different result shows.
"""

import argparse
import importlib.metadata
import json
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MICRO = ROOT / "models/micro"
PROMPT = "a red apple on a blue background"
SEED = 0

# micro: text to image, from tokens to pixels.
MICRO_SIZE_PX, MICRO_STEPS, MICRO_GUIDANCE = 128, 20, 4.0
# unet: one guided step of SDXL base, so a forward of batch 2; at the small size only values are compared.
EDGE, CHECK_EDGE = 64, 16
GUIDANCE = 5.0
SDCPP_CHECK_STEPS = 2


def parse(variants):
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["micro", "unet", "prepare"])
    parser.add_argument("variant", choices=variants)
    parser.add_argument("--folder", type=Path, required=True, help="of the checkpoint and all that is made")
    parser.add_argument("--for", dest="made_for", choices=["micro", "unet"], help="whose files `prepare` makes")
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--warmup", type=int, default=1)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--output", type=Path, help="what was computed: a picture, or without suffix tensors")
    return parser.parse_args()


def checkpoint(options):
    return MICRO if options.work == "micro" else options.folder / "checkpoint"


def timed(run, options):
    """The samples in milliseconds, and the last result."""
    for _ in range(options.warmup):
        run()
    samples_ms = []
    for _ in range(options.repeat):
        began = time.perf_counter()
        result = run()
        samples_ms.append((time.perf_counter() - began) * 1e3)
    return samples_ms, result


def since_ms(began):
    return (time.perf_counter() - began) * 1e3


def answer(load_ms, samples_ms, packages, notes=None):
    json.dump({
        "load_ms": load_ms,
        "samples_ms": samples_ms,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "notes": notes,
    }, sys.stdout)  # fmt: skip
    print()


def draw(pipeline, torch):
    """One picture of micro with a diffusers pipeline."""
    return pipeline(
        PROMPT, num_inference_steps=MICRO_STEPS, guidance_scale=MICRO_GUIDANCE, width=MICRO_SIZE_PX,
        height=MICRO_SIZE_PX, generator=torch.Generator("cpu").manual_seed(SEED)).images[0]  # fmt: skip


def diffusers_pipeline(dtype):
    from diffusers import StableDiffusionXLPipeline

    pipeline = StableDiffusionXLPipeline.from_pretrained(MICRO, dtype=dtype, add_watermarker=False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
