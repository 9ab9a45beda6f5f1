"""Searches that break a rule."""

from typing import Any

from tests.api_refusals.refusal import job

_P = "spec.search.parameters"


def _range(kind: str, low: str, high: str) -> dict[str, Any]:
    return {kind: {"min": low, "max": high}}


def _choices(*choices: str) -> dict[str, Any]:
    return {"categorical": {"choices": list(choices)}}


def _parameters(*pairs: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    return {"spec.search.parameters": [{"name": name, "searchSpace": space} for name, space in pairs]}


_RATE = {"name": "learningRate", "searchSpace": _range("logUniform", "1e-4", "1e-1")}

SEARCH_RULES = (
    job(
        "PBT without fine-tuning",
        {"spec.search.algorithm.name": "PBT", "spec.transfer.strategies": ["LinearProbe"]},
        "spec.search.algorithm.name: Invalid value: PBT changes running fine-tunings: add FineTune to "
        "transfer.strategies, with maxFineTuneTrials above 0, or choose another algorithm",
    ),
    job(
        "only fine-tuning, and none of it",
        {"spec.search.maxFineTuneTrials": 0, "spec.transfer.strategies": ["FineTune"]},
        "spec.search.maxFineTuneTrials: Invalid value: with FineTune as the only strategy maxFineTuneTrials "
        "must "
        "be at least 1",
    ),
    job(
        "a search space of no kind",
        _parameters(("learningRate", {})),
        f"{_P}[0].searchSpace: Invalid value: a searchSpace has exactly one of uniform, logUniform, "
        "intUniform and "
        "categorical",
    ),
    job(
        "a search space of two kinds",
        _parameters(("learningRate", _range("uniform", "0", "1") | _range("logUniform", "0.1", "1"))),
        f"{_P}[0].searchSpace: Invalid value: a searchSpace has exactly one of uniform, logUniform, "
        "intUniform and "
        "categorical",
    ),
    job(
        "a minimum above its maximum",
        _parameters(("learningRate", _range("uniform", "1e-1", "1e-4"))),
        f"{_P}[0].searchSpace.uniform: Invalid value: min must be below max; for a single value use "
        "categorical",
    ),
    job(
        "a whole range that is empty",
        _parameters(("epochs", _range("intUniform", "9", "9"))),
        f"{_P}[0].searchSpace.intUniform: Invalid value: min must be below max; for a single value use "
        "categorical",
    ),
    job(
        "a number that is none",
        _parameters(("learningRate", _range("uniform", "1e-4", "a lot"))),
        f'{_P}[0].searchSpace.uniform.max: Invalid value: "a lot": write a number in quotes, like "0.1" or '
        '"1e-5"',
        f"{_P}[0]: Invalid value: learningRate and weightDecay are numbers between 0 and 100",
    ),
    job(
        "a number that is not quoted",
        _parameters(("learningRate", {"uniform": {"min": 0.1, "max": "0.2"}})),
        f'{_P}[0].searchSpace.uniform.min: Invalid value: "number": {_P}[0].searchSpace.uniform.min in body '
        "must "
        'be of type string: "number"',
    ),
    job(
        "a logarithmic range from zero",
        _parameters(("weightDecay", _range("logUniform", "0", "1e-2"))),
        f"{_P}[0].searchSpace.logUniform: Invalid value: logUniform needs a min above 0; use uniform for a "
        "range "
        "from 0",
    ),
    job(
        "a whole range with fractions",
        _parameters(("epochs", _range("intUniform", "1.5", "3"))),
        f"{_P}[0].searchSpace.intUniform: Invalid value: intUniform needs whole numbers for min and max, "
        "like "
        '"1" and "12"',
        f"{_P}[0]: Invalid value: epochs and batchSize lie between 1 and 4096",
    ),
    job(
        "a choice twice",
        _parameters(("augmentation", _choices("Flip", "Flip"))),
        f"{_P}[0].searchSpace.categorical.choices: Invalid value: each choice may stand there once",
    ),
    job(
        "a range of words",
        _parameters(("augmentation", _range("uniform", "0", "1"))),
        f"{_P}[0]: Invalid value: backbone, strategy, augmentation and unfreezing are words: write "
        "searchSpace: "
        "{categorical: {choices: [...]}}",
    ),
    job(
        "a continuous range for a count",
        _parameters(("batchSize", _range("uniform", "8", "64"))),
        f"{_P}[0]: Invalid value: epochs and batchSize are whole numbers: use intUniform or categorical",
    ),
    job(
        "a batch of no images",
        _parameters(("batchSize", _choices("0", "8"))),
        f"{_P}[0]: Invalid value: epochs and batchSize lie between 1 and 4096",
    ),
    job(
        "a fraction above one",
        _parameters(("mixup", _range("uniform", "0", "2"))),
        f"{_P}[0]: Invalid value: labelSmoothing, layerDecay, backboneLearningRateFactor, warmupFraction and "
        "mixup lie between 0 and 1",
    ),
    job(
        "a learning rate below zero",
        _parameters(("learningRate", _choices("-0.1", "0.1"))),
        f"{_P}[0]: Invalid value: learningRate and weightDecay are numbers between 0 and 100",
    ),
    job(
        "an augmentation that does not exist",
        _parameters(("augmentation", _choices("Flip", "CutOut"))),
        f"{_P}[0]: Invalid value: the choices of augmentation are among None, Flip, RandomResizedCrop, "
        "TrivialAugment, RandAugment, AutoAugment",
    ),
    job(
        "an unfreezing that does not exist",
        _parameters(("unfreezing", _choices("All", "Half"))),
        f"{_P}[0]: Invalid value: the choices of unfreezing are among All, Gradual",
    ),
    job(
        "a strategy that does not exist",
        _parameters(("strategy", _choices("LinearProbe", "Adapter"))),
        f"{_P}[0]: Invalid value: the choices of strategy are among LinearProbe, FineTune",
        f"{_P}: Invalid value: the choices of the parameter strategy must be among transfer.strategies",
    ),
    job(
        "a backbone that is not in the list",
        _parameters(("backbone", _choices("mobilenet_v2", "resnet50"))),
        f"{_P}: Invalid value: the choices of the parameter backbone must be names in backbones",
    ),
    job(
        "a parameter twice",
        {_P: [_RATE, _RATE]},
        f"{_P}: Invalid value: each parameter may stand in the list once; merge the search spaces of those "
        "with "
        "the same name",
    ),
    job(
        "a condition on a later parameter",
        {
            _P: [
                _RATE | {"when": {"parameter": "augmentation", "in": ["Flip"]}},
                {"name": "augmentation", "searchSpace": _choices("Flip", "None")},
            ]
        },
        f"{_P}: Invalid value: when.parameter must name another parameter that stands earlier in the list, "
        "or "
        "strategy or backbone",
    ),
    job(
        "a condition on a parameter that is not there",
        {_P: [_RATE | {"when": {"parameter": "augmentation", "in": ["Flip"]}}]},
        f"{_P}: Invalid value: when.parameter must name another parameter that stands earlier in the list, "
        "or "
        "strategy or backbone",
    ),
    job(
        "a condition on a value that is never chosen",
        {
            _P: [
                {"name": "augmentation", "searchSpace": _choices("Flip", "None")},
                _RATE | {"when": {"parameter": "augmentation", "in": ["RandAugment"]}},
            ]
        },
        f"{_P}: Invalid value: when.in must list choices of the parameter it looks at, which must be "
        "categorical",
    ),
    job(
        "a parameter that depends on itself",
        {
            _P: [
                {"name": "strategy", "searchSpace": _choices("FineTune")}
                | {"when": {"parameter": "strategy", "in": ["FineTune"]}}
            ]
        },
        f"{_P}: Invalid value: a parameter cannot depend on itself",
    ),
    job(
        "a condition on a strategy that is not used",
        {
            "spec.transfer.strategies": ["LinearProbe"],
            _P: [_RATE | {"when": {"parameter": "strategy", "in": ["FineTune"]}}],
        },
        f"{_P}: Invalid value: when.in must list strategies of transfer.strategies",
    ),
    job(
        "a condition on a backbone that is not used",
        {_P: [_RATE | {"when": {"parameter": "backbone", "in": ["resnet50"]}}]},
        f"{_P}: Invalid value: when.in must list names of backbones",
    ),
)
