"""stable-diffusion.cpp. Only its whole pipeline can be called, so the steps are timed by its own progress calls.

`prepare` writes one file of the checkpoint's components and lets stable-diffusion.cpp quantise it. The `unet`
work ends with its last step: what comes after is not compared. Values are compared in pictures: it has torch's
generator and linspace timesteps, so it draws what darkroom draws, small.
"""

import json
import os
import shutil
import struct
import sys
import tempfile
import time
from pathlib import Path

import work

VARIANTS = {"q8_0": {}, "q8_0-flash": {"diffusion_flash_attn": True}, "q8_0-direct": {"diffusion_conv_direct": True}}


def main():
    options = work.parse(VARIANTS)
    from stable_diffusion_cpp import StableDiffusion, stable_diffusion_cpp

    if options.work == "prepare":
        prepare(options, StableDiffusion)
        return
    began = time.perf_counter()
    engine = StableDiffusion(
        model_path=str(quantised(options, options.work)), n_threads=options.threads,
        rng_type="cpu", sampler_rng_type="cpu", vae_decode_only=True, **VARIANTS[options.variant])  # fmt: skip
    load_ms = work.since_ms(began)
    draw = {
        "prompt": work.PROMPT, "seed": work.SEED, "sample_method": "euler", "scheduler": "discrete",
    }  # fmt: skip
    if options.output:
        edge_px = 8 * work.CHECK_EDGE
        image = engine.generate_image(
            **draw, width=edge_px, height=edge_px, cfg_scale=work.GUIDANCE, sample_steps=work.SDCPP_CHECK_STEPS)[0]
        image.save(options.output)

    steps = options.warmup + options.repeat
    marks = []

    def on_step(step, of, _seconds):
        if of != steps:
            return  # the loading of tensors is told of, too
        marks.append(time.perf_counter())
        if step == steps:
            samples_ms = [(after - before) * 1e3 for before, after in zip(marks, marks[1:])]
            work.answer(load_ms, samples_ms[options.warmup :], ["stable-diffusion-cpp-python"], {
                "system": stable_diffusion_cpp.sd_get_system_info().decode(),
            })  # fmt: skip
            sys.stdout.flush()
            os._exit(0)

    engine.generate_image(
        **draw, width=8 * work.EDGE, height=8 * work.EDGE, cfg_scale=work.GUIDANCE, sample_steps=steps,
        progress_callback=on_step)  # fmt: skip
    sys.exit("stable-diffusion.cpp ended without its steps being seen")


# Where a component's tensors are in a checkpoint of one file.
COMPONENTS = {
    "unet/diffusion_pytorch_model.safetensors": "unet.",
    "vae/diffusion_pytorch_model.safetensors": "vae.",
    "text_encoder/model.safetensors": "cond_stage_model.transformer.",
    "text_encoder_2/model.safetensors": "cond_stage_model.1.transformer.",
}


def quantised(options, name):
    return options.folder / f"sdcpp-{name}-q8_0.gguf"


def prepare(options, engine):
    path = quantised(options, options.made_for)
    if path.exists():
        return
    folder = work.MICRO if options.made_for == "micro" else options.folder / "checkpoint"
    with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR", options.folder)) as temporary:
        single = Path(temporary, "single.safetensors")
        join({folder / file: prefix for file, prefix in COMPONENTS.items()}, single)
        if not engine().convert(str(single), output_path=str(path), output_type="q8_0"):
            sys.exit("stable-diffusion.cpp did not convert the checkpoint")


def join(parts, single):
    """Writes safetensors files as one, with prefixes to their names; nothing large is in memory."""
    header, end = {}, 0
    for path, prefix in parts.items():
        for name, tensor in tensors(path).items():
            begins, ends = tensor["data_offsets"]
            header[prefix + name] = tensor | {"data_offsets": [end + begins, end + ends]}
        end = max(tensor["data_offsets"][1] for tensor in header.values())
    with single.open("wb") as out:
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        out.write(struct.pack("<Q", len(text)) + text)
        for path in parts:
            with path.open("rb") as data:
                (length,) = struct.unpack("<Q", data.read(8))
                data.seek(length, os.SEEK_CUR)
                shutil.copyfileobj(data, out, 1 << 24)


def tensors(path):
    """A safetensors file's header."""
    with path.open("rb") as data:
        (length,) = struct.unpack("<Q", data.read(8))
        header = json.loads(data.read(length))
    header.pop("__metadata__", None)
    return header


if __name__ == "__main__":
    main()
