"""Torchvision classification networks as backbones: embedding, spatial embedding map, blocks and weights."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesmith_api.reasons import WeightsMissing
from tunesmith_trainer.lean_torchvision import torchvision

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

Trunk = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Anatomy:
    """How a torchvision network falls into trunk, tail and blocks.

    Attributes:
        trunk: maps images ``[n, 3, S, S]`` to the last feature map ``[n, C, h, w]``; None where the network
            has no map that is pooled globally (ViT, VGG, ...): then the whole network gives the embedding.
        tail: maps pooled features ``[..., C]`` to the embedding ``[..., D]`` (LayerNorm or hidden layers).
        blocks: the parts from input to output, for layer-wise learning rates and gradual unfreezing.
        feature_dim: D.
        stride: pixels of the input per cell of the feature map; the image side should be at least this.
    """

    trunk: Trunk | None
    tail: Trunk
    blocks: tuple[nn.Module, ...]
    feature_dim: int


class Backbone(nn.Module):
    """A torchvision network without its classifier.

    ``forward`` maps normalised images float32 ``[n, 3, S, S]`` to the embedding ``[n, D]`` and the embedding
    map ``[n, D, h, w]`` (the tail applied at each location), or None where the network pools otherwise.
    """

    def __init__(self, name: str, network: nn.Module) -> None:
        """Take over ``network``, a torchvision classification model named ``name``; its classifier goes."""
        super().__init__()
        self.name = name
        self.network = network
        self._anatomy = dissect(network)

    @property
    def feature_dim(self) -> int:
        """Width D of the embedding."""
        return self._anatomy.feature_dim

    @property
    def has_feature_map(self) -> bool:
        """Whether ``forward`` gives a map from which class activations follow."""
        return self._anatomy.trunk is not None

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The parts of the network from input to output."""
        return self._anatomy.blocks

    def embed(self, images: Tensor) -> Tensor:
        """Embed normalised images ``[n, 3, S, S]`` as ``[n, D]``."""
        anatomy = self._anatomy
        if anatomy.trunk is None:
            return cast(Tensor, self.network(images))
        return anatomy.tail(anatomy.trunk(images).mean((2, 3)))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embed images and give the embedding map, see the class."""
        anatomy = self._anatomy
        if anatomy.trunk is None:
            return cast(Tensor, self.network(images)), None
        feature_map = anatomy.trunk(images)
        embedding = anatomy.tail(feature_map.mean((2, 3)))
        embedding_map = anatomy.tail(feature_map.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return embedding, embedding_map


class ImageClassifier(nn.Module):
    """A backbone with a linear head over K classes.

    ``forward`` maps normalised images ``[n, 3, S, S]`` to ``(logits [n, K], embedding [n, D], embedding map
    [n, D, h, w] or None)``.
    """

    def __init__(self, backbone: Backbone, num_classes: int) -> None:
        """Put a zero-initialised head on ``backbone``."""
        super().__init__()
        self.backbone = backbone
        self.head = nn.Linear(backbone.feature_dim, num_classes)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Classify images, see the class."""
        embedding, embedding_map = self.backbone(images)
        return self.head(embedding), embedding, embedding_map

    def logits(self, images: Tensor) -> Tensor:
        """Only the logits ``[n, K]``: what training needs."""
        return cast(Tensor, self.head(self.backbone.embed(images)))


def _identity(features: Tensor) -> Tensor:
    return features


def _layer_norm(norm: nn.LayerNorm) -> Trunk:
    # ConvNeXt's LayerNorm2d wants NCHW; on pooled features and on maps laid out [..., C] it is this.
    return lambda features: F.layer_norm(features, norm.normalized_shape, norm.weight, norm.bias, norm.eps)


