"""``spec.search``: which hyper-parameters are tried, by which algorithm, and for how long."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from tunesmith_api.fields import (
    NUMBER_PATTERN,
    ApiModel,
    Augmentation,
    JobRef,
    Number,
    ParameterName,
    Seed,
    Strategy,
    Unfreezing,
    cel_list,
)
from tunesmith_api.rules import Rule

MAX_PARAMETERS = 16
_INDICES = "[" + ", ".join(str(index) for index in range(MAX_PARAMETERS)) + "]"

WORD_PARAMETERS = ("backbone", "strategy", "augmentation", "unfreezing")
"""Parameters whose values are words."""
INTEGER_PARAMETERS = ("epochs", "batchSize")
"""Parameters whose values are whole numbers."""
FRACTION_PARAMETERS = (
    "labelSmoothing",
    "layerDecay",
    "backboneLearningRateFactor",
    "warmupFraction",
    "mixup",
)
"""Parameters whose values lie between 0 and 1."""

_NOT_NUMBERS = f"!self.min.matches('{NUMBER_PATTERN}') || !self.max.matches('{NUMBER_PATTERN}')"
"""CEL goes on after a refused number, and double() of another text would be an error of its own."""
_MIN_BELOW_MAX = Rule(
    f"{_NOT_NUMBERS} || double(self.min) < double(self.max)",
    "min must be below max; for a single value use categorical",
)
_UNIQUE_CHOICES = Rule(
    "self.all(choice, self.exists_one(other, other == choice))", "each choice may stand there once"
)


class Range(ApiModel):
    """Numbers between min and max."""

    rules: ClassVar[tuple[Rule, ...]] = (_MIN_BELOW_MAX,)

    min: Number
    """The smallest value, as a string: "0.1"."""
    max: Number
    """The largest value, as a string: "0.9"."""

    @property
    def bounds(self) -> tuple[float, float]:
        """Min and max as numbers."""
        return float(self.min), float(self.max)


class Uniform(Range):
    """Numbers between min and max, all equally likely."""


class LogUniform(Range):
    """Numbers between min and max whose logarithms are equally likely."""

    rules: ClassVar[tuple[Rule, ...]] = (
        _MIN_BELOW_MAX,
        Rule(
            f"{_NOT_NUMBERS} || double(self.min) > 0.0",
            "logUniform needs a min above 0; use uniform for a range from 0",
        ),
    )


class IntUniform(ApiModel):
    """Whole numbers from min to max, both included, all equally likely."""

    rules = (
        Rule(
            "self.min.matches('^-?[0-9]{1,9}$') && self.max.matches('^-?[0-9]{1,9}$')",
            'intUniform needs whole numbers for min and max, like "1" and "12"',
        ),
        _MIN_BELOW_MAX,
    )

    min: Number
    """The smallest value, as a string: "1"."""
    max: Number
    """The largest value, as a string: "12"."""

    @property
    def bounds(self) -> tuple[int, int]:
        """Min and max as whole numbers."""
        return int(self.min), int(self.max)


class Categorical(ApiModel):
    """One of a list of values."""

    choices: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...],
        Field(min_length=1, max_length=64),
        _UNIQUE_CHOICES,
    ]
    """The values, as strings; numbers too: ["0.0", "0.1"]."""


class SearchSpace(ApiModel):
    """The values that a parameter may take: exactly one of the four kinds."""

    rules = (
        Rule(
            "[has(self.uniform), has(self.logUniform), has(self.intUniform), has(self.categorical)]"
            ".exists_one(given, given)",
            "a searchSpace has exactly one of uniform, logUniform, intUniform and categorical",
        ),
    )

    uniform: Uniform | None = None
    """Numbers between min and max."""
    log_uniform: LogUniform | None = None
    """Numbers between min and max on a logarithmic scale; right for learning rates."""
    int_uniform: IntUniform | None = None
    """Whole numbers from min to max."""
    categorical: Categorical | None = None
    """One of a list."""

    @property
    def kind(self) -> Uniform | LogUniform | IntUniform | Categorical:
        """The one kind that is given."""
        found = self.log_uniform or self.uniform or self.int_uniform or self.categorical
        assert found is not None, "the rule of SearchSpace guarantees one"
        return found


class When(ApiModel):
    """Restricts a parameter to trials in which an earlier one has certain values."""

    parameter: ParameterName
    """An earlier, categorical parameter of the list; or strategy or backbone, which every trial has."""
    values: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=64)], ...], Field(min_length=1, max_length=64)
    ] = Field(alias="in")
    """The values of that parameter for which this one is used."""


_VALUES = " + ".join(
    [
        f"(has(self.searchSpace.{kind}) ? [self.searchSpace.{kind}.min, self.searchSpace.{kind}.max] : [])"
        for kind in ("uniform", "logUniform", "intUniform")
    ]
    + ["(has(self.searchSpace.categorical) ? self.searchSpace.categorical.choices : [])"]
)
"""CEL: the ends of a range, or the choices."""


def _within(names: tuple[str, ...], low: str, high: str, pattern: str = NUMBER_PATTERN) -> str:
    """CEL: the values of parameters of these names match the pattern and lie from low to high (doubles)."""
    return (
        f"!(self.name in {cel_list(names)}) || ({_VALUES}).all(value, value.matches('{pattern}') && "
        f"double(value) >= {low} && double(value) <= {high})"
    )


def _words(name: str, words: tuple[str, ...]) -> Rule:
    return Rule(
        f"self.name != '{name}' || !has(self.searchSpace.categorical) || "
        f"self.searchSpace.categorical.choices.all(choice, choice in {cel_list(words)})",
        f"the choices of {name} are among {', '.join(words)}",
    )


class Parameter(ApiModel):
    """One hyper-parameter and the values it may take."""

    rules = (
        Rule(
            f"!(self.name in {cel_list(WORD_PARAMETERS)}) || has(self.searchSpace.categorical)",
            "backbone, strategy, augmentation and unfreezing are words: write searchSpace: {categorical: "
            "{choices: [...]}}",
        ),
        Rule(
            f"!(self.name in {cel_list(INTEGER_PARAMETERS)}) || has(self.searchSpace.intUniform) || "
            "has(self.searchSpace.categorical)",
            "epochs and batchSize are whole numbers: use intUniform or categorical",
        ),
        Rule(
            _within(INTEGER_PARAMETERS, "1.0", "4096.0", "^[0-9]{1,9}$"),
            "epochs and batchSize lie between 1 and 4096",
        ),
        Rule(
            _within(FRACTION_PARAMETERS, "0.0", "1.0"),
            "labelSmoothing, layerDecay, backboneLearningRateFactor, warmupFraction and mixup "
            "lie between 0 and 1",
        ),
        Rule(
            _within(("learningRate", "weightDecay"), "0.0", "100.0"),
            "learningRate and weightDecay are numbers between 0 and 100",
        ),
        _words("strategy", get_args(Strategy)),
        _words("augmentation", get_args(Augmentation)),
        _words("unfreezing", get_args(Unfreezing)),
    )

    name: ParameterName
    """Which hyper-parameter."""
    search_space: SearchSpace
    """The values it may take."""
    when: When | None = None
    """Use it only in trials in which an earlier parameter has certain values."""


class Algorithm(ApiModel):
    """How the next trial's parameters are chosen."""

    name: Literal["Random", "Grid", "TPE", "BOHB", "PBT"] = "TPE"
    """Random; Grid over all combinations (ranges in even steps); TPE and BOHB learn from finished trials; PBT
    changes the parameters of running fine-tunings."""


