"""SDXL base's shapes with random weights, as a checkpoint in diffusers' layout (6.9 GB, f16)."""

import shutil

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from work import MICRO


def randomise(model, added):
    """Matrices keep the variance of what passes through them; norms are near one."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("add_embedding.linear_2") and not added:
                parameter.zero_()
            elif parameter.dim() > 1:
                parameter.normal_(0, 0.9 / parameter[0].numel() ** 0.5)
            elif "norm" in name and name.endswith("weight"):
                parameter.normal_(1, 0.1)
            else:
                parameter.normal_(0, 0.05)
    return model


def clip(cls, width, layers, heads, act):
    return cls(CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, projection_dim=width, num_hidden_layers=layers,
        num_attention_heads=heads, hidden_act=act, bos_token_id=0, eos_token_id=2))


PARTS = {
    "text_encoder": lambda: clip(CLIPTextModel, 768, 12, 12, "quick_gelu"),
    "text_encoder_2": lambda: clip(CLIPTextModelWithProjection, 1280, 32, 20, "gelu"),
    "vae": lambda: AutoencoderKL(
        block_out_channels=(128, 256, 512, 512), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, layers_per_block=2, sample_size=1024,
        scaling_factor=0.13025),
    "unet": lambda: UNet2DConditionModel(
        sample_size=128, block_out_channels=(320, 640, 1280),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=[1, 2, 10], attention_head_dim=[5, 10, 20],
        use_linear_projection=True, cross_attention_dim=2048, addition_embed_type="text_time",
        addition_time_embed_dim=256, projection_class_embeddings_input_dim=2816),
}


def older_names(path):
    """As published checkpoints have them, which is all that stable-diffusion.cpp reads."""
    save_file({f"text_model.{name}": value for name, value in load_file(path).items()}, path, {"format": "pt"})


def make(folder, added=True):
    """Makes it once, component by component, so that memory holds one at a time.

    Without `added`, the embedding of pooled text and sizes is zero: candle's UNet has none.
    """
    if (folder / "model_index.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float16)
    for name, build in PARTS.items():
        model = randomise(build(), added)
        print(f"{name}: {sum(p.numel() for p in model.parameters()):,} parameters", flush=True)
        model.save_pretrained(folder / name, max_shard_size="20GB")
        del model
    older_names(folder / "text_encoder/model.safetensors")
    torch.set_default_dtype(torch.float32)
    for name in ("tokenizer", "tokenizer_2", "scheduler"):
        shutil.copytree(MICRO / name, folder / name, dirs_exist_ok=True)
    shutil.copy(MICRO / "model_index.json", folder)  # last: it marks a whole checkpoint
