"""The CRDs in a real API server: it takes them, defaults as we do, and refuses with our sentences.

With KUBECONFIG it is the cluster named there, on which CRDs may be installed; otherwise one is started.
Objects are created in a namespace of its own; nearly everything is a dry run.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import kubernetes
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from tests.api_mutations import mutated_documents
from tests.api_refusals import DIGEST, MODEL_DEPLOYMENT, REFUSALS, TRAINING_JOB, Refusal, changed

from tunesmith_api.crd import KINDS, custom_resource_definition
from tunesmith_api.fields import GROUP, VERSION
from tunesmith_api.reasons import SpecInvalid
from tunesmith_api.status import TrainingJobStatus
from tunesmith_api.validation import load_documents, validate_object

EXAMPLES = Path(__file__).parents[2] / "manifests" / "examples"
PLURALS = {kind.name: kind.plural for kind in KINDS}
FREE_OF_FIELDS = re.compile(
    r"some validation rules were not checked|Checked value must be of type|must validate at least one schema"
)
"""What the server says besides, without naming a field; it adds nothing to the other sentences."""


def wait_until(condition: Callable[[], bool], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come true within {seconds} s"
        time.sleep(0.05)


class Server:
    """Creates and replaces our two kinds in one namespace."""

    def __init__(self, client: Any, namespace: str) -> None:
        self.objects = client.CustomObjectsApi()
        self.error = client.ApiException
        self.namespace = namespace

    def _with_namespace(self, document: dict[str, Any]) -> dict[str, Any]:
        document = deepcopy(document)
        if isinstance(document.get("metadata"), dict):
            document["metadata"]["namespace"] = self.namespace
        return document

    def create(self, document: dict[str, Any], *, dry_run: bool = True) -> dict[str, Any]:
        options = {"dry_run": "All"} if dry_run else {}
        created: dict[str, Any] = self.objects.create_namespaced_custom_object(
            GROUP,
            VERSION,
            self.namespace,
            PLURALS[document["kind"]],
            self._with_namespace(document),
            field_validation="Strict",
            **options,
        )
        return created

    def replace(self, document: dict[str, Any]) -> dict[str, Any]:
        replaced: dict[str, Any] = self.objects.replace_namespaced_custom_object(
            GROUP,
            VERSION,
            self.namespace,
            PLURALS[document["kind"]],
            document["metadata"]["name"],
            self._with_namespace(document),
            dry_run="All",
            field_validation="Strict",
        )
        return replaced

    def delete(self, document: dict[str, Any]) -> None:
        self.objects.delete_namespaced_custom_object(
            GROUP, VERSION, self.namespace, PLURALS[document["kind"]], document["metadata"]["name"]
        )

    def accepts(self, document: dict[str, Any]) -> bool:
        return not self.refusal_lines(lambda: self.create(document))

    def refusal_lines(self, send: Callable[[], object]) -> list[str]:
        """What the server says about what is sent, sorted; nothing when it accepts it."""
        try:
            send()
        except self.error as error:
            return sorted(lines_of(json.loads(error.body)))
        return []


def lines_of(status: dict[str, Any]) -> Iterator[str]:
    """The sentences of a metav1.Status, each as ``field: message``."""
    causes = status.get("details", {}).get("causes")
    if causes is None:
        said = re.split(r"cannot be handled as an? \w+: (?:strict decoding error: )?", status["message"])[-1]
        yield from re.split(r", (?=unknown field)", said)
        return
    for cause in causes:
        # The scale subresource says again, with a dot in front, what the schema has said.
        if not FREE_OF_FIELDS.search(cause["message"]) and not cause["field"].startswith("."):
            yield f"{cause['field']}: {without_type(cause['message'])}"


def without_type(message: str) -> str:
    """The sentence of a rule without the type of its object, which servers before 1.36 put in front."""
    return (
        message if " in body " in message else re.sub(r'^(Invalid value: )"(object|array)": ', r"\1", message)
    )


@pytest.fixture(scope="module")
def client(kubeconfig: Path) -> Any:
    kubernetes.config.load_kube_config(str(kubeconfig))
    return kubernetes.client


@pytest.fixture(scope="module")
def server(client: Any) -> Iterator[Server]:
    extensions = client.ApiextensionsV1Api()
    for kind in KINDS:
        definition = custom_resource_definition(kind)
        name = definition["metadata"]["name"]
        try:
            extensions.create_custom_resource_definition(definition)
        except client.ApiException as error:
            if error.status != 409:
                raise
            present = extensions.read_custom_resource_definition(name)
            definition["metadata"]["resourceVersion"] = present.metadata.resource_version
            extensions.replace_custom_resource_definition(name, definition)

        def established(name: str = name) -> bool:
            status = extensions.read_custom_resource_definition(name).status
            return any(one.type == "Established" and one.status == "True" for one in status.conditions or ())

        wait_until(established, f"{name} Established")
    namespace = f"tunesmith-crds-{uuid.uuid4().hex[:8]}"
    core = client.CoreV1Api()
    core.create_namespace({"metadata": {"name": namespace}})
    server = Server(client, namespace)
    for document in (TRAINING_JOB, MODEL_DEPLOYMENT):
        wait_until(partial(server.accepts, document), f"{document['kind']} is served")
    yield server
    core.delete_namespace(namespace)


@pytest.mark.parametrize(
    "refusal", [one for one in REFUSALS if one.before is None], ids=lambda refusal: refusal.about
)
def test_server_invalid_object_is_refused_with_the_local_sentences(server: Server, refusal: Refusal) -> None:
    said = server.refusal_lines(lambda: server.create(refusal.document))
    assert said == sorted(refusal.lines)


@pytest.mark.parametrize(
    "refusal", [one for one in REFUSALS if one.before is not None], ids=lambda refusal: refusal.about
)
def test_server_invalid_update_is_refused_with_the_local_sentences(server: Server, refusal: Refusal) -> None:
    assert refusal.old is not None
    present = server.create(refusal.old, dry_run=False)
    try:
        update = refusal.document
        update["metadata"]["resourceVersion"] = present["metadata"]["resourceVersion"]
        said = server.refusal_lines(lambda: server.replace(update))
    finally:
        server.delete(refusal.old)
    assert said == sorted(refusal.lines)


@pytest.mark.parametrize("document", [TRAINING_JOB, MODEL_DEPLOYMENT], ids=lambda document: document["kind"])
def test_server_smallest_object_gets_the_defaults_of_the_models(
    server: Server, document: dict[str, Any]
) -> None:
    assert server.create(document)["spec"] == validate_object(document).to_dict()["spec"]


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.yaml")), ids=lambda path: path.name)
def test_server_example_is_accepted_and_defaulted_as_here(server: Server, path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    for written, resource in zip(yaml.safe_load_all(text), load_documents(text), strict=True):
        assert validate_object(server.create(written)).spec == resource.spec


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(document=mutated_documents())
def test_server_any_mutated_object_is_judged_as_here(server: Server, document: dict[str, Any]) -> None:
    try:
        validate_object(document)
        local: list[str] = []
    except SpecInvalid as refusal:
        unknown = [line for line in refusal.violations if line.startswith("unknown field")]
        local = sorted(unknown or refusal.violations)  # The server stops at unknown fields.
    assert server.refusal_lines(lambda: server.create(document)) == local


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_server_discovery_names_shortcuts_and_subresources(client: Any, server: Server, kind: Any) -> None:
    resources = client.CustomObjectsApi().get_api_resources(GROUP, VERSION).resources
    by_name = {resource.name: resource for resource in resources}
    assert by_name[kind.plural].short_names == [kind.short_name]
    assert by_name[kind.plural].categories == ["tunesmith"]
    assert f"{kind.plural}/status" in by_name
    assert (f"{kind.plural}/scale" in by_name) == (kind.name == "ModelDeployment")


STATUS = TrainingJobStatus.model_validate(
    {
        "observedGeneration": 1,
        "conditions": [
            {
                "type": "Verified",
                "status": "True",
                "reason": "GatesPassed",
                "message": "Every gate is met.",
                "lastTransitionTime": "2026-10-01T12:00:00Z",
            }
        ],
        "phase": "Succeeded",
        "startTime": "2026-10-01T11:00:00Z",
        "dataset": {"digest": DIGEST, "images": 960, "classes": 12, "splits": {"train": 672}},
        "search": {
            "trials": 32,
            "best": {"id": "t0007", "strategy": "FineTune", "backbone": "mobilenet_v2", "score": "0.9750"},
        },
        "verification": {"metrics": {"accuracy": 0.975}},
        "model": {"uri": "s3://models/models/flowers", "digest": DIGEST, "verified": True},
        "gpuSeconds": 12.5,
    }
)


@pytest.fixture
def job(server: Server) -> Iterator[dict[str, Any]]:
    yield server.create(TRAINING_JOB, dry_run=False)
    server.delete(TRAINING_JOB)


def test_server_status_is_kept_whole_and_shown_in_columns(
    client: Any, server: Server, job: dict[str, Any]
) -> None:
    address = (GROUP, VERSION, server.namespace, "trainingjobs", "flowers")
    server.objects.replace_namespaced_custom_object_status(*address, {**job, "status": STATUS.to_dict()})
    kept = server.objects.get_namespaced_custom_object(*address)
    assert TrainingJobStatus.model_validate(kept["status"]) == STATUS
    asking = client.ApiClient()
    request = asking.param_serialize(
        "GET",
        f"/apis/{GROUP}/{VERSION}/namespaces/{server.namespace}/trainingjobs",
        header_params={"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io"},
        auth_settings=["BearerToken"],
    )
    table = asking.call_api(*request)
    rows = json.loads(table.read())
    names = [column["name"] for column in rows["columnDefinitions"] if not column["priority"]]
    cells = dict(zip(names, rows["rows"][0]["cells"], strict=False))
    del cells["AGE"]
    assert cells == {
        "Name": "flowers",
        "STATE": "Succeeded",
        "TRIALS": 32,
        "BEST": "0.9750",
        "MODEL": "0123456789ab",
    }


def test_server_scaling_a_deployment_sets_its_minimum_and_keeps_to_the_maximum(server: Server) -> None:
    document = changed(MODEL_DEPLOYMENT, {"spec.replicas.maximum": 4})
    server.create(document, dry_run=False)
    address = (GROUP, VERSION, server.namespace, "modeldeployments", "flowers")
    scale = server.objects.patch_namespaced_custom_object_scale
    try:
        scale(*address, {"spec": {"replicas": 3}})
        minimum = server.objects.get_namespaced_custom_object(*address)["spec"]["replicas"]["minimum"]
        said = server.refusal_lines(lambda: scale(*address, {"spec": {"replicas": 5}}))
    finally:
        server.delete(document)
    assert minimum == 3
    assert said == [
        "spec.replicas.maximum: Invalid value: minimum cannot be more than maximum: raise maximum or lower "
        "minimum"
    ]
