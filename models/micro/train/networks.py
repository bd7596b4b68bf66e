"""The networks that the UNet's training trains, and the noise schedule, read from a folder in diffusers' layout."""

from pathlib import Path

import torch
from diffusers import DDPMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

PARTS = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection, "unet": UNet2DConditionModel}


class Networks(torch.nn.ModuleDict):
    """Both text encoders and the UNet, in float32. Attention is written out: at 256 tokens and fewer torch's fused
    one is slower, three times so in the backward pass in bfloat16."""

    def __init__(self, folder):
        folder = Path(folder)
        super().__init__()
        for part, kind in PARTS.items():
            self[part] = kind.from_pretrained(folder / part, torch_dtype=torch.float32)
        self["unet"].set_attn_processor(AttnProcessor())
        for part in ("text_encoder", "text_encoder_2"):
            self[part].set_attn_implementation("eager")

    def encode(self, ids, ids_2):
        """Token ids [B, 77] twice → context [B, 77, 160], pooled [B, 96]."""
        one = self["text_encoder"](ids, output_hidden_states=True)
        two = self["text_encoder_2"](ids_2, output_hidden_states=True)
        context = torch.cat([one.hidden_states[-2], two.hidden_states[-2]], -1)  # [B, 77, C1 + C2]
        return context, two.text_embeds


class Tokenizers:
    def __init__(self, folder):
        self.both = [CLIPTokenizer.from_pretrained(Path(folder) / part) for part in ("tokenizer", "tokenizer_2")]

    def __call__(self, texts):
        how = {"padding": "max_length", "max_length": 77, "truncation": True, "return_tensors": "pt"}
        return [tokenizer(texts, **how).input_ids for tokenizer in self.both]  # [B, 77] twice


def alphas_cumprod(folder):
    return DDPMScheduler.from_pretrained(Path(folder) / "scheduler").alphas_cumprod  # [1000]
