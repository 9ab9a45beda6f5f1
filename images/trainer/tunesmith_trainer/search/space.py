"""From the spec's search space to the hyper-parameters of one trial. Pure but for the sampler handed in."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

from tunesmith_api.search_spec import Categorical, IntUniform, LogUniform, Parameter, SearchSpace, Uniform
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search.ledger import Setting

HEAD_PARAMETERS = frozenset({"learningRate", "weightDecay", "labelSmoothing", "epochs"})
FINE_TUNE_PARAMETERS = frozenset(
    {
        "learningRate",
        "weightDecay",
        "labelSmoothing",
        "epochs",
        "batchSize",
        "augmentation",
        "layerDecay",
        "backboneLearningRateFactor",
        "unfreezing",
        "warmupFraction",
        "mixup",
    }
)
GRID_POINTS = 5
"""Values that a grid takes from a continuous range, both ends included."""


def _log_uniform(low: str, high: str) -> SearchSpace:
    return SearchSpace(log_uniform=LogUniform(min=low, max=high))


DEFAULT_PARAMETERS: Mapping[str, tuple[Parameter, ...]] = {
    "LinearProbe": (
        Parameter(name="learningRate", search_space=_log_uniform("5e-4", "2e-2")),
        Parameter(name="weightDecay", search_space=_log_uniform("1e-2", "10")),
        Parameter(name="epochs", search_space=SearchSpace(categorical=Categorical(choices=("10", "20")))),
    ),
    "FineTune": (
        Parameter(name="learningRate", search_space=_log_uniform("3e-4", "2e-3")),
        Parameter(name="backboneLearningRateFactor", search_space=_log_uniform("0.03", "0.5")),
    ),
}
"""What is searched when the spec lists no parameters. Heads are trained with AdamW on standardised features,
whose decoupled weight decay of up to 10 at these rates spans from none to a strong pull to zero."""


class Sampler(Protocol):
    """What this file needs of ``optuna.Trial``."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number in a range."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """A whole number in a range."""
        ...

    def suggest_categorical(self, name: str, choices: list[str]) -> str:
        """One of a list."""
        ...


def parameters_of(spec: TrainingJobSpec, strategy: str) -> tuple[Parameter, ...]:
    """The parameters that trials of a strategy search, the spec's own or else the defaults."""
    if not spec.search.parameters:
        return DEFAULT_PARAMETERS[strategy]
    known = HEAD_PARAMETERS if strategy == "LinearProbe" else FINE_TUNE_PARAMETERS
    return tuple(one for one in spec.search.parameters if one.name in known)


def strategies_of(spec: TrainingJobSpec) -> tuple[str, ...]:
    """The strategies that trials may have."""
    for parameter in spec.search.parameters:
        if parameter.name == "strategy" and parameter.search_space.categorical:
            return parameter.search_space.categorical.choices
    return spec.transfer.strategies


def backbone_choices(spec: TrainingJobSpec) -> list[str]:
    """Names of the backbones among which trials choose."""
    for parameter in spec.search.parameters:
        if parameter.name == "backbone" and parameter.search_space.categorical:
            return list(parameter.search_space.categorical.choices)
    return [backbone.name for backbone in spec.backbones]


def sample(
    spec: TrainingJobSpec, strategy: str, backbones: list[str], sampler: Sampler
) -> dict[str, Setting]:
    """Draw the hyper-parameters of one trial, ``backbone`` among them.

    A parameter whose ``when`` is not met is left out; so are those that the strategy does not have.
    """
    chosen: dict[str, Setting] = {"strategy": strategy}
    chosen["backbone"] = (
        sampler.suggest_categorical("backbone", backbones) if len(backbones) > 1 else backbones[0]
    )
    for parameter in parameters_of(spec, strategy):
        if _applies(parameter, chosen):
            chosen[parameter.name] = _draw(parameter.name, parameter.search_space.kind, sampler)
    del chosen["strategy"]
    return chosen


def _applies(parameter: Parameter, chosen: Mapping[str, Setting]) -> bool:
    """Whether a parameter's condition holds; one on a parameter that the trial does not have never does."""
    when = parameter.when
    # As settings, because "0.10" in the spec was read as 0.1.
    return when is None or chosen.get(when.parameter) in [as_setting(one) for one in when.values]


def _draw(name: str, kind: Uniform | LogUniform | IntUniform | Categorical, sampler: Sampler) -> Setting:
    match kind:
        case LogUniform():
            low, high = kind.bounds
            return sampler.suggest_float(name, low, high, log=True)
        case Uniform():
            low, high = kind.bounds
            return sampler.suggest_float(name, low, high)
        case IntUniform():
            least, most = kind.bounds
            return sampler.suggest_int(name, least, most)
    return as_setting(sampler.suggest_categorical(name, list(kind.choices)))