class EarlyStopping(ApiModel):
    """When a fine-tuning that does worse than others is ended."""

    name: Literal["None", "Median", "ASHA"] = "ASHA"
    """ASHA lets only the best trials go on at each rung; Median stops those below the median."""
    grace_epochs: Annotated[int, Field(ge=1, le=1_000)] = 2
    """No trial is stopped before it has had this many epochs."""
    reduction_factor: Annotated[int, Field(ge=2, le=16)] = 3
    """ASHA: one in this many goes on at each rung."""


class SearchSpec(ApiModel):
    """Which hyper-parameters are tried, how, and for how long."""

    rules = (
        Rule(
            "self.parameters.all(one, self.parameters.exists_one(other, other.name == one.name))",
            "each parameter may stand in the list once; merge the search spaces of those with the same name",
            ".parameters",
        ),
        Rule(
            f"{_INDICES}.all(i, i >= self.parameters.size() || !has(self.parameters[i].when) || "
            "self.parameters[i].when.parameter in ['strategy', 'backbone'] || "
            f"{_INDICES}.exists(j, j < i && self.parameters[j].name == self.parameters[i].when.parameter))",
            "when.parameter must name another parameter that stands earlier in the list, or strategy or "
            "backbone",
            ".parameters",
        ),
        Rule(
            "self.parameters.all(one, !has(one.when) || self.parameters.all(other, "
            "other.name != one.when.parameter || (has(other.searchSpace.categorical) && "
            "one.when.__in__.all(value, value in other.searchSpace.categorical.choices))))",
            "when.in must list choices of the parameter it looks at, which must be categorical",
            ".parameters",
        ),
        Rule(
            "self.parameters.all(one, !has(one.when) || one.when.parameter != one.name)",
            "a parameter cannot depend on itself",
            ".parameters",
        ),
    )

    algorithm: Algorithm = Field(default_factory=Algorithm)
    """How the next trial's parameters are chosen."""
    early_stopping: EarlyStopping = Field(default_factory=EarlyStopping)
    """When a trial that does worse than others is ended."""
    parameters: Annotated[tuple[Parameter, ...], Field(max_length=MAX_PARAMETERS)] = ()
    """The hyper-parameters that are searched; the others keep the values of spec.transfer. With none, the
    heads' learning rate, weight decay and epochs and the fine-tunings' learning rates are searched, in ranges
    that fit each."""
    num_trials: Annotated[int, Field(ge=1, le=10_000)] = 32
    """How many trials there are at most, heads and fine-tunings together."""
    parallel_trials: Annotated[int, Field(ge=1, le=256)] = 1
    """How many fine-tunings run at once; no more than the machine has processors."""
    max_fine_tune_trials: Annotated[int, Field(ge=0, le=1_000)] = 3
    """How many fine-tunings there are at most."""
    time_budget_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """No new trial starts after this time."""
    seed: Seed = 0
    """The same seed, data and spec give the same trials."""
    warm_start_from: JobRef | None = None
    """An earlier TrainingJob of the same store whose trials TPE and BOHB learn from; the other algorithms do
    not."""

    def by_name(self) -> Mapping[str, Parameter]:
        """The parameters by their names, in order."""
        return {parameter.name: parameter for parameter in self.parameters}
