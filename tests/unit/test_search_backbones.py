"""Torchvision networks as backbones, one of each family, with random weights at a small size."""

from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file

from tunesmith_api.reasons import WeightsMissing
from tunesmith_trainer.search.backbones import Backbone, ImageClassifier, build_backbone, load_backbone

FAMILIES = [
    ("resnet18", True),
    ("resnext50_32x4d", True),
    ("mobilenet_v2", True),
    ("mobilenet_v3_small", True),
    ("efficientnet_b0", True),
    ("efficientnet_v2_s", True),
    ("convnext_tiny", True),
    ("regnet_y_400mf", True),
    ("swin_t", True),
    ("swin_v2_t", True),
    ("densenet121", True),
    ("shufflenet_v2_x0_5", True),
    ("mnasnet0_5", True),
    ("vit_b_32", False),
    ("googlenet", False),
]


@pytest.mark.parametrize(("name", "has_map"), FAMILIES, ids=[name for name, _ in FAMILIES])
def test_backbone_map_averages_and_classifies_like_the_network(name: str, has_map: bool) -> None:
    backbone = build_backbone(name, 64)
    model = ImageClassifier(backbone, 3).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        logits, embedding, embedding_map = model(images)
        again = model.logits(images)
    assert logits.shape == (2, 3)
    assert embedding.shape == (2, backbone.feature_dim)
    torch.testing.assert_close(logits, again)
    assert backbone.has_feature_map is has_map
    if embedding_map is None:
        assert not has_map
    else:
        assert embedding_map.shape[:2] == embedding.shape
    assert torch.isfinite(embedding).all()
    parameters = {id(parameter) for block in backbone.blocks for parameter in block.parameters()}
    outside = [name for name, p in backbone.named_parameters() if id(p) not in parameters]
    assert len(outside) <= 2, f"in no block: {outside}"


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "regnet_y_400mf"])
def test_backbone_with_a_plain_tail_has_a_map_whose_mean_is_the_embedding(name: str) -> None:
    backbone = build_backbone(name, 96)
    with torch.inference_mode():
        embedding, embedding_map = backbone(torch.randn(1, 3, 96, 96))
    assert embedding_map is not None
    torch.testing.assert_close(embedding_map.mean((2, 3)), embedding, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "convnext_tiny", "swin_t", "resnet18"])
def test_backbone_embedding_is_what_torchvisions_classifier_sees(name: str) -> None:
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    seen: list[torch.Tensor] = []
    last = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    last.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        network(images)
        embedding = Backbone(name, network).eval().embed(images)
    torch.testing.assert_close(embedding, seen[0], rtol=1e-4, atol=1e-5)


def test_weights_without_a_classifier_are_loaded(tmp_path: Path) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    save_file(
        {key: value for key, value in state.items() if not key.startswith("fc.")}, tmp_path / "w.safetensors"
    )
    pretrained = load_backbone("resnet18", 64, weights=None, weights_file=tmp_path / "w.safetensors")
    torch.testing.assert_close(
        pretrained.backbone.state_dict()["network.conv1.weight"], state["conv1.weight"]
    )
    assert pretrained.weights_digest.startswith("sha256:")
    assert pretrained.mean == (0.485, 0.456, 0.406)


def test_weights_of_another_network_are_refused_with_the_first_wrong_tensor(tmp_path: Path) -> None:
    save_file(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "w.safetensors")
    with pytest.raises(WeightsMissing, match="does not hold the weights of mobilenet_v2"):
        load_backbone("mobilenet_v2", 64, weights=None, weights_file=tmp_path / "w.safetensors")


def test_vit_checkpoint_of_another_size_is_interpolated(tmp_path: Path) -> None:
    save_file(
        torchvision.models.vit_b_32(weights=None, image_size=96).state_dict(), tmp_path / "w.safetensors"
    )
    pretrained = load_backbone("vit_b_32", 64, weights=None, weights_file=tmp_path / "w.safetensors")
    with torch.inference_mode():
        assert pretrained.backbone.embed(torch.randn(1, 3, 64, 64)).shape == (1, 768)


@pytest.mark.parametrize(
    ("name", "size", "sentence"),
    [
        pytest.param(
            "resnet19", 64, "There is no torchvision backbone", id="an unknown name lists the known ones"
        ),
        pytest.param("vit_b_16", 100, "imageSize 100 is no multiple", id="a ViT whose patches do not fit"),
    ],
)
def test_backbone_that_cannot_be_built_says_what_to_write(name: str, size: int, sentence: str) -> None:
    with pytest.raises(WeightsMissing, match=sentence):
        build_backbone(name, size)


def test_unknown_torchvision_weights_list_the_known_ones() -> None:
    with pytest.raises(WeightsMissing, match="IMAGENET1K_V1"):
        load_backbone("resnet18", 64, weights="IMAGENET22K", weights_file=None)
