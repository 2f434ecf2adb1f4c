"""Small random models on disk, in the formats of the real ones: `from_pretrained` cannot tell them apart."""

from __future__ import annotations

from pathlib import Path

import torch

CHAT = (
    "{% for m in messages %}{% for c in m['content'] %}{{ '<image>' if c['type'] == 'image' else c['text'] }}"
    "{% endfor %}{% endfor %}"
)
WORDS = (
    "describe this scene a road and field with green trees near water boats in rows of small houses".split()  # noqa: SIM905
)


def write_dit(folder: Path, classes: int = 4, sample_size: int = 8, levels: int = 3) -> Path:
    """A class-conditional pipeline that learned its variance, as DiT-XL/2 of the hub did: 32 px, 4 px per cell.

    With 1000 classes, a sample size of 32 and 4 levels it has the hub's shape: 256 px, 8 px per cell.
    """
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    torch.manual_seed(0)
    AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(8,) * (levels - 1) + (16,), latent_channels=4, norm_num_groups=4, scaling_factor=0.5,
    ).save_pretrained(folder / "vae")  # fmt: skip
    DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2, norm_num_groups=4,
        sample_size=sample_size, num_embeds_ada_norm=classes,
    ).save_pretrained(folder / "transformer")  # fmt: skip
    DDIMScheduler(clip_sample=False).save_pretrained(folder / "scheduler")
    return folder


def write_stable_diffusion(folder: Path) -> Path:
    """A pipeline of Stable Diffusion 1.5's shape, written by diffusers: 512 px, 8 px per cell, 77 tokens, PNDM."""
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    from ddbench.base_model.tokenizer import train_tokenizer

    torch.manual_seed(0)
    tokenizer = train_tokenizer(folder / "tokenizer")
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(4, 4, 4, 8), latent_channels=4, norm_num_groups=2, scaling_factor=0.18215, sample_size=512,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=64, in_channels=4, out_channels=4, block_out_channels=(8, 8, 8, 8), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
        cross_attention_dim=16, attention_head_dim=1, norm_num_groups=4,
    )  # fmt: skip
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, projection_dim=16,
        num_attention_heads=2, max_position_embeddings=77, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    scheduler = PNDMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, skip_prk_steps=True, steps_offset=1,
    )  # fmt: skip
    parts = (vae, CLIPTextModel(config), tokenizer, unet, scheduler, None, None)
    StableDiffusionPipeline(*parts, requires_safety_checker=False).save_pretrained(folder)
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    return folder


def write_asked(folder: Path) -> Path:
    """A vision-language model with a chat template: Llava, of a few thousand weights."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration, LlavaProcessor

    tokenizer, images = _tokenizer(("<image>",)), _image_processor()
    LlavaProcessor(
        images, tokenizer, patch_size=8, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=CHAT,
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8,
        projection_dim=16,
    )  # fmt: skip
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_id=tokenizer.convert_tokens_to_ids("<image>")
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    return folder


def write_unasked(folder: Path) -> Path:
    """A captioner without a chat template: BLIP, of a few thousand weights."""
    from transformers import (
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
        BlipTextConfig,
        BlipVisionConfig,
    )

    tokenizer = _tokenizer(())
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    text = BlipTextConfig(
        vocab_size=len(tokenizer), hidden_size=16, encoder_hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, max_position_embeddings=96, pad_token_id=tokenizer.pad_token_id, bos_token_id=2,
        eos_token_id=tokenizer.eos_token_id, sep_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    vision = BlipVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8
    )
    config = BlipConfig(text_config=text.to_dict(), vision_config=vision.to_dict())
    BlipForConditionalGeneration(config).save_pretrained(folder)
    return folder


def _tokenizer(more: tuple[str, ...]):
    """Whole words; whatever else is read becomes <unk>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {word: i for i, word in enumerate(["<unk>", "<pad>", "</s>", *more, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="</s>",
        additional_special_tokens=list(more), model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


def _image_processor():
    from transformers import CLIPImageProcessor

    return CLIPImageProcessor(size={"height": 16, "width": 16}, crop_size={"height": 16, "width": 16})
