"""stable-diffusion.cpp. Only its whole pipeline can be called, so the steps are timed by its own progress calls.

The `unet` work reads the checkpoint's components, which stable-diffusion.cpp quantises as it loads them, and
ends with the last step: what comes after is not compared. Values are compared in pictures: it has torch's
generator and linspace timesteps, so with `--output x.png` it draws what darkroom draws, small.
"""

import os
import sys
import time

import work

VARIANTS = {"q8_0": {}, "q8_0-flash": {"diffusion_flash_attn": True}, "f16": {}}


def main():
    options = work.parse(VARIANTS)
    from stable_diffusion_cpp import StableDiffusion, stable_diffusion_cpp

    folder = work.checkpoint(options)
    component = "diffusion_pytorch_model.safetensors"
    began = time.perf_counter()
    engine = StableDiffusion(
        diffusion_model_path=str(folder / "unet" / component),
        clip_l_path=str(folder / "text_encoder/model.safetensors"),
        clip_g_path=str(folder / "text_encoder_2/model.safetensors"),
        vae_path=str(folder / "vae" / component),
        wtype=options.variant.split("-")[0], n_threads=options.threads, rng_type="cpu", sampler_rng_type="cpu",
        vae_decode_only=True, **VARIANTS[options.variant])  # fmt: skip
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


if __name__ == "__main__":
    main()
