"""Fine-tuning epoch by epoch."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tunesmith_api.reasons import Diverged
from tunesmith_package.preprocess import Preprocess
from tunesmith_trainer.devices import Device
from tunesmith_trainer.prepare.pixels import PixelStore
from tunesmith_trainer.search.augment import Augmenter, training_size
from tunesmith_trainer.search.backbones import IMAGENET_MEAN, IMAGENET_STD, ImageClassifier, build_backbone
from tunesmith_trainer.search.fine_tuning import judge_calibrated
from tunesmith_trainer.search.finetune import (
    FineTuneConfig,
    FineTuner,
    Images,
    freeze_first_blocks,
    parameter_groups,
)
from tunesmith_trainer.search.judgement import judge

CPU = Device("cpu", 1, 0, None)
PREPROCESS = Preprocess(32, "CenterCrop", IMAGENET_MEAN, IMAGENET_STD)


@pytest.fixture
def pictures(tmp_path: Path) -> tuple[Images, Images]:
    """Red and blue squares on noise: 40 to train on, 12 to validate."""
    random = np.random.default_rng(0)
    labels = np.arange(52) % 2
    pixels = random.integers(0, 160, (52, 32, 32, 3), dtype=np.uint8)
    for label, image in zip(labels, pixels, strict=True):
        image[8:24, 8:24, 2 * label] = 250
    store = PixelStore.create(tmp_path / "pixels.u8", 32)
    for image in pixels:
        store.append(image)
    store.close()
    store = PixelStore.open(tmp_path / "pixels.u8", 32)

    def part(start: int, stop: int) -> Images:
        return Images(
            store,
            np.arange(start, stop),
            labels[start:stop].astype(np.int64),
            np.ones(stop - start, np.float32),
        )

    return part(0, 40), part(40, 52)


def tuner(pictures: tuple[Images, Images], **changes: object) -> FineTuner:
    config = FineTuneConfig(**{"epochs": 3, "batch_size": 8, "augmentation": "Flip", **changes})  # type: ignore[arg-type]
    return FineTuner(
        ImageClassifier(build_backbone("resnet18", 32), 2), PREPROCESS, *pictures, config, CPU, seed=1
    )


def test_fine_tuning_learns_and_leaves_batch_norm_statistics_alone(pictures: tuple[Images, Images]) -> None:
    one = tuner(pictures, epochs=4, backbone_learning_rate_factor=1.0)
    before = one.model.state_dict()["backbone.network.bn1.running_mean"].clone()
    results = [one.run_epoch() for _ in range(4)]
    assert results[-1].train_loss < 0.5 * results[0].train_loss
    assert results[-1].validation_accuracy > 0.9
    assert results[-1].metrics["accuracy"] == pytest.approx(results[-1].validation_accuracy)
    assert results[-1].metrics["macroF1"] > 0.9
    torch.testing.assert_close(one.model.state_dict()["backbone.network.bn1.running_mean"], before)


def test_restored_fine_tuning_goes_on_exactly_as_the_undisturbed_one(
    pictures: tuple[Images, Images], tmp_path: Path
) -> None:
    undisturbed = tuner(pictures, augmentation="RandomResizedCrop", mixup=0.2)
    expected = [undisturbed.run_epoch() for _ in range(3)]
    first = tuner(pictures, augmentation="RandomResizedCrop", mixup=0.2)
    first.run_epoch()
    first.save(tmp_path / "checkpoint.safetensors")
    second = tuner(pictures, augmentation="RandomResizedCrop", mixup=0.2)
    second.restore(tmp_path / "checkpoint.safetensors")
    continued = [second.run_epoch() for _ in range(2)]
    for before, after in zip(expected[1:], continued, strict=True):
        assert after.epoch == before.epoch
        assert after.train_loss == pytest.approx(before.train_loss, rel=1e-4)
        assert after.validation_loss == pytest.approx(before.validation_loss, rel=1e-3)


def test_a_loss_that_is_no_number_is_reported_as_divergence(pictures: tuple[Images, Images]) -> None:
    one = tuner(pictures)
    with torch.no_grad():
        one.model.head.weight.fill_(float("nan"))
    with pytest.raises(Diverged, match="after epoch 1"):
        one.run_epoch()


def test_parameter_groups_cover_each_parameter_once_with_decaying_rates() -> None:
    model = ImageClassifier(build_backbone("resnet18", 32), 2)
    groups = parameter_groups(
        model, FineTuneConfig(backbone_learning_rate_factor=0.5, layer_decay=0.5, frozen_fraction=0.0)
    )
    ids = [id(parameter) for group in groups for parameter in group.parameters]
    assert sorted(ids) == sorted(id(parameter) for parameter in model.parameters())
    assert [group.factor for group in groups[::2]] == [1.0, 0.5, 0.25, 0.125, 0.0625, 0.03125]
    assert {group.weight_decay for group in groups if group.parameters[0].ndim == 1} == {0.0}


def test_gradual_unfreezing_leaves_the_stem_alone_at_first(pictures: tuple[Images, Images]) -> None:
    one = tuner(pictures, gradual_unfreezing=True, epochs=8, frozen_fraction=0.0)
    stem = one.model.state_dict()["backbone.network.conv1.weight"].clone()
    head = one.model.head.weight.detach().clone()
    one.run_epoch()
    assert torch.equal(one.model.state_dict()["backbone.network.conv1.weight"], stem)
    assert not torch.equal(one.model.head.weight.detach(), head)


@pytest.mark.parametrize(
    "policy", ["None", "Flip", "RandomResizedCrop", "TrivialAugment", "RandAugment", "AutoAugment"]
)
def test_augmentation_gives_normalised_images_of_the_training_size(policy: str) -> None:
    pixels = torch.randint(0, 256, (3, 40, 40, 3), dtype=torch.uint8)
    varied = Augmenter(policy, 32, IMAGENET_MEAN, IMAGENET_STD)(pixels)  # type: ignore[arg-type]
    assert varied.shape == (3, 3, 32, 32)
    assert varied.dtype == torch.float32
    assert float(varied.min()) > -3
    assert float(varied.max()) < 3


def test_augmentation_none_only_resizes() -> None:
    pixels = torch.randint(0, 256, (2, 32, 32, 3), dtype=torch.uint8)
    plain = torch.from_numpy(PREPROCESS.normalise(pixels.numpy()))
    same = Augmenter("None", 32, IMAGENET_MEAN, IMAGENET_STD)(pixels)
    torch.testing.assert_close(same, plain, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("size", "fixed", "expected"), [(256, False, 224), (224, True, 224), (96, False, 96), (32, False, 32)]
)
def test_training_size_is_seven_eighths_in_steps_of_32(size: int, fixed: bool, expected: int) -> None:
    assert training_size(size, fixed=fixed) == expected


@pytest.mark.parametrize(
    ("name", "frozen"), [("resnet18", 2), ("mobilenet_v2", 7), ("efficientnet_b0", 4), ("vit_b_32", 1)]
)
def test_first_blocks_stay_frozen_up_to_the_fraction_of_the_weights(name: str, frozen: int) -> None:
    model = ImageClassifier(build_backbone(name, 64), 2)
    assert freeze_first_blocks(model, 0.03) == frozen
    still = sum(p.numel() for p in model.backbone.parameters() if not p.requires_grad)
    assert still <= 0.03 * sum(p.numel() for p in model.backbone.parameters())
    assert freeze_first_blocks(ImageClassifier(build_backbone(name, 64), 2), 0.0) == 0


def test_network_is_judged_with_the_temperature_that_it_would_leave_with() -> None:
    random = np.random.default_rng(0)
    labels = random.integers(0, 4, 300)
    logits = np.asarray(2 * np.eye(4)[labels] + random.normal(0, 1, (300, 4)), np.float32)
    weights = np.ones(300, np.float32)
    sure = judge_calibrated(logits * 20, labels, weights)
    assert sure.loss == pytest.approx(judge_calibrated(logits, labels, weights).loss, abs=2e-3)
    assert sure.loss < judge(logits * 20, labels).loss / 2
    assert sure.accuracy == judge(logits, labels).accuracy
