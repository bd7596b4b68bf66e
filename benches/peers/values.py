"""The tensors that peers are given, and whether what they computed agrees with diffusers on torch in float32."""

import numpy
import torch
from diffusers import EulerDiscreteScheduler
from PIL import Image
from safetensors.torch import load_file, save_file

import work


def first_step(edge, steps):
    """darkroom's and diffusers' noise at the first step, its timestep and sigma, and the UNet's input."""
    scheduler = EulerDiscreteScheduler.from_pretrained(work.MICRO / "scheduler")
    scheduler.set_timesteps(steps)
    noise = torch.randn(1, 4, edge, edge, generator=torch.Generator().manual_seed(work.SEED))
    latents = noise * scheduler.init_noise_sigma
    timestep = scheduler.timesteps[0]
    return latents, timestep, scheduler.sigmas[0], scheduler.scale_model_input(latents, timestep)


def make_inputs(name, folder, dump):
    """The UNet's inputs as files, with the text states of darkroom's dump (each engine's own are the same)."""
    states = load_file(dump)
    edges = {"micro": {"micro": work.MICRO_SIZE_PX // 8}, "unet": {edge: edge for edge in (work.EDGE, work.CHECK_EDGE)}}
    for label, edge in edges[name].items():
        _, timestep, _, sample = first_step(edge, work.MICRO_STEPS if name == "micro" else 1)
        size_px = 8.0 * edge
        save_file({
            "sample": sample.repeat(2, 1, 1, 1),
            "timestep": timestep.reshape(1).float(),
            "context": torch.cat([states["negative_context"], states["context"]]),
            "pooled": torch.cat([states["negative_pooled"], states["pooled"]]),
            "time_ids": torch.tensor([[size_px, size_px, 0.0, 0.0, size_px, size_px]] * 2),
        }, folder / f"inputs-{label}.safetensors")  # fmt: skip


def agreement(work_name, side, got, want):
    """In words, for the table."""
    try:
        if work_name == "micro":
            return "" if side.engine == "candle" else pictures(got, want)
        if side.engine == "sdcpp":
            return pictures(got.with_suffix(".png"), got.with_name("unet-darkroom-w8a8-linspace.png"))
        if side.engine == "darkroom":
            return relative(predicted(got.with_suffix(".dump")), guided(load_file(want)[str(work.CHECK_EDGE)]))
        outputs, wanted = load_file(got), load_file(want)
        edge = str(work.EDGE)
        return relative(outputs[edge], wanted[edge])
    except FileNotFoundError as missing:
        return f"not compared: no {missing.filename or missing}".replace(str(got.parent), "").strip("/")


def relative(got, want):
    if got.shape != want.shape or not bool(torch.isfinite(got).all()):
        return f"WRONG: shape {tuple(got.shape)}, finite {bool(torch.isfinite(got).all())}"
    return f"rel. L2 {float((got - want).norm() / want.norm()):.1e}"


def guided(pair):
    unconditional, conditional = pair.chunk(2)
    return unconditional + work.GUIDANCE * (conditional - unconditional)


def predicted(dump):
    """The guided noise prediction that Euler's one step to sigma 0 went by."""
    latents, _, sigma, _ = first_step(work.CHECK_EDGE, 1)
    return (latents - load_file(dump)["latents_000"]) / sigma


def pictures(got, want):
    got, want = (numpy.asarray(Image.open(path).convert("RGB"), dtype=float) for path in (got, want))
    error = ((got - want) ** 2).mean()
    psnr = "the same" if error == 0 else f"PSNR {10 * numpy.log10(255**2 / error):.1f} dB"
    return f"{psnr}, ≤ {abs(got - want).max():.0f} levels"
