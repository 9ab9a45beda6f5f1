"""What population based training may change of a fine-tuning: the search space, as Ray Tune draws from it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from ray import tune

from tunesmith_api.search_spec import Categorical, IntUniform, LogUniform, Parameter
from tunesmith_api.training_job import TrainingJobSpec
from tunesmith_trainer.search import space
from tunesmith_trainer.search.finetune_task import CONFIG_FIELDS, finetune_config

KEPT = frozenset({"epochs"})
"""What a trial keeps as it was drawn: the schedule of its learning rate runs towards the last epoch."""


def mutable_parameters(spec: TrainingJobSpec) -> tuple[Parameter, ...]:
    """The searched parameters that may change while a fine-tuning runs.

    One that another depends on stays, and so does one with a condition that not every fine-tuning meets: the
    trial would leave the space.
    """
    parameters = space.parameters_of(spec, "FineTune")
    deciding = {one.when.parameter for one in parameters if one.when is not None}
    return tuple(one for one in parameters if one.name not in KEPT | deciding and _always_there(one))


def _always_there(parameter: Parameter) -> bool:
    when = parameter.when
    return when is None or (when.parameter == "strategy" and "FineTune" in when.values)


def mutations(spec: TrainingJobSpec) -> dict[str, Any]:
    """The spec's ranges and choices for ``engine.run``, in the place of a trial's configuration."""
    return {"finetune": {CONFIG_FIELDS[one.name]: _domain(one, spec) for one in mutable_parameters(spec)}}


def _domain(parameter: Parameter, spec: TrainingJobSpec) -> Any:
    kind, name = parameter.search_space.kind, parameter.name
    match kind:
        case Categorical():
            configs = [finetune_config({name: space.as_setting(one)}, spec.transfer) for one in kind.choices]
            return [asdict(one)[CONFIG_FIELDS[name]] for one in configs]
        case IntUniform():
            least, most = kind.bounds
            return tune.randint(least, most + 1)
        case LogUniform():
            return tune.loguniform(*kind.bounds)
    return tune.uniform(*kind.bounds)
