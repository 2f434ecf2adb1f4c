"""Test the vectors that classes learn and that are added to their prompts."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file
from small_models import write_dit

from ddbench.errors import UserError
from ddbench.methods.latent_diffusion.class_vectors import CLASS_VECTORS, add_class_vectors
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.mgd3 import MGD3
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.vlcp import VLCP

SHORT = {"tune_steps": 3, "tune_batch": 8, "steps": 2, "tune_warmup": 0}
RATE = 0.01


def stored_weights(ctx) -> dict[str, torch.Tensor]:
    """Return the weights of the only fine-tuning."""
    (file,) = ctx.shared.rglob("denoiser.safetensors")
    return load_file(file)


@pytest.mark.parametrize("weights", ["lora", "all"])
def test_they_learn_beside_the_denoiser(weights, pipeline, few_scenes, context_of):
    ctx = context_of()
    method = Diffusion(base=str(pipeline), weights=weights, tune_prompts=RATE, **{**SHORT, "tune_steps": 1})
    method.distill(few_scenes, 1, ctx)
    vectors = stored_weights(ctx)[CLASS_VECTORS]
    model = load_model(str(pipeline), ctx.device)
    assert vectors.shape == (len(few_scenes.classes), model.tokens_read, model.denoiser.config.cross_attention_dim)
    moved = vectors[vectors != 0].abs()  # Adam's first step: the rate times the sign, in classes of the batch
    assert len(moved) > 0.2 * vectors.numel()
    torch.testing.assert_close(moved.median(), torch.tensor(RATE), rtol=0.02, atol=0)


def test_they_are_added_to_the_prompts_of_their_class_alone(pipeline, context_of):
    model = load_model(str(pipeline), context_of().device)
    texts, labels = ["A river.", "A forest.", "A river, seen from above.", ""], [0, 1, 0, -1]
    before = model.encode_prompts(texts, labels)
    add_class_vectors(model.denoiser, 2, model.tokens_read)
    assert torch.equal(model.encode_prompts(texts, labels), before)
    torch.nn.init.normal_(model.denoiser.class_vectors)
    first, second = model.denoiser.class_vectors
    expected = before + torch.stack([first, second, first, torch.zeros_like(first)])
    assert torch.equal(model.encode_prompts(texts, labels), expected)


def test_they_are_loaded_with_the_weights(pipeline, few_scenes, context_of):
    method = Diffusion(base=str(pipeline), weights="lora", tune_prompts=RATE, **SHORT)
    trained = method.distill(few_scenes, 1, context_of()).images
    ctx = context_of()
    assert torch.equal(method.distill(few_scenes, 1, ctx).images, trained)
    assert next(cost for cost in ctx.costs if cost["stage"] == "finetune")["reused"]
    plain = Diffusion(base=str(pipeline), weights="lora", **SHORT).distill(few_scenes, 1, context_of()).images
    assert not torch.equal(plain, trained)


@pytest.mark.parametrize("method", [MGD3, VLCP])
def test_methods_with_captions_and_guidances_take_them(method, pipeline, few_scenes, context_of):
    more = {"captioner": "palette", "neighbours": 2} if method is VLCP else {}
    ctx = context_of()
    method(base=str(pipeline), weights="lora", tune_prompts=RATE, **SHORT, **more).distill(few_scenes, 1, ctx)
    assert stored_weights(ctx)[CLASS_VECTORS].any()


def test_refused(tmp_path, few_scenes, context_of):
    with pytest.raises(ValueError, match="tune_prompts must be at least 0"):
        Diffusion(tune_prompts=-1.0)
    with pytest.raises(UserError, match="tune_prompts: this base is conditioned by class"):
        Diffusion(base=str(write_dit(tmp_path / "dit")), tune_prompts=RATE).distill(few_scenes, 1, context_of())
