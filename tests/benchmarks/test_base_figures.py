"""What benchmarks/base_model.py measures a base by, on small random models."""

import sys
from pathlib import Path

import pytest
import torch

from ddbench.methods.latent_diffusion.model import load_model
from ddbench.types import Dataset, ImageSet

CAPTION = "A satellite image of forest."


@pytest.fixture(scope="module", autouse=True)
def scripts():
    """The scripts beside the package, which import one another by name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(Path(__file__).parents[2] / "benchmarks")
        yield
        for name in ("base_model", "base_figures", "referee"):
            sys.modules.pop(name, None)


def options(**more):
    from base_figures import Options

    place = {"data_root": Path(), "shared": Path(), "work": Path()}
    how = {"split": "test", "count": 3, "stride": 1, "steps": 2, "spacing": "base", "scheduler": "base"}
    how |= {"guidance": 2.0, "guidance_low": 0.0, "guidance_high": 1.0}
    return Options(**place | how | more)


def of_class(label, count):
    """Flat images of 8 pixels in the colour of their class."""
    return torch.full((count, 3, 8, 8), 20 * label, dtype=torch.uint8)


@pytest.mark.parametrize("base", ["tiny", "epsilon", "v_prediction", "sample"])
def test_an_image_follows_from_its_seed_alone(base, make_pipeline, tmp_path, monkeypatch):
    """AutoencoderDC (the embedded base) and AutoencoderKL, both with 16x16 latents; every kind of prediction."""
    import base_figures

    model = load_model(base if base == "tiny" else str(make_pipeline(tmp_path, base)), torch.device("cpu"))
    three = base_figures.draw(model, CAPTION, 1, 3, options())
    assert three.shape == (3, 3, 64, 64)
    assert three.dtype == torch.uint8
    assert not torch.equal(three[0], three[1])
    monkeypatch.setattr(base_figures, "BATCH", 2)
    apart = (base_figures.draw(model, CAPTION, 1, 3, options()).int() - three.int()).abs()
    assert apart.max() <= 1  # rounding of another batch size
    other = base_figures.draw(model, "A satellite image of river.", 8, 3, options())
    assert not torch.equal(other, three)


def test_reconstruction_is_compared_on_the_same_images(pipeline):
    """A network that knows real images by their colour, and every reconstruction as class 0."""
    import base_figures

    class ByColour(torch.nn.Module):
        head = torch.nn.Identity()

        def embed(self, images):
            real = (images.float().flatten(1).std(1) == 0)[:, None]
            known = torch.nn.functional.one_hot(images[:, 0, 0, 0].long() // 20 % 10, 10)
            return torch.where(real, known, torch.eye(10)[0])

    net = ByColour()
    images = torch.cat([of_class(label, 4) for label in range(10)])
    real = base_figures.see(net, images, torch.arange(10).repeat_interleave(4))
    model = load_model(str(pipeline), torch.device("cpu"))
    assert real.scores.overall == 1
    for stride in (1, 2):
        found = base_figures.reconstruction_figures(model, net, real, stride)
        assert found["reconstruction_loss"] == pytest.approx(90)
        assert 0 < found["psnr"] < 30


def test_held_back_images_are_in_no_training():
    from referee import real_images, train_images

    labels = torch.arange(3).repeat_interleave(7)
    names = tuple(f"c/{i}" for i in range(21))
    train = ImageSet(torch.cat([of_class(i, 7) for i in range(3)]), labels, ("a", "b", "c"), ("a", "b", "c"), names)
    data = Dataset("d", train, ImageSet(train.images[:1], labels[:1], train.classes, train.readable), "", "", "")
    assert real_images(data, "test") is data.test
    assert train_images(data, "test") is train
    held, rest = real_images(data, "holdout", 3), train_images(data, "holdout", 3)
    assert held.names == names[::3]
    assert sorted(held.names + rest.names) == sorted(names)
    for part in (held, rest):
        assert torch.equal(part.images[:, 0, 0, 0].long() // 20, part.labels)


@pytest.mark.parametrize(
    ("value", "bar", "words"),
    [
        (90.0, {"least": 90}, "90.0 met"),
        (89.96, {"least": 90}, "90.0 missed"),
        (4.0, {"most": 4}, "4.0 met"),
        (4.01, {"most": 4}, "4.0 missed"),
        (7.0, {}, "7.0"),
        (None, {"least": 90}, ""),
    ],
)
def test_a_bar_is_compared_before_rounding(value, bar, words):
    from base_model import Bar

    assert Bar("x", "X", **bar).cell({} if value is None else {"x": value}) == words


def test_a_figure_of_several_seeds_has_its_deviation():
    from base_model import Bar

    assert Bar("x", "X", least=40).cell({"x": 41.26, "x_std": 1.5}) == "41.3 ± 1.5 met"
