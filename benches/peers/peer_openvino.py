"""OpenVINO: diffusers' networks converted, and the same in int8 by NNCF.

`prepare` writes the converted networks; the other works compile and time them.

| variant | UNet |
|---|---|
| f32 | float32 arithmetic, which is what the plugin chooses on a CPU without bf16 |
| int8 | weights and activations in int8: NNCF's post-training quantisation, calibrated on made inputs |
| int8-weights | weights in int8, activations float32: NNCF's weight compression |

Text encoders and VAE stay in float32, as in darkroom's W8A8.
"""

import time

import numpy
import openvino
import openvino.opset13 as ops
import work

VARIANTS = {name: "-".join(["unet", name]).removesuffix("-f32") for name in ("f32", "int8", "int8-nncf", "int8-weights")}


def main():
    options = work.parse(VARIANTS)
    {"prepare": prepare, "micro": micro, "unet": unet}[options.work](options)


def compile_model(path, options):
    return openvino.Core().compile_model(path, "CPU", {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": options.threads,
        "INFERENCE_PRECISION_HINT": "f32",
    })  # fmt: skip


def answer(load_ms, samples_ms):
    work.answer(load_ms, samples_ms, ["openvino", "nncf", "torch", "diffusers"], {
        "capabilities": openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"),
    })  # fmt: skip


def unet(options):
    from safetensors.numpy import load_file, save_file

    began = time.perf_counter()
    compiled = compile_model(options.folder / f"openvino/unet/{VARIANTS[options.variant]}.xml", options)
    load_ms = work.since_ms(began)
    inputs = load_file(options.folder / f"inputs-{work.EDGE}.safetensors")
    samples_ms, result = work.timed(lambda: compiled(inputs)[0], options)
    save_file({str(work.EDGE): numpy.ascontiguousarray(result)}, options.output)
    answer(load_ms, samples_ms)