def dissect(network: nn.Module) -> Anatomy:
    """Find trunk, tail and blocks of a torchvision classification network, and cut its classifier off.

    The known families pool their last feature map globally, so each location has an embedding of its own
    (the base of class activation maps, Zhou et al. 2016). Others keep their forward pass with the last linear
    layer replaced by the identity.

    Raises:
        ValueError: the network has no linear layer at its end.
    """
    models = torchvision.models
    net = cast(Any, network)
    match network:
        case models.ResNet():
            stages = (net.layer1, net.layer2, net.layer3, net.layer4)
            stem = nn.Sequential(net.conv1, net.bn1, net.relu, net.maxpool)
            dim, net.fc = net.fc.in_features, nn.Identity()
            return Anatomy(nn.Sequential(stem, *stages), _identity, (stem, *stages), dim)
        case models.MobileNetV3():
            hidden = nn.Sequential(net.classifier[0], net.classifier[1])
            dim, net.classifier = net.classifier[3].in_features, hidden
            return Anatomy(net.features, hidden, (*net.features, hidden), dim)
        case models.MobileNetV2() | models.EfficientNet():
            dim, net.classifier = net.classifier[-1].in_features, nn.Identity()
            return Anatomy(net.features, _identity, tuple(net.features), dim)
        case models.ConvNeXt():
            norm, dim = net.classifier[0], net.classifier[2].in_features
            net.classifier = norm
            return Anatomy(net.features, _layer_norm(norm), (*net.features, norm), dim)
        case models.RegNet():
            dim, net.fc = net.fc.in_features, nn.Identity()
            blocks = (net.stem, *net.trunk_output)
            return Anatomy(nn.Sequential(net.stem, net.trunk_output), _identity, blocks, dim)
        case models.SwinTransformer():
            dim, net.head = net.head.in_features, nn.Identity()
            trunk = nn.Sequential(net.features, net.norm, net.permute)
            return Anatomy(trunk, _identity, (*net.features, net.norm), dim)
        case models.DenseNet():
            dim, net.classifier = net.classifier.in_features, nn.Identity()
            return Anatomy(nn.Sequential(net.features, nn.ReLU()), _identity, tuple(net.features), dim)
        case models.ShuffleNetV2():
            blocks = (net.conv1, net.maxpool, net.stage2, net.stage3, net.stage4, net.conv5)
            dim, net.fc = net.fc.in_features, nn.Identity()
            return Anatomy(nn.Sequential(*blocks), _identity, blocks, dim)
        case models.MNASNet():
            dim, net.classifier = net.classifier[1].in_features, nn.Identity()
            return Anatomy(net.layers, _identity, tuple(net.layers), dim)
        case models.VisionTransformer():
            dim, net.heads = net.heads[-1].in_features, nn.Identity()
            return Anatomy(None, _identity, (net.conv_proj, *net.encoder.layers, net.encoder.ln), dim)
    return _dissect_unknown(network)


def _dissect_unknown(network: nn.Module) -> Anatomy:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        raise ValueError(f"{type(network).__name__} does not end in a linear layer")
    parent, _, leaf = linear[-1].rpartition(".")
    dim = cast(nn.Linear, network.get_submodule(linear[-1])).in_features
    setattr(network.get_submodule(parent), leaf, nn.Identity())
    return Anatomy(None, _identity, tuple(network.children()), dim)


def _new_network(name: str, image_size: int) -> nn.Module:
    """A torchvision network with random weights, laid out for images of ``image_size`` pixels a side."""
    if name not in torchvision.models.list_models(module=torchvision.models):
        known = ", ".join(torchvision.models.list_models(module=torchvision.models))
        raise WeightsMissing(f"There is no torchvision backbone {name!r}.", f"Choose one of: {known}.")
    options: dict[str, Any] = {}
    if name in ("googlenet", "inception_v3"):
        options = {"aux_logits": False, "init_weights": False, "transform_input": True}
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        if image_size % patch:
            raise WeightsMissing(
                f"{name} cuts images into patches of {patch} pixels; imageSize {image_size} is no multiple.",
                f"Set spec.transfer.imageSize to {image_size // patch * patch or patch}.",
            )
        options = {"image_size": image_size}
    if name.startswith("maxvit"):
        options = {"input_size": (image_size, image_size)}
    try:
        return cast(nn.Module, torchvision.models.get_model(name, weights=None, **options))
    except ValueError as error:
        raise WeightsMissing(
            f"{name} cannot be built for images of {image_size} pixels: {error}.",
            "Set spec.transfer.imageSize to 224, or choose another backbone.",
        ) from error


