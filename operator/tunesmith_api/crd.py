"""Writes the CRDs: ``python -m tunesmith_api.crd [--check]``.

``manifests/crds`` holds what this makes of the models; ``--check`` says whether it still does.
"""

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tunesmith_api.fields import GROUP, VERSION, ApiModel
from tunesmith_api.model_deployment import ModelDeployment
from tunesmith_api.schema import structural_schema
from tunesmith_api.training_job import TrainingJob
from tunesmith_api.yaml_text import dump

DIRECTORY = Path(__file__).resolve().parents[2] / "manifests" / "crds"
HEADER = "# Made from operator/tunesmith_api by `make generate`; change it there.\n"


@dataclass(frozen=True)
class Column:
    """A column of ``kubectl get``; columns of priority 1 need ``-o wide``."""

    name: str
    path: str
    description: str
    type: str = "string"
    priority: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The entry of ``additionalPrinterColumns``."""
        column = {
            "name": self.name,
            "type": self.type,
            "jsonPath": self.path,
            "description": self.description,
        }
        return column | ({"priority": self.priority} if self.priority else {})


@dataclass(frozen=True)
class Kind:
    """What a CRD says beside its schema."""

    model: type[ApiModel]
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The resource's kind."""
        return self.model.__name__

    @property
    def file_name(self) -> str:
        """The CRD's file in ``manifests/crds``."""
        return f"{GROUP}_{self.plural}.yaml"


_AGE = Column("AGE", ".metadata.creationTimestamp", "How long ago it was created", "date")

KINDS = (
    Kind(
        model=TrainingJob,
        plural="trainingjobs",
        short_name="tj",
        columns=(
            Column("STATE", ".status.phase", "Where the job is"),
            Column("TRIALS", ".status.search.trials", "Trials begun", "integer"),
            Column("BEST", ".status.search.best.score", "The best trial's primary objective on validation"),
            Column("MODEL", ".status.model.revision", "The published model, by its digest"),
            _AGE,
            Column("VERIFIED", '.status.conditions[?(@.type=="Verified")].status', "Gates", priority=1),
            Column("REASON", '.status.conditions[?(@.type=="Failed")].reason', "Why it failed", priority=1),
            Column("IMAGES", ".status.dataset.images", "Images used", "integer", priority=1),
            Column("REPORT", ".status.reportUri", "The report for people", priority=1),
        ),
    ),
    Kind(
        model=ModelDeployment,
        plural="modeldeployments",
        short_name="mdep",
        columns=(
            Column("READY", '.status.conditions[?(@.type=="Ready")].status', "Whether requests are answered"),
            Column("URL", ".status.url", "Where predictions are to be had"),
            Column("REVISION", ".status.stable.revision", "The revision that answers"),
            Column("CANARY", ".status.canary.weight", "Percent of requests to the new revision", "integer"),
            Column(
                "STABLE-INPUTS",
                '.status.conditions[?(@.type=="InputsStable")].status',
                "Whether the images look like those of the training",
            ),
            _AGE,
            Column("REPLICAS", ".status.replicas", "Pods that answer", "integer", priority=1),
            Column("REASON", '.status.conditions[?(@.type=="Ready")].reason', "Why", priority=1),
            Column("DRIFT", ".status.drift.score", "The drift of the last window", "number", priority=1),
        ),
        scale={
            "specReplicasPath": ".spec.replicas.minimum",
            "statusReplicasPath": ".status.replicas",
            "labelSelectorPath": ".status.selector",
        },
    ),
)


def custom_resource_definition(kind: Kind) -> dict[str, Any]:
    """The whole CRD as a plain object."""
    singular = kind.name.lower()
    version = {
        "name": VERSION,
        "served": True,
        "storage": True,
        "subresources": {"status": {}, **({"scale": dict(kind.scale)} if kind.scale else {})},
        "additionalPrinterColumns": [column.to_dict() for column in kind.columns],
        "schema": {"openAPIV3Schema": structural_schema(kind.model)},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{kind.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": kind.name,
                "listKind": f"{kind.name}List",
                "plural": kind.plural,
                "singular": singular,
                "shortNames": [kind.short_name],
                "categories": ["tunesmith"],
            },
            "versions": [version],
        },
    }


def render(kind: Kind) -> str:
    """The CRD's file."""
    return HEADER + dump(custom_resource_definition(kind))


def main(arguments: list[str] | None = None) -> int:
    """Writes the files, or with ``--check`` names those that are out of date and returns 1."""
    parser = argparse.ArgumentParser(prog="python -m tunesmith_api.crd", description=main.__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a file is out of date")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, help="where the files lie")
    options = parser.parse_args(arguments)
    stale = []
    for kind in KINDS:
        path: Path = options.directory / kind.file_name
        wanted = render(kind)
        if path.exists() and path.read_text(encoding="utf-8") == wanted:
            continue
        stale.append(path)
        if not options.check:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(wanted, encoding="utf-8")
    for path in stale:
        print(f"{path} {'is out of date: run `make generate`' if options.check else 'written'}")
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
