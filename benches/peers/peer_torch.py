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
    engine = {"micro": Micro, "unet": Unet}[options.work](torch, getattr(torch, dtype), options)
    for network in engine.networks:
        if layout == "channels_last":
            network.to(memory_format=torch.channels_last)
        if layout == "compiled":
            network.compile()
    load_ms = work.since_ms(began)
    with torch.inference_mode():
        engine.warm_up()
        samples_ms, result = work.timed(engine.run, options)
        engine.save(result)
    work.answer(load_ms, samples_ms, ["torch", "diffusers", "transformers"], {
        "capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "onednn_has_bf16": torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    })  # fmt: skip


class Micro:
    """A picture."""

    def __init__(self, torch, dtype, options):
        self.torch, self.output = torch, options.output
        self.pipeline = work.diffusers_pipeline(dtype)
        self.networks = [self.pipeline.unet, self.pipeline.vae]

    def warm_up(self):
        pass  # as often as `--warmup` says is enough

    def run(self):
        return work.draw(self.pipeline, self.torch)

    def save(self, image):
        image.save(self.output)


class Unet:
    """A forward of batch 2."""

    def __init__(self, _torch, dtype, options):
        from diffusers import UNet2DConditionModel

        self.dtype, self.folder, self.output = dtype, options.folder, options.output
        self.networks = [UNet2DConditionModel.from_pretrained(self.folder / "checkpoint/unet", dtype=dtype).eval()]

    def warm_up(self):
        self.small = self.forward(work.CHECK_EDGE)

    def run(self):
        return self.forward(work.EDGE)

    def forward(self, edge):
        from safetensors.torch import load_file

        inputs = load_file(self.folder / f"inputs-{edge}.safetensors")
        timestep = inputs.pop("timestep")
        inputs = {name: value.to(self.dtype) for name, value in inputs.items()}
        added = {"text_embeds": inputs["pooled"], "time_ids": inputs["time_ids"]}
        return self.networks[0](
            inputs["sample"], timestep, encoder_hidden_states=inputs["context"], added_cond_kwargs=added,
            return_dict=False)[0]  # fmt: skip

    def save(self, result):
        from safetensors.torch import save_file

        outputs = {work.EDGE: result, work.CHECK_EDGE: self.small}
        save_file({str(edge): value.float().contiguous() for edge, value in outputs.items()}, self.output)


if __name__ == "__main__":
    main()