def _fit_state(name: str, state: dict[str, Tensor], image_size: int) -> dict[str, Tensor]:
    """Make a checkpoint fit the image size: ViT position embeddings are interpolated (Dosovitskiy 2021)."""
    if name.startswith("vit_"):
        patch = int(name.rsplit("_", 1)[1])
        return dict(
            torchvision.models.vision_transformer.interpolate_embeddings(image_size, patch, dict(state))
        )
    return state


def _load_state(network: nn.Module, name: str, state: dict[str, Tensor], source: str) -> None:
    """Load a torchvision state dict whose classifier may be absent or of another width.

    Raises:
        WeightsMissing: tensors of the backbone itself are missing or have other shapes.
    """
    own = network.state_dict()
    classifier = _classifier_prefixes(network)
    wrong = [
        key
        for key, value in own.items()
        if not key.startswith(classifier) and (key not in state or state[key].shape != value.shape)
    ]
    if wrong:
        raise WeightsMissing(
            f"{source} does not hold the weights of {name}: {len(wrong)} tensors are missing or have other "
            f"shapes, the first is {wrong[0]}.",
            f"Give a safetensors file of torchvision's {name}().state_dict(), with or without classifier.",
        )
    usable = {
        key: state[key] for key, value in own.items() if key in state and state[key].shape == value.shape
    }
    network.load_state_dict(usable, strict=False)


def _classifier_prefixes(network: nn.Module) -> tuple[str, ...]:
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    prefixes = [f"{linear[-1]}."] if linear else []
    if isinstance(network, torchvision.models.MobileNetV2 | torchvision.models.EfficientNet):
        prefixes = ["classifier."]
    return tuple(prefixes)


def build_backbone(name: str, image_size: int, *, seed: int = 0) -> Backbone:
    """A backbone with random weights (a test's, or training from scratch).

    Args:
        name: a torchvision classification model.
        image_size: side of the square images in pixels.
        seed: of the random weights.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Backbone(name, _new_network(name, image_size)).eval()


@dataclass(frozen=True)
class Pretrained:
    """A backbone with its weights' digest and the normalisation that they expect (RGB in 0..1)."""

    backbone: Backbone
    weights_digest: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


def load_backbone(
    name: str, image_size: int, *, weights: str | None, weights_file: Path | None
) -> Pretrained:
    """Build a backbone and load its pretrained weights.

    Args:
        name: a torchvision classification model, for example ``mobilenet_v2``.
        image_size: side of the square images in pixels.
        weights: name of torchvision's weights (``IMAGENET1K_V1``), which torchvision downloads on first use,
            or ``Random`` for none.
        weights_file: a safetensors file of the torchvision model's state dict; wins over ``weights``.

    Raises:
        WeightsMissing: no such backbone or weights, weights of another network, or no way to download them.
    """
    network = _new_network(name, image_size)
    mean, std = _normalisation(name, weights)
    if weights_file is not None:
        state = load_file(weights_file)
        digest = "sha256:" + _file_sha256(weights_file)
        source = weights_file.name
    elif weights == "Random":
        return Pretrained(build_backbone(name, image_size), f"random:{name}", mean, std)
    else:
        state = _download(name, weights)
        digest = "sha256:" + _state_sha256(state)
        source = f"torchvision's {weights}"
    _load_state(network, name, _fit_state(name, state, image_size), source)
    return Pretrained(Backbone(name, network).eval(), digest, mean, std)


def _normalisation(
    name: str, weights: str | None
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    if weights is None or weights == "Random":
        return IMAGENET_MEAN, IMAGENET_STD
    preset = _weights_entry(name, weights).transforms()
    return tuple(preset.mean), tuple(preset.std)


def _weights_entry(name: str, weights: str) -> Any:
    entries = torchvision.models.get_model_weights(name)
    try:
        return entries[weights]
    except KeyError:
        known = ", ".join(entry.name for entry in entries)
        raise WeightsMissing(
            f"torchvision has no weights {weights!r} for {name}.", f"Choose one of: {known}."
        ) from None


def _download(name: str, weights: str | None) -> dict[str, Tensor]:
    entry = _weights_entry(name, weights or "DEFAULT")
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsMissing(
            f"The weights {entry.name} of {name} are not here and could not be downloaded ({error}).",
            "Set backbones[].weightsUri to a safetensors file of the state dict, "
            "or run where torchvision's downloads are reachable.",
        ) from error


def _file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _state_sha256(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
