import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torchvision.models import ConvNeXt, SwinTransformer, VisionTransformer
from torchvision.models.convnext import CNBlockConfig
from torchvision.models.swin_transformer import PatchMergingV2, SwinTransformerBlockV2

from tunesmith_package.inference import Predictor, softmax
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.publish.export import ExportFailed, export_classifier
from tunesmith_trainer.search.backbones import Backbone, ImageClassifier, build_backbone

LABELS = ("ant", "bee", "wäsp")


def small_convnext() -> Any:
    settings = [CNBlockConfig(16, 32, 1), CNBlockConfig(32, 48, 2), CNBlockConfig(48, None, 1)]
    return ConvNeXt(settings)


def small_swin() -> Any:
    return SwinTransformer([4, 4], 16, [2, 2], [2, 4], [2, 2])


def small_swin_v2() -> Any:
    return SwinTransformer(
        [4, 4], 16, [2, 2], [2, 4], [2, 2], block=SwinTransformerBlockV2, downsample_layer=PatchMergingV2
    )


def small_vit() -> Any:
    return VisionTransformer(32, 8, num_layers=2, num_heads=2, hidden_dim=32, mlp_dim=64)


SMALL = {"convnext": small_convnext, "swin": small_swin, "swin_v2": small_swin_v2, "vit": small_vit}
"""Families whose smallest published network has over 28 million weights: the same layers, fewer of them."""


def classifier(name: str, size: int) -> ImageClassifier:
    """A network with random weights whose batch statistics fit, so that its probabilities are not trivial."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        backbone = Backbone(name, SMALL[name]()) if name in SMALL else build_backbone(name, size, seed=1)
        model = ImageClassifier(backbone, len(LABELS)).train()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None
        images = torch.from_numpy(preprocess(size).normalise(photos(32, size)))
        with torch.no_grad():
            model(images)
            embeddings = model.eval()(images)[1]
            model.head.weight.normal_()
            model.head.weight /= embeddings.std(dim=0).norm()
            model.head.bias.normal_(0, 0.1)
    return model.train()  # the export must not depend on the mode it is given


def preprocess(size: int) -> Preprocess:
    return Preprocess(size, "CenterCrop", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def photos(count: int, size: int) -> npt.NDArray[np.uint8]:
    generator = np.random.default_rng(0)
    small = generator.integers(0, 256, size=(count, 8, 8, 3), dtype=np.uint8)
    return small.repeat(size // 8, axis=1).repeat(size // 8, axis=2)


@pytest.mark.parametrize(
    ("name", "size", "has_map"),
    [
        ("resnet18", 64, True),
        ("mobilenet_v2", 64, True),
        ("efficientnet_b0", 64, True),
        ("convnext", 32, True),
        ("swin", 32, True),
        ("swin_v2", 32, True),
        ("regnet_y_400mf", 64, True),
        ("vit", 32, False),
    ],
)
def test_export_of_each_family_predicts_what_torch_predicts(
    name: str, size: int, has_map: bool, tmp_path: Path
) -> None:
    model = classifier(name, size)
    exported = export_classifier(model, preprocess(size), LABELS, photos(4, size), tmp_path)
    predictor = Predictor(tmp_path, threads=1)
    assert exported.opset == 17  # the fast exporter, not its fallback
    assert predictor.has_feature_map is has_map
    assert exported.difference <= 1e-4
    assert exported.outputs[:2] == ("logits", "embedding")
    images = preprocess(size).normalise(photos(5, size))
    with torch.inference_mode():
        logits, embedding, feature_map = model(torch.from_numpy(images))
    outputs = predictor.run(images)
    probabilities = torch.softmax(logits, dim=1).numpy()
    assert np.ptp(probabilities, axis=0).max() > 0.1
    assert softmax(outputs.logits) == pytest.approx(probabilities, abs=1e-4)
    assert outputs.embedding == pytest.approx(embedding.numpy(), rel=1e-3, abs=1e-4)
    if has_map:
        assert outputs.feature_map == pytest.approx(feature_map.numpy(), rel=1e-3, abs=1e-3)


def test_export_writes_weights_labels_and_preprocessing(tmp_path: Path) -> None:
    model = classifier("mobilenet_v3_small", 64)
    exported = export_classifier(model, preprocess(32), LABELS, photos(1, 32), tmp_path)
    state = load_file(tmp_path / "weights.safetensors")
    assert set(state) == set(model.state_dict())
    assert torch.equal(state["head.weight"], model.head.weight)
    assert torch.equal(state["head.bias"], model.head.bias)
    assert json.loads((tmp_path / "labels.json").read_text("utf-8")) == list(LABELS)
    assert Preprocess.from_json((tmp_path / "preprocess.json").read_bytes()) == preprocess(32)
    graph = onnx.load(tmp_path / "model.onnx")
    assert graph.opset_import[0].version == exported.opset


def test_export_of_the_same_model_twice_gives_the_same_bytes(tmp_path: Path) -> None:
    model = classifier("mobilenet_v3_small", 64)
    written = []
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        export_classifier(model, preprocess(32), LABELS, photos(4, 32), tmp_path / folder)
        written.append([path.read_bytes() for path in sorted((tmp_path / folder).iterdir())])
    assert written[0] == written[1]


class Branching(nn.Module):
    """Doubles its logits for bright images: the tracer sees one side of the branch only."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, len(LABELS))
        with torch.no_grad():
            self.head.weight.copy_(torch.eye(3) * 5)

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        embedding = images.mean((2, 3))
        logits = self.head(embedding)
        if images[0].mean() > 0:
            logits = logits * 2
        return logits, embedding, None


def test_export_of_a_model_that_branches_on_its_input_is_refused_not_published(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    samples = np.concatenate([np.full((1, 16, 16, 3), 250, np.uint8), np.full((3, 16, 16, 3), 5, np.uint8)])
    samples[:, :, :, 0] //= 2
    with pytest.raises(ExportFailed, match=r"ONNX graph (differs|cannot be written)"):
        export_classifier(Branching(), preprocess(16), LABELS, samples, tmp_path)
    printed = capsys.readouterr().out
    assert printed == ""


class Headless(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.classifier = nn.Linear(3, len(LABELS))

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        embedding = images.mean((2, 3))
        return self.classifier(embedding), embedding, None


def test_export_of_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportFailed, match=r"no head\.bias and no head\.weight"):
        export_classifier(Headless(), preprocess(16), LABELS, photos(1, 16), tmp_path)
