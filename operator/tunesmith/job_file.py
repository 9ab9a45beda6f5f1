"""Reading the YAML file that ``tunesmith run`` is given."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tunesmith.addresses import with_absolute_addresses
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.validation import load_documents


@dataclass(frozen=True)
class JobFile:
    """The job to run, and what a person should know about the rest of the file.

    Attributes:
        job: with absolute addresses.
        deployment: the ModelDeployment that serves the job's model, if the file has one.
        remarks: one sentence each.
    """

    job: TrainingJob
    deployment: ModelDeployment | None
    remarks: tuple[str, ...]


def read_text(path: Path) -> str:
    """The text of a YAML file.

    Raises:
        SpecInvalid: it cannot be read, or is no text.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecInvalid(f"{path} cannot be read as text: {error}.", "Give a YAML file in UTF-8.") from error


def read_job_file(path: Path, name: str | None = None) -> JobFile:
    """The TrainingJob of a file, its relative addresses taken from the file's folder.

    Args:
        path: the file; other resources may stand in it too.
        name: which TrainingJob; needed when there are several.

    Raises:
        SpecInvalid: a resource breaks a rule, or it stays open which job is meant.
    """
    resources = load_documents(read_text(path), str(path))
    job = _chosen([one for one in resources if isinstance(one, TrainingJob)], path, name)
    deployments = [one for one in resources if isinstance(one, ModelDeployment)]
    own = [one for one in deployments if one.spec.model.training_job == job.name]
    deployment = own[0] if len(own) == 1 else None
    others = [one.name for one in deployments if one is not deployment]
    remarks = []
    if job.spec.suspend:
        remarks.append("spec.suspend is true, so a cluster would wait; here the job runs.")
    remarks += list(_secrets_by_environment(job))
    if others:
        why = "is not of this job" if not own else "would be one of several"
        remarks.append(
            f"The ModelDeployment {', '.join(others)} is valid and is left alone, for it {why}: serve a "
            "model with `tunesmith serve`."
        )
    return JobFile(with_absolute_addresses(job, path.absolute().parent), deployment, tuple(remarks))


def _secrets_by_environment(job: TrainingJob) -> Iterator[str]:
    """Where the keys of a Secret come from on a machine that has no Secrets."""
    spec = job.spec
    named = [("DATASET", "spec.dataset.secretRef", spec.dataset.secret_ref)]
    named += [("STORE", "spec.store.secretRef", spec.store.secret_ref)]
    named += [
        (f"BACKBONE_{index}", f"spec.backbones[{index}].weightsSecretRef", one.weights_secret_ref)
        for index, one in enumerate(spec.backbones)
    ]
    for purpose, field, reference in named:
        if reference is not None:
            yield (
                f"{field} names the Secret {reference.name}; here its keys are the variables "
                f"TUNESMITH_{purpose}_AWS_ACCESS_KEY_ID and so on, or those without TUNESMITH_{purpose}_."
            )


def _chosen(jobs: list[TrainingJob], path: Path, name: str | None) -> TrainingJob:
    names = ", ".join(job.name for job in jobs)
    if not jobs:
        raise SpecInvalid(f"There is no TrainingJob in {path}.", "Add one: it says what to train on.")
    chosen = [job for job in jobs if name in (None, job.name)]
    if not chosen:
        raise SpecInvalid(f"There is no TrainingJob {name!r} in {path}.", f"It holds: {names}.")
    if len(chosen) > 1:
        raise SpecInvalid(f"{path} holds several TrainingJobs.", f"Choose one of them by --name: {names}.")
    return chosen[0]
