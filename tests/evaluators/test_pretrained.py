"""ImageNet weights: fetched, checked, loaded, refused. The files are made here, in torchvision's layout."""

import hashlib
from types import SimpleNamespace

import pytest
import torch
from torchvision import models

from evaluators import pretrained
from evaluators.pretrained import WeightsError, sha256
from evaluators.students import build

MAKERS = {
    "resnet18": models.resnet18,
    "densenet121": models.densenet121,
    "inception_v3": lambda: models.inception_v3(weights=None, init_weights=False),
    "vit_base": lambda: models.VisionTransformer(224, 16, 12, 12, 768, 3072),
}


@pytest.fixture
def served(tmp_path, monkeypatch):
    """Weights of a network, saved as torchvision publishes them and served from an address; its folder of downloads."""

    def serve(student, state):
        path = tmp_path / "server" / "file"
        path.parent.mkdir(exist_ok=True)
        torch.save(state, path)
        path = path.rename(path.with_name(f"{student}-{sha256(path)[:8]}.pth"))
        monkeypatch.setitem(pretrained.WEIGHTS, student, SimpleNamespace(url=path.as_uri()))
        return path

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    serve.checkpoints = tmp_path / "hub" / "checkpoints"
    return serve


def published(student):
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = MAKERS[student]()
        if student == "inception_v3":
            _settle(network)
        return network.state_dict()


def _settle(network):
    """One pass through its batch norms, or what a fresh Inception gives would be all but nothing."""
    network.eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.train().momentum = 1.0
    with torch.no_grad():
        network(torch.randn(4, 3, 107, 107))


def as_once_named(state):
    """DenseNet's file has names that modules may no longer have."""
    for kind in ("norm", "conv"):
        for i in "12":
            state = {key.replace(f".{kind}{i}.", f".{kind}.{i}."): value for key, value in state.items()}
    return state


@pytest.mark.parametrize(("student", "size"), [("resnet18", 64), ("densenet121", 64), ("inception_v3", 107)])
def test_the_body_is_the_published_network(student, size, served):
    state = published(student)
    served(student, as_once_named(state) if student == "densenet121" else state)
    model = build(student, size, 5, seed=0, init="imagenet").eval()
    whole = MAKERS[student]().eval()
    whole.load_state_dict(state)
    if student == "inception_v3":
        whole.transform_input = True  # as torchvision sets it with the weights
    setattr(whole, "classifier" if student == "densenet121" else "fc", torch.nn.Identity())
    images = torch.randint(0, 256, (2, 3, size, size), dtype=torch.uint8)
    look = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])[:, :, None, None]
    with torch.no_grad():
        wanted = whole((images / 255 - look[0]) / look[1])
        assert wanted.std() > 0.01  # or another scaling of the images would not be seen
        torch.testing.assert_close(model.embed(images), wanted, rtol=1e-3, atol=1e-3 * float(wanted.std()))


@pytest.mark.slow
def test_position_embeddings_are_resized(served):
    state = published("vit_base")
    served("vit_base", state)
    model = build("vit_base", 64, 5, seed=0, init="imagenet")
    assert model.body.encoder.pos_embedding.shape == (1, 17, 768)
    assert torch.equal(model.body.encoder.pos_embedding[:, 0], state["encoder.pos_embedding"][:, 0])
    assert torch.equal(model.body.conv_proj.weight, state["conv_proj.weight"])


def test_the_head_is_fresh_and_the_seeds(served):
    served("resnet18", published("resnet18"))
    first, again, other = (build("resnet18", 40, 5, seed, "imagenet") for seed in (0, 0, 1))
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.head.weight, other.head.weight)
    assert torch.equal(first.body.conv1.weight, other.body.conv1.weight)


def test_a_file_that_is_there_is_not_fetched_again(served):
    source = served("resnet18", published("resnet18"))
    first = pretrained.weights_file("resnet18")
    assert first.parent == served.checkpoints
    source.unlink()
    assert pretrained.weights_file("resnet18") == first


def test_without_a_network_the_error_says_where_to_put_the_file(served):
    served("resnet18", {}).unlink()
    with pytest.raises(WeightsError, match=f"fetch it elsewhere and put it at {served.checkpoints}"):
        build("resnet18", 40, 5, 0, "imagenet")
    assert not list(served.checkpoints.iterdir())


def test_another_file_under_the_name_is_refused(served):
    source = served("resnet18", published("resnet18"))
    served.checkpoints.mkdir(parents=True)
    (served.checkpoints / source.name).write_bytes(b"something else")
    with pytest.raises(WeightsError, match="is another file"):
        pretrained.weights_file("resnet18")


class Code:
    """What unpickling would run."""

    def __reduce__(self):
        return (print, ("ran",))


def test_a_file_that_would_run_code_is_refused(served, capsys):
    served("resnet18", {"conv1.weight": Code()})
    with pytest.raises(WeightsError, match="holds more than tensors"):
        pretrained.load_weights("resnet18")
    assert "ran" not in capsys.readouterr().out


@pytest.mark.parametrize("student", ["convnet", "vit_tiny", "vit_small"])
def test_students_without_weights_say_who_has_them(student):
    with pytest.raises(ValueError, match=f"no ImageNet weights for {student}; it has them for resnet18"):
        build(student, 32, 5, 0, "imagenet")


def test_an_unknown_init_is_refused():
    with pytest.raises(ValueError, match="unknown init 'imagenet21k'; did you mean 'imagenet'"):
        build("resnet18", 32, 5, 0, "imagenet21k")


def test_the_digest_is_sha256(tmp_path):
    (tmp_path / "file").write_bytes(b"abc")
    assert sha256(tmp_path / "file") == hashlib.sha256(b"abc").hexdigest()
