"""A hyper-parameter search over MobileNetV2 as Ray's documentation teaches it for PyTorch.

It follows the guide "Hyperparameter tuning with Ray Tune and PyTorch" (docs.ray.io, Ray Tune examples): a
training function with data loaders over an image folder, a report and a checkpoint after each epoch,
``ASHAScheduler(grace_period=1, reduction_factor=2)``, ten epochs at most, and a last look at the test
images with the best checkpoint. The network is torchvision's with a new last layer, as PyTorch's tutorial on
transfer learning has it. Each trial decodes its images, runs the backbone over them and trains its head,
each epoch.

Whatever makes it faster without changing what is taught is done: channels-last tensors, one processor for
each trial so that all are busy, no loader processes that would compete with it, no dashboard. The guide's own
tensors are contiguous (``--contiguous``), its trials have two processors and eight loader processes.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import ray
import torch
from ray import tune
from ray.tune.schedulers import ASHAScheduler
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader, Subset
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

PROBE_EPOCHS = 10
FINE_TUNE_EPOCHS = 12
BATCH_SIZE = 32
FEATURES = 1_280
VALIDATION = 0.15
IMAGENET = transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def evaluation_transform(image_size: int) -> transforms.Compose:
    """The middle square, as a normalised tensor."""
    steps = [
        transforms.Resize(image_size),
        transforms.CenterCrop(image_size),
        transforms.ToTensor(),
        IMAGENET,
    ]
    return transforms.Compose(steps)


def training_transform(image_size: int) -> transforms.Compose:
    """A random part, perhaps mirrored, as a normalised tensor."""
    steps = [
        transforms.RandomResizedCrop(image_size),
        transforms.RandomHorizontalFlip(),
        transforms.ToTensor(),
        IMAGENET,
    ]
    return transforms.Compose(steps)


def load_data(config: dict[str, Any]) -> tuple[DataLoader[Any], DataLoader[Any]]:
    """Loaders of the training and validation images; the split is the same in all trials."""
    folder, size = f"{config['data']}/train", config["image_size"]
    varied = training_transform(size) if config["strategy"] == "FineTune" else evaluation_transform(size)
    count = len(ImageFolder(folder))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(0)).tolist()
    held_out = round(VALIDATION * count)
    train = Subset(ImageFolder(folder, varied), order[held_out:])
    validation = Subset(ImageFolder(folder, evaluation_transform(size)), order[:held_out])
    workers = config["loader_workers"]
    return (
        DataLoader(train, BATCH_SIZE, shuffle=True, num_workers=workers),
        DataLoader(validation, BATCH_SIZE, num_workers=workers),
    )


def build_model(config: dict[str, Any]) -> nn.Module:
    """MobileNetV2 with pretrained weights and a new last layer; frozen below it for a linear probe."""
    model: nn.Module = models.mobilenet_v2()
    model.load_state_dict(load_file(config["weights"]), strict=False)
    model.requires_grad_(config["strategy"] == "FineTune")
    model.classifier = nn.Linear(FEATURES, config["classes"])
    return model.to(memory_format=memory_format(config))


def memory_format(config: dict[str, Any]) -> torch.memory_format:
    """How images lie in memory."""
    return torch.contiguous_format if config["contiguous"] else torch.channels_last


def set_training(model: nn.Module, strategy: str) -> None:
    """Training mode; a frozen backbone keeps its batch-norm statistics."""
    model.train()
    if strategy == "LinearProbe":
        model.get_submodule("features").eval()


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any], memory: torch.memory_format) -> tuple[float, float]:
    """Mean loss and accuracy."""
    model.eval()
    loss, correct, total = 0.0, 0, 0
    for images, labels in loader:
        outputs = model(images.contiguous(memory_format=memory))
        loss += float(nn.functional.cross_entropy(outputs, labels, reduction="sum"))
        correct += int((outputs.argmax(1) == labels).sum())
        total += len(labels)
    return loss / total, correct / total


def train_photos(config: dict[str, Any]) -> None:
    """One trial."""
    model = build_model(config)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config["learningRate"], weight_decay=config["weightDecay"])
    train_loader, validation_loader = load_data(config)
    for _ in range(
        config["epochs"] or (FINE_TUNE_EPOCHS if config["strategy"] == "FineTune" else PROBE_EPOCHS)
    ):
        set_training(model, config["strategy"])
        for images, labels in train_loader:
            optimizer.zero_grad()
            outputs = model(images.contiguous(memory_format=memory_format(config)))
            nn.functional.cross_entropy(outputs, labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        loss, accuracy = evaluate(model, validation_loader, memory_format(config))
        with tempfile.TemporaryDirectory() as folder:
            torch.save(model.state_dict(), Path(folder) / "checkpoint.pt")
            tune.report(
                {"loss": loss, "accuracy": accuracy}, checkpoint=tune.Checkpoint.from_directory(folder)
            )


def test_accuracy(result: tune.Result) -> float:
    """Accuracy of a trial's last checkpoint on the test images."""
    config = result.config
    assert config is not None
    assert result.checkpoint is not None
    model = build_model(config)
    with result.checkpoint.as_directory() as folder:
        model.load_state_dict(torch.load(Path(folder) / "checkpoint.pt", weights_only=True))
    # Some sets call it val/, beside train/ alone.
    [held_out] = [one for one in map(Path(config["data"]).joinpath, ("test", "val")) if one.is_dir()]
    images = ImageFolder(held_out, evaluation_transform(config["image_size"]))
    return evaluate(model, DataLoader(images, BATCH_SIZE), memory_format(config))[1]


