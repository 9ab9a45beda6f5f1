"""The model that leaves the search, and its way into the store and back."""

from __future__ import annotations

import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from tunesmith_package.store import Store
from tunesmith_trainer.search.backbones import ImageClassifier, build_backbone
from tunesmith_trainer.search.heads import Head
from tunesmith_trainer.search.stored_weights import fetch_weights


@dataclass(frozen=True)
class CandidateFacts:
    """What is known of a candidate besides its weights.

    Attributes:
        backbone: torchvision's name.
        weights: where the pretrained weights came from, for people.
        weights_digest: digest of the pretrained weights.
        strategy: ``LinearProbe`` or ``FineTune``.
        trial_id: the trial whose hyper-parameters it has.
        image_size: side of its input in pixels.
        mean: normalisation, RGB in 0..1.
        std: normalisation.
        num_classes: K.
        temperature: fitted on held-out images and already folded into the head.
        selection: one sentence: why this one.
        probe_accuracy: held-out accuracy of the linear probe.
        probe_loss: held-out negative log likelihood of the linear probe, nats.
    """

    backbone: str
    weights: str
    weights_digest: str
    strategy: str
    trial_id: str
    image_size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_classes: int
    temperature: float
    selection: str
    probe_accuracy: float
    probe_loss: float


@dataclass(frozen=True)
class Candidate:
    """A classifier in evaluation mode on the CPU; its logits are calibrated."""

    model: ImageClassifier
    facts: CandidateFacts


def set_head(model: ImageClassifier, head: Head, temperature: float = 1.0) -> None:
    """Put a trained head on a classifier, divided by a temperature (Guo et al. 2017)."""
    with torch.no_grad():
        model.head.weight.copy_(torch.from_numpy(head.weight) / temperature)
        model.head.bias.copy_(torch.from_numpy(head.bias) / temperature)


def scale_head(model: ImageClassifier, temperature: float) -> None:
    """Divide a classifier's logits by a temperature, in its head."""
    with torch.no_grad():
        model.head.weight.div_(temperature)
        model.head.bias.div_(temperature)


def store_candidate(candidate: Candidate, store: Store, key: str) -> None:
    """Write a candidate as one safetensors file."""
    facts = json.dumps(asdict(candidate.facts))
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = Path(folder) / "candidate.safetensors"
        state = {
            name: value.detach().cpu().contiguous() for name, value in candidate.model.state_dict().items()
        }
        save_file(state, path, {"facts": facts})
        store.put(key, path)


def restore_candidate(store: Store, key: str, facts: CandidateFacts) -> Candidate:
    """Read what ``store_candidate`` wrote.

    Raises:
        ObjectMissing: it is gone.
        ObjectDamaged: it is not whole.
    """
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = Path(folder) / "candidate.safetensors"
        fetch_weights(store, key, path, "Delete that run's search.json and run the same command again.")
        model = ImageClassifier(build_backbone(facts.backbone, facts.image_size), facts.num_classes)
        model.load_state_dict(load_file(path))
    return Candidate(model.eval(), facts)
