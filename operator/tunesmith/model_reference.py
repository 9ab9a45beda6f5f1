"""The model that a command is given: an address, a folder, or a TrainingJob that names its model."""

from dataclasses import dataclass
from pathlib import Path

from tunesmith.job_file import read_text
from tunesmith_api.reasons import PackageInvalid, SpecInvalid
from tunesmith_api.yaml_text import parse


@dataclass(frozen=True)
class ModelReference:
    """Where a package lies, and the digest it must have if one is known."""

    uri: str
    digest: str | None


def model_reference(written: str, digest: str | None = None) -> ModelReference:
    """What a person means by the model they typed.

    Args:
        written: an address with a scheme, a folder of this machine, or a file with a TrainingJob and its
            status, as ``tunesmith run --result`` and ``kubectl get trainingjob NAME -o yaml`` write it.
        digest: the digest asked for beside it; a TrainingJob brings its own.

    Raises:
        PackageInvalid: the file holds no TrainingJob with a model, or one of another digest.
    """
    if "://" in written:
        return ModelReference(written, digest)
    path = Path(written)
    if not path.is_file():
        return ModelReference(path.absolute().as_uri(), digest)
    model = _model_of(path)
    if digest not in (None, model.digest):
        raise PackageInvalid(
            f"The TrainingJob in {path} made the model {model.digest}, not {digest}.",
            "Leave --digest out, or name the package by its address.",
        )
    return model


def _model_of(path: Path) -> ModelReference:
    try:
        documents = parse(read_text(path))
    except SpecInvalid as error:
        raise PackageInvalid(f"{path} is neither a package nor a TrainingJob. {error.message}") from error
    for document in documents:
        match document:
            case {"kind": "TrainingJob", "status": {"model": {"uri": str(uri), "digest": str(digest)}}}:
                return ModelReference(uri, digest)
    raise PackageInvalid(
        f"{path} holds no TrainingJob with a model in its status.",
        "Give a package's address, its folder, or the file that `tunesmith run --result FILE` wrote.",
    )