def search(options: argparse.Namespace, storage: str) -> dict[str, Any]:
    """Run the search and return what is told of it."""
    strategies = options.strategies.split(",")
    longest = FINE_TUNE_EPOCHS if "FineTune" in strategies else PROBE_EPOCHS
    tuner = tune.Tuner(
        tune.with_resources(train_photos, {"cpu": options.cpus_per_trial}),
        param_space={
            "strategy": tune.grid_search(strategies),
            "learningRate": tune.loguniform(*options.learning_rate),
            "weightDecay": tune.loguniform(*options.weight_decay),
            "data": str(options.data.absolute()),
            "weights": str(options.weights.absolute()),
            "classes": len(ImageFolder(options.data / "train").classes),
            "image_size": options.image_size,
            "epochs": options.epochs,
            "loader_workers": options.loader_workers,
            "contiguous": options.contiguous,
        },
        tune_config=tune.TuneConfig(
            metric="loss",
            mode="min",
            scheduler=ASHAScheduler(max_t=options.epochs or longest, grace_period=1, reduction_factor=2),
            num_samples=options.trials // len(strategies),
        ),
        run_config=tune.RunConfig(name="plain", storage_path=storage, verbose=0),
    )
    results = tuner.fit()
    best = results.get_best_result()
    assert best.metrics is not None
    rows = [one.metrics for one in (results[index] for index in range(len(results))) if one.metrics]
    return {
        "trials": len(results),
        "failed": len(results.errors),
        "epochs": sum(int(row["training_iteration"]) for row in rows),
        "trialSeconds": [round(float(row["time_total_s"]), 3) for row in rows],
        "validationAccuracy": best.metrics["accuracy"],
        "testAccuracy": test_accuracy(best),
        "best": {name: best.metrics["config"][name] for name in ("strategy", "learningRate", "weightDecay")},
    }


def main() -> None:
    """Search, and print the outcome as one line of JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder with train/ and test/")
    parser.add_argument("--weights", type=Path, required=True, help="MobileNetV2 as safetensors")
    parser.add_argument("--trials", type=int, default=10)
    parser.add_argument(
        "--strategies", default="LinearProbe", help="LinearProbe, FineTune or both with a comma"
    )
    parser.add_argument("--epochs", type=int, default=0, help="at most; 0 for 10 (12 when fine-tuning)")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--learning-rate", type=float, nargs=2, default=(1e-4, 1e-2))
    parser.add_argument("--weight-decay", type=float, nargs=2, default=(1e-5, 1e-1))
    parser.add_argument("--cpus-per-trial", type=int, default=1)
    parser.add_argument("--loader-workers", type=int, default=0)
    parser.add_argument("--contiguous", action="store_true", help="tensors that are not channels-last")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="plain-ray-", ignore_cleanup_errors=True) as folder:
        processors = len(os.sched_getaffinity(0))
        ray.init(include_dashboard=False, num_cpus=processors, log_to_driver=False, _temp_dir=folder)
        outcome = search(options, f"{folder}/results")
        ray.shutdown()
    print(json.dumps(outcome))


if __name__ == "__main__":
    main()