def as_setting(word: str) -> Setting:
    """A choice as the number it spells, or the word itself."""
    for convert in (int, float):
        try:
            return convert(word)
        except ValueError:
            continue
    return word


class Grid:
    """All combinations of a strategy's parameters and backbones, by number: memory need not hold them.

    Args:
        spec: with the search space; its seed decides the order in which combinations come.
        strategy: ``LinearProbe`` or ``FineTune``.
        backbones: names among which trials choose.
    """

    def __init__(self, spec: TrainingJobSpec, strategy: str, backbones: Sequence[str]) -> None:
        """Count the combinations."""
        self._parameters = parameters_of(spec, strategy)
        self._strategy, self._seed = strategy, spec.search.seed
        self._deciding = {one.when.parameter for one in self._parameters if one.when is not None}
        self._counts: dict[tuple[object, ...], int] = {}
        self._named = len(backbones) > 1
        self.sizes = {name: self._count(0, self._start(name)) for name in backbones}

    @property
    def size(self) -> int:
        """How many combinations there are."""
        return sum(self.sizes.values())

    def draw(self, count: int) -> list[dict[str, object]]:
        """So many combinations (or all), each once, in the form that a sampler is told to repeat.

        They come in random order, one backbone after the other in turn, so that any number of them, from the
        first on, is a fair sample: in nested order a search that is shorter than its grid sees one corner.
        """
        drawn = [self._draw(name, place, count) for place, name in enumerate(self.sizes)]
        turns = itertools.chain.from_iterable(itertools.zip_longest(*drawn))
        return list(itertools.islice((one for one in turns if one is not None), count))

    def _draw(self, backbone: str, place: int, count: int) -> list[dict[str, object]]:
        """Combinations of one backbone."""
        chance, size = random.Random(self._seed * 1_009 + place), self.sizes[backbone]
        if size <= 2 * count:
            numbers = chance.sample(range(size), min(size, count))
        else:
            distinct: dict[int, None] = {}
            while len(distinct) < count:
                distinct[chance.randrange(size)] = None
            numbers = list(distinct)
        named = {"backbone": backbone} if self._named else {}
        return [{**named, **self._combination(number, self._start(backbone))} for number in numbers]

    def _start(self, backbone: str) -> dict[str, Setting]:
        return {"strategy": self._strategy, "backbone": backbone}

    def _count(self, index: int, chosen: Mapping[str, Setting]) -> int:
        """Combinations of the parameters from ``index`` on."""
        if index == len(self._parameters):
            return 1
        key = (index, *(chosen.get(name) for name in sorted(self._deciding)))
        if key not in self._counts:
            self._counts[key] = sum(self._count(index + 1, after) for _, after in self._steps(index, chosen))
        return self._counts[key]

    def _combination(self, number: int, chosen: Mapping[str, Setting]) -> dict[str, object]:
        """The combination of this number, from 0."""
        found: dict[str, object] = {}
        for index, parameter in enumerate(self._parameters):
            for point, after in self._steps(index, chosen):
                size = self._count(index + 1, after)
                if number < size:
                    chosen = after
                    if point is not None:
                        found[parameter.name] = point
                    break
                number -= size
        return found

    def _steps(
        self, index: int, chosen: Mapping[str, Setting]
    ) -> Iterator[tuple[Setting | None, Mapping[str, Setting]]]:
        """The values that a parameter may have here, None where it has none, and what is chosen with each."""
        parameter = self._parameters[index]
        if not _applies(parameter, chosen):
            yield None, chosen
            return
        for point in _points(parameter.search_space.kind):
            setting = as_setting(point) if isinstance(point, str) else point
            yield point, {**chosen, parameter.name: setting}


def _points(kind: Uniform | LogUniform | IntUniform | Categorical) -> Iterator[Setting]:
    steps = [index / (GRID_POINTS - 1) for index in range(GRID_POINTS)]
    match kind:
        case Categorical():
            yield from kind.choices
        case IntUniform():
            least, most = kind.bounds
            yield from sorted({round(least + step * (most - least)) for step in steps})
        case LogUniform():
            low, high = kind.bounds
            yield from (_clip(low * (high / low) ** step, low, high) for step in steps)
        case Uniform():
            low, high = kind.bounds
            yield from (_clip(low + step * (high - low), low, high) for step in steps)


def _clip(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)
