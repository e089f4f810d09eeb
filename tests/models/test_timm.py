"""Networks of timm: adapted to small images, drawn by the seed, with a linear head of ours."""

import pytest
import torch
from torch import nn

from helpers.command_line import cli, done
from poisonbench.core.errors import UsageError
from poisonbench.models import build_model, check_model
from poisonbench.models.classifier import Classifier
from poisonbench.models.folding import folded

timm = pytest.importorskip("timm")

SHAPES = [(1, 28, 28), (3, 32, 32), (3, 64, 64)]


def build(name: str, shape, seed=0) -> Classifier:
    generator = torch.Generator().manual_seed(seed)
    return build_model(f"timm:{name}", shape, 5, (0.5,) * shape[0], (0.2,) * shape[0], generator)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["resnet18", "convnext_atto", "efficientnet_b0"])
def test_known_networks_take_small_images(name, shape):
    """On the meta device, that is without the work."""
    check_model(f"timm:{name}", shape)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_a_small_one_of_each_kind_is_the_seed_s(name, shape):
    state = torch.get_rng_state()
    first, again, other = (build(name, shape, seed) for seed in (0, 0, 1))
    images = torch.rand(3, *shape, generator=torch.Generator().manual_seed(0))
    logits = first(images)
    logits.square().sum().backward()
    # Neither its weights nor its training draw from the global generator.
    assert torch.equal(torch.get_rng_state(), state)
    assert logits.shape == (3, 5)
    assert isinstance(first.head, nn.Linear)
    assert first.head.in_features == first.embed(images).shape[1]
    assert all(p.grad is not None and p.grad.isfinite().all() for p in first.parameters())
    pairs = zip(again.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(one, two) for one, two in pairs)
    # The first training pass moved batch norm's statistics: a frozen copy must have them.
    first.eval()
    with torch.no_grad():
        torch.testing.assert_close(folded(first)(images), first(images), rtol=1e-4, atol=1e-5)
        assert torch.equal(build(name, shape).eval()(images), again.eval()(images))


@pytest.mark.parametrize(
    ("shape", "side"), [((1, 28, 28), 4), ((3, 32, 32), 4), ((3, 64, 64), 8), ((3, 96, 96), 16)]
)
def test_patches_are_small_on_small_images(shape, side):
    with torch.device("meta"):
        from poisonbench.models.outside import outside_features

        layers, width = outside_features("timm:vit_tiny_patch16_224", shape)
    assert layers.patch_embed.proj.kernel_size == (side, side)
    assert width == 192


def test_layers_behind_patches_that_leave_too_little(monkeypatch):
    with torch.device("meta"):
        from poisonbench.models.outside import outside_features

        small, large = (outside_features("timm:convnext_atto", (3, s, s))[0] for s in (28, 32))
    assert (small.stem[0].stride, large.stem[0].stride) == ((2, 2), (4, 4))


def test_a_stem_that_must_shrink_is_left():
    """RepVGG adds up convolutions side by side: one of them alone cannot keep the size."""
    with torch.device("meta"):
        from poisonbench.models.outside import outside_features

        layers, width = outside_features("timm:repvgg_a0", (3, 32, 32))
    assert layers.stem.conv_kxk.conv.stride == (2, 2)
    assert width == 1280


def test_chance_is_turned_off():
    with torch.device("meta"):
        from poisonbench.models.outside import outside_features

        layers, _ = outside_features("timm:swin_tiny_patch4_window7_224", (3, 32, 32))
    drops = [m.drop_prob for m in layers.modules() if type(m).__name__ == "DropPath"]
    assert drops
    assert set(drops) == {0.0}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("resnet81", "expected a network of timm.list_models"),
        ("vgg11", r"images of shape \(1, 28, 28\), got .*or larger images, such as NAME@64x64"),
    ],
)
def test_what_cannot_be_used_is_a_clear_sentence(name, reason):
    with pytest.raises(UsageError, match=reason):
        check_model(f"timm:{name}", (1, 28, 28))


@pytest.mark.parametrize(
    ("model", "method", "options"),
    [
        ("test_vit", "hint", ("--schedule", "1")),
        ("test_efficientnet", "epic", ("--warmup", "1", "--interval", "1")),
        ("test_convnext", "spectral", ()),
    ],
)
def test_defenses_that_look_at_features(tiny, results, model, method, options):
    words = ("--dataset", f"{tiny}@28x28", "--model", f"timm:{model}", "--epochs", "2")
    attack = ("--attack", "durp", "--rho", "0.5")
    command = ("defend", "--method", method, *options, *attack, *words)
    run = done(*command, "--results", results, "--json").json
    assert run["test_accuracy"] >= 0
    assert cli("report", "--runs", "--results", results).code == 0
