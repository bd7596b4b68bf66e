"""diffusers on torch."""

import time

import work

VARIANTS = {
    "f32": ("float32", "contiguous"),
    "f32-channels-last": ("float32", "channels_last"),
    "f32-compiled": ("float32", "compiled"),
    "bf16": ("bfloat16", "contiguous"),
    "bf16-channels-last": ("bfloat16", "channels_last"),
}


def main():
    options = work.parse(VARIANTS)
    began = time.perf_counter()
    import torch

    torch.set_num_threads(options.threads)
    dtype, layout = VARIANTS[options.variant]
    load, run, save = {"micro": micro, "unet": unet}[options.work](torch, getattr(torch, dtype), options)
    networks = load()
    if layout == "channels_last":
        for network in networks:
            network.to(memory_format=torch.channels_last)
    if layout == "compiled":
        networks[0].compile()
    load_ms = work.since_ms(began)
    with torch.inference_mode():
        samples_ms, result = work.timed(run, options)
        save(result)
    work.answer(load_ms, samples_ms, ["torch", "diffusers", "transformers"], {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "onednn_has_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    })  # fmt: skip


def micro(torch, dtype, options):
    pipeline = work.diffusers_pipeline(dtype)

    def save(image):
        image.save(options.output)

    return lambda: [pipeline.unet, pipeline.vae], lambda: work.draw(pipeline, torch), save


def unet(torch, dtype, options):
    from diffusers import UNet2DConditionModel
    from safetensors.torch import load_file, save_file

    network = None

    def load():
        nonlocal network
        network = UNet2DConditionModel.from_pretrained(options.folder / "checkpoint/unet", dtype=dtype)
        return [network.eval()]

    def forward(edge):
        inputs = {
            name: value if name == "timestep" else value.to(dtype)
            for name, value in load_file(options.folder / f"inputs-{edge}.safetensors").items()
        }
        added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]}
        return network(
            inputs["sample"], inputs["timestep"], encoder_hidden_states=inputs["context"],
            added_cond_kwargs=added, return_dict=False)[0]  # fmt: skip

    def save(result):
        outputs = {str(work.EDGE): result, str(work.CHECK_EDGE): forward(work.CHECK_EDGE)}
        save_file({name: value.float().contiguous() for name, value in outputs.items()}, options.output)

    return load, lambda: forward(work.EDGE), save


if __name__ == "__main__":
    main()
