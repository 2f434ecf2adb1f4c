"""Test LGD: its learnability by hand, its stages, nested sets, what its guidance raises."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from small_models import write_dit, write_stable_diffusion
from small_networks import batch_of

from ddbench.config import build
from ddbench.methods.igd import IGD
from ddbench.methods.latent_diffusion.model import load_model
from ddbench.methods.latent_diffusion.stages import Stages
from ddbench.methods.lgd import LGD, Learnability
from ddbench.methods.plain_diffusion import Diffusion
from ddbench.methods.shared.surrogates import RANGE, flat_weights, skeleton
from evaluators.students import build as build_student

CPU = torch.device("cpu")
QUICK = {"steps": 4, "surrogate_epochs": 2, "target_images": 4, "choice_images": 4, "stage_epochs": 2, "batch": 8}
SMALL = {"stage_images": 2, "candidates": 2, **QUICK}


def learnability(train, ctx, omega=0.5):
    """S of two random networks."""
    network = skeleton("convnet", train, ctx)
    weights = [flat_weights(build_student("convnet", train.images.shape[-1], len(train.classes), i)) for i in (1, 2)]
    return Learnability(network, train.images.shape[-1], *weights, omega)


def test_learnability_by_hand(few_scenes, context_of):
    S = learnability(few_scenes, context_of(), 0.3)
    images, y = few_scenes.images.float() / 255, few_scenes.labels
    with torch.no_grad():
        students = [build_student("convnet", images.shape[-1], 3, i, normalisation=RANGE).eval() for i in (1, 2)]
        losses = [F.cross_entropy(student(images), y, reduction="none") for student in students]
        torch.testing.assert_close(S(images, y), losses[0] - 0.3 * losses[1], rtol=1e-4, atol=1e-4)


def test_a_step_along_the_gradient_raises_it(pipeline, few_scenes, context_of):
    stages = Stages(load_model(str(pipeline), CPU), few_scenes, context_of(), 8)
    S, z, y = learnability(few_scenes, context_of()), stages.latents().means()[:4], few_scenes.labels[:4]
    gradient = S.descent(batch_of(z, stages.model, labels=y.tolist()))(z)
    step = gradient / gradient.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    before, after = (S.of_latents(stages.model, latents, y, 3) for latents in (z, z - 0.05 * step))
    assert (after > before).all()


def test_the_first_stage_is_igds_set(pipeline, few_scenes, context_of):
    lgd = LGD(base=str(pipeline), weights="none", **SMALL)
    igd = IGD(base=str(pipeline), weights="none", **{k: v for k, v in QUICK.items() if k != "stage_epochs"})
    found, expected = (method.distill(few_scenes, 2, context_of()).images for method in (lgd, igd))
    assert torch.equal(found, expected)


def test_without_guidance_and_choice_it_is_diffusion_to_the_bit(pipeline, few_scenes, context_of):
    """Compare the images of the first stage, and the latents of the second, whose noise has its images' names."""
    off = {"influence": 0.0, "deviation": 0.0, "learnability": 0.0, "stage_deviation": 0.0, "candidates": 1}
    lgd = LGD(base=str(pipeline), weights="none", **SMALL | off)
    plain = Diffusion(base=str(pipeline), weights="none", guidance=lgd.guidance, steps=4, batch=8)
    images = lgd.distill(few_scenes, 3, context_of()).images.unflatten(0, (3, 3))
    assert torch.equal(images[:, :2].flatten(0, 1), plain.distill(few_scenes, 2, context_of()).images)
    stages = Stages(load_model(str(pipeline), CPU), few_scenes, context_of(), 8)
    starts = lgd._starts_by_tuned(stages, stages.latents(), lgd._start_latents(stages, stages.latents(), 3), "")
    z, _ = lgd.sample_latents(stages.model, starts, context_of())
    third = replace(plain._start_latents(stages, stages.latents(), 1), names=[(y, 2, 0) for y in range(3)])
    assert torch.equal(z.unflatten(0, (3, 3))[:, 2], plain.sample_latents(stages.model, third, context_of())[0])
    guided = replace(lgd, learnability=500.0).distill(few_scenes, 3, context_of()).images.unflatten(0, (3, 3))
    assert torch.equal(guided[:, :2], images[:, :2])
    assert not torch.equal(guided[:, 2], images[:, 2])