def micro(options):
    """diffusers' pipeline, whose networks are replaced."""
    began = time.perf_counter()
    import torch

    torch.set_num_threads(options.threads)
    pipeline = work.diffusers_pipeline(torch.float32)
    folder = options.folder / "openvino/micro"

    def replaced(name):
        compiled = compile_model(folder / f"{name}.xml", options)
        return lambda *inputs: [torch.from_numpy(value) for value in compiled(inputs).values()]

    network = replaced(VARIANTS[options.variant])
    pipeline.unet.forward = lambda sample, timestep, encoder_hidden_states, added_cond_kwargs, **_: network(
        sample, timestep.float(), encoder_hidden_states,
        added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"])  # fmt: skip
    decode = replaced("vae")
    pipeline.vae.decode = lambda latents, **_: decode(latents)
    for name in ("text_encoder", "text_encoder_2"):
        getattr(pipeline, name).forward = encoder(replaced(name))
    load_ms = work.since_ms(began)
    with torch.inference_mode():
        samples_ms, image = work.timed(lambda: work.draw(pipeline, torch), options)
    image.save(options.output)
    answer(load_ms, samples_ms)


def encoder(network):
    class Encoded(list):
        """What the pipeline reads of a text encoder: `[0]` and `hidden_states[-2]`."""

    def forward(ids, **_):
        first, hidden = network(ids)
        encoded = Encoded([first])
        encoded.hidden_states = [hidden, None]
        return encoded

    return forward


# Conversion


def prepare(options):
    import torch
    from diffusers import UNet2DConditionModel
    from openvino.frontend.pytorch.patch_model import __make_16bit_traceable as make_16bit_traceable

    folder = options.folder / "openvino" / options.made_for
    with torch.inference_mode():
        if options.made_for == "micro":
            pipeline = work.diffusers_pipeline(torch.float32)
            calls = recorded_calls(pipeline, torch)
            convert_micro(pipeline, calls, folder, torch)
        else:
            calls = [unet_inputs(options.folder / f"inputs-{work.CHECK_EDGE}.safetensors")]
            if not (folder / "unet.xml").exists():
                network = UNet2DConditionModel.from_pretrained(
                    options.folder / "checkpoint/unet", dtype=torch.float16)
                make_16bit_traceable(network)  # half of the memory that a float32 network would need
                convert_unet(network.eval(), calls[0], work.EDGE, folder, torch)
                del network
    quantise(folder, calls)
    (folder / "made").touch()


UNET_INPUTS = ["sample", "timestep", "context", "pooled", "time_ids"]


def unet_inputs(path):
    from safetensors.numpy import load_file

    tensors = load_file(path)
    return [tensors[name] for name in UNET_INPUTS]


def recorded_calls(pipeline, torch):
    """The UNet's inputs of one picture."""
    calls = []
    forward = pipeline.unet.forward

    def record(sample, timestep, encoder_hidden_states, added_cond_kwargs, **others):
        values = (sample, timestep.float(), encoder_hidden_states,
                  added_cond_kwargs["text_embeds"], added_cond_kwargs["time_ids"])  # fmt: skip
        calls.append([value.numpy().copy() for value in values])
        return forward(sample, timestep, encoder_hidden_states, added_cond_kwargs=added_cond_kwargs, **others)

    pipeline.unet.forward = record
    work.draw(pipeline, torch)
    del pipeline.unet.forward
    return calls


def convert_unet(network, inputs, edge, folder, torch):
    class Unet(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, sample, timestep, context, pooled, time_ids):
            added = {"text_embeds": pooled, "time_ids": time_ids}
            return self.network(sample, timestep, context, added_cond_kwargs=added, return_dict=False)[0]

    shapes = [list(value.shape) for value in inputs]
    shapes[0][2:] = [edge, edge]
    convert(Unet(), inputs, shapes, folder / "unet.xml", torch)


def convert(module, inputs, shapes, path, torch):
    module.eval()
    model = openvino.convert_model(
        module, example_input=tuple(torch.from_numpy(value) for value in inputs))
    model.reshape(dict(enumerate(shapes)))
    for port, name in zip(model.inputs, UNET_INPUTS):
        port.get_tensor().set_names({name})
    openvino.save_model(model, path, compress_to_fp16=True)  # the checkpoints are f16: nothing is lost


def convert_micro(pipeline, calls, folder, torch):
    edge = calls[0][0].shape[-1]
    convert_unet(pipeline.unet, calls[0], edge, folder, torch)

    class Decoder(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.vae = pipeline.vae

        def forward(self, latents):
            return self.vae.decode(latents, return_dict=False)[0]

    class Encoder(torch.nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, ids):
            encoded = self.network(ids, output_hidden_states=True)
            return encoded[0], encoded.hidden_states[-2]

    latents = calls[0][0][:1]
    convert(Decoder(), [latents], [list(latents.shape)], folder / "vae.xml", torch)
    ids = numpy.ones((1, 77), dtype=numpy.int64)
    for name in ("text_encoder", "text_encoder_2"):
        convert(Encoder(getattr(pipeline, name)), [ids], [[1, 77]], folder / f"{name}.xml", torch)


def quantise(folder, calls):
    directly(folder, calls)
    if folder.name == "unet":
        return  # NNCF's quantisation of SDXL base needs more than 20 GB of memory, its compression a third copy on disk
    import nncf

    core = openvino.Core()
    model = nncf.compress_weights(core.read_model(folder / "unet.xml"), mode=nncf.CompressWeightsMode.INT8_SYM)
    openvino.save_model(model, folder / "unet-int8-weights.xml")
    model = nncf.quantize(
        core.read_model(folder / "unet.xml"), nncf.Dataset(calls), subset_size=len(calls),
        model_type=nncf.ModelType.TRANSFORMER,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True))  # fmt: skip
    openvino.save_model(model, folder / "unet-int8-nncf.xml")


# The quantisation that NNCF makes, layer by layer: every matrix product and convolution with constant weights gets
# int8 weights with a scale for each output channel, and an input quantised to 256 levels between its extremes.


def weighted(model):
    """The operations with weights, and where their constants are."""
    for op in model.get_ordered_ops():
        if op.get_type_name() in ("MatMul", "Convolution"):
            convert = op.input_value(1).get_node()
            constant = convert.input_value(0).get_node() if convert.get_type_name() == "Convert" else convert
            if constant.get_type_name() == "Constant":
                yield op, constant


def sources(model):
    """What those operations read, each once."""
    found = {}
    for op, _ in weighted(model):
        output = op.input_value(0)
        found.setdefault((output.get_node().get_friendly_name(), output.get_index()), output)
    return found


def extremes(path, calls):
    """The least and largest value of each source."""
    core = openvino.Core()
    model = core.read_model(path)
    model.reshape({0: list(calls[0][0].shape)})
    read = sources(model)
    results = []
    for output in read.values():
        axes = list(range(len(output.get_partial_shape())))
        results += [ops.reduce_min(output, axes), ops.reduce_max(output, axes)]
    measured = openvino.Model(results, model.get_parameters(), "extremes")
    compiled = core.compile_model(measured, "CPU")
    values = numpy.array([[float(value) for value in compiled(inputs).to_tuple()] for inputs in calls])
    return dict(zip(read, zip(values.min(0)[::2], values.max(0)[1::2])))


def directly(folder, calls):
    found = extremes(folder / "unet.xml", calls)
    model = openvino.Core().read_model(folder / "unet.xml")
    quantised = {}
    for name, output in sources(model).items():
        least, most = (numpy.float32(value) for value in (min(found[name][0], 0.0), max(found[name][1], 0.0)))
        step = (most - least) / 255 or numpy.float32(1)
        least = numpy.round(least / step) * step  # zero is a level of its own
        limits = [least, least + 255 * step]
        quantised[name] = ops.fake_quantize(output, *map(numpy.float32, limits * 2), 256)
    for op, constant in list(weighted(model)):
        output = op.input_value(0)
        op.input(0).replace_source_output(
            quantised[output.get_node().get_friendly_name(), output.get_index()].output(0))  # fmt: skip
        weights = constant.get_data().astype(numpy.float32)
        # The outputs' axis is first in a convolution and in a transposed product, as diffusers' linears become.
        scales = abs(weights).max(axis=tuple(range(1, weights.ndim)), keepdims=True) / 127
        scales[scales == 0] = 1
        integers = numpy.round(weights / scales).astype(numpy.int8)
        made = ops.multiply(ops.convert(ops.constant(integers), "f32"), ops.constant(scales.astype(numpy.float32)))
        op.input(1).replace_source_output(made.output(0))
    model.validate_nodes_and_infer_types()
    openvino.save_model(model, folder / "unet-int8.xml")


if __name__ == "__main__":
    main()