@pytest.mark.slow
def test_smaller_sets_are_the_first_images_of_larger_ones(pipeline, few_scenes, context_of):
    """Five images in stages of two: the sets of one to four are in it, whatever the batch."""
    method, ctx = LGD(base=str(pipeline), weights="none", **SMALL), context_of()
    largest = method.distill(few_scenes, 5, ctx).images.unflatten(0, (3, 5))
    assert len({tuple(image.flatten().tolist()) for image in largest.flatten(0, 1)}) == 15
    for ipc in (1, 3, 4):
        images = replace(method, batch=3).distill(few_scenes, ipc, ctx).images.unflatten(0, (3, ipc))
        assert (images.int() - largest[:, :ipc].int()).abs().max() <= 1
    reused = [cost["reused"] for cost in ctx.costs if cost["stage"] == "increment"]
    assert reused == [False, False, False, False, True, False, True, True]  # of IPC 5, then of 1, 3, 4
    trained = [cost["reused"] for cost in ctx.costs if cost["stage"] == "surrogate"].count(False)
    assert trained == 3  # the network of all real images, the students of two images and of four
    other = method.distill(few_scenes, 5, context_of(1)).images
    assert not torch.equal(other, largest.flatten(0, 1))


def test_of_the_candidates_the_one_of_the_largest_learnability_stays(pipeline, few_scenes, context_of, monkeypatch):
    seen = []
    original = Learnability.of_latents
    monkeypatch.setattr(
        Learnability,
        "of_latents",
        lambda S, model, z, y, batch: seen.append((z, s := original(S, model, z, y, batch))) or s,
    )
    method, ctx = LGD(base=str(pipeline), weights="none", **{**SMALL, "candidates": 3}), context_of()
    stages = Stages(load_model(str(pipeline), CPU), few_scenes, ctx, 8)
    starts = method._start_latents(stages, stages.latents(), 3)
    starts = method._starts_by_tuned(stages, stages.latents(), starts, "")
    z, _ = method.sample_latents(stages.model, starts, ctx)
    ((candidates, S),) = seen  # one place for each of three classes
    assert S.shape == (9,)
    for label in range(3):
        best = 3 * label + int(S[3 * label : 3 * label + 3].argmax())
        assert torch.equal(z.unflatten(0, (3, 3))[label, 2], candidates[best])


@pytest.mark.parametrize("base", ["stable-diffusion", "dit"])
def test_small_bases_of_the_true_shapes(base, few_scenes, context_of, tmp_path):
    write = {"stable-diffusion": write_stable_diffusion, "dit": write_dit}[base]
    numbers = tmp_path / "classes.toml"
    numbers.write_text("\n".join(f"{name} = {i}" for i, name in enumerate(few_scenes.classes)))
    more = {"base_classes": str(numbers)} if base == "dit" else {}
    method = LGD(base=str(write(tmp_path / base)), weights="none", **{**SMALL, "stage_images": 1}, **more)
    method.distill(few_scenes, 2, context_of()).check(2)


@pytest.mark.slow
def test_learnability_grows_on_the_embedded_base(few_scenes, context_of):
    """The finished images of the second stage, without candidates, against those of no guidance from the same noise."""
    stages, values = Stages(load_model("tiny", CPU), few_scenes, context_of(), 8), {}
    tiny = replace(build(LGD, "tiny"), weights="none", candidates=1, stage_images=1, influence=0.0, deviation=0.0,
                   stage_deviation=0.0, surrogate_epochs=2, stage_epochs=5)  # fmt: skip
    S = learnability(few_scenes, context_of())
    for weight in (0.0, 60.0):
        method = replace(tiny, learnability=weight)
        starts = method._starts_by_tuned(
            stages, stages.latents(), method._start_latents(stages, stages.latents(), 2), ""
        )
        stage = replace(starts.targets, so_far=torch.zeros(3, 1, *starts.targets.latent.shape))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(LGD, "_learnability", lambda *rest: S)
            z = method._next_stage(stages.model, stage, 1, context_of())
        values[weight] = S.of_latents(stages.model, z.flatten(0, 1), torch.arange(3), 3)
    assert (values[60.0] > values[0.0]).all()


@pytest.mark.parametrize(
    "settings",
    [{"stage_images": 0}, {"candidates": 0}, {"learnability": -1.0}, {"stage_until": 2.0}, {"stage_from": 0.9}],
)
def test_settings_that_are_none_are_refused(settings):
    with pytest.raises(ValueError, match=next(iter(settings))):
        LGD(**settings)
