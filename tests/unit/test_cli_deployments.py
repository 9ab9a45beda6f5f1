"""The commands for ModelDeployments as they are typed; API server and gateway are played."""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from tests.testbed.played_api import PlayedApi, played_api
from tests.testbed.tiny_package import picture

from tunesmith import client
from tunesmith.cli import main
from tunesmith_api.reasons import EXIT_CODES, Reason, SpecInvalid

Command = Callable[..., tuple[int, str, str]]
OLD, NEW = "flowers-aaaaaaaa", "flowers-bbbbbbbb"
DIGESTS = {OLD: f"sha256:{'a' * 64}", NEW: f"sha256:{'b' * 64}"}
HOST = "flowers.vision.models.invalid"
STARTED = datetime.now(UTC) - timedelta(seconds=42)


def revision(name: str) -> dict[str, Any]:
    return {"revision": name, "uri": f"s3://models/{name}", "digest": DIGESTS[name]}


def condition(kind: str, status: bool, reason: str, message: str) -> dict[str, Any]:
    moment = STARTED.isoformat()
    return {
        "type": kind,
        "status": str(status),
        "reason": reason,
        "message": message,
        "lastTransitionTime": moment,
    }


def status_with(stable: str, canary: str = "", reason: str = "Completed", **more: Any) -> dict[str, Any]:
    said = f"{canary or stable}: {reason}."
    status: dict[str, Any] = {
        "conditions": [
            condition("Ready", True, "Serving", f"{stable} answers."),
            condition("Progressing", bool(canary), reason, said),
        ],
        "url": f"http://{HOST}",
        "stable": revision(stable),
        "replicas": 2,
        "history": [
            {**revision(OLD), "outcome": "Promoted", "reason": "Promoted", "when": STARTED.isoformat()}
        ],
        **more,
    }
    if canary:
        status["canary"] = {**revision(canary), "weight": 25, "step": 0, "since": STARTED.isoformat()}
    return status


def deployment(status: dict[str, Any], **rollout: Any) -> dict[str, Any]:
    return {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "ModelDeployment",
        "metadata": {"name": "flowers", "namespace": "vision", "generation": 1},
        "spec": {
            "model": {"trainingJob": "flowers"},
            "rollout": {"strategy": "Canary", "steps": [{"weight": 25, "holdSeconds": 120}], **rollout},
        },
        "status": {"observedGeneration": 1, **status},
    }


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PlayedApi]:
    with played_api(tmp_path) as (api, kubeconfig):
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig))
        monkeypatch.delenv("TUNESMITH_GATEWAY", raising=False)
        yield api


@pytest.fixture
def command(api: PlayedApi, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line; gives its exit code, standard output and standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        return (end.value.code if isinstance(end.value.code, int) else 1), output.out, output.err

    return run


def rollout(api: PlayedApi) -> dict[str, Any]:
    found: dict[str, Any] = api.objects["modeldeployments", "flowers"]["spec"]["rollout"]
    return found


# promote, rollback, pause, resume


def test_promote_approves_the_canary_by_a_merge_patch_and_nothing_else(
    api: PlayedApi, command: Command
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "AwaitingApproval"), rejectedRevision=NEW))
    code, out, errors = command("promote", "deployment/flowers")
    assert (code, errors) == (0, "")
    change = {"spec": {"rollout": {"approvedRevision": NEW, "rejectedRevision": None}}}
    assert api.patches == [("application/merge-patch+json", change)]
    assert f"{NEW} is approved" in out


@pytest.mark.parametrize("name", ["flowers", "modeldeployment/flowers", "mdep/flowers"])
def test_rollback_pause_and_resume_take_the_name_as_kubectl_does(
    api: PlayedApi, command: Command, name: str
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "RollingOut")))
    assert command("rollback", name)[0] == 0
    assert rollout(api)["rejectedRevision"] == NEW
    assert command("pause", name)[0] == 0
    assert rollout(api)["paused"] is True
    assert command("resume", name)[0] == 0
    assert rollout(api)["paused"] is False


def test_promote_without_a_canary_is_a_sentence_and_changes_nothing(api: PlayedApi, command: Command) -> None:
    api.put("modeldeployments", deployment(status_with(OLD)))
    code, _, errors = command("promote", "deployment/flowers")
    assert code == EXIT_CODES[Reason.SPEC_INVALID]
    assert "no revision on its way" in errors
    assert api.patches == []


def test_promote_waits_to_the_end_and_tells_each_step(api: PlayedApi, command: Command) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "AwaitingApproval")))
    api.upcoming = [
        status_with(OLD, NEW, "RollingOut"),
        status_with(OLD, NEW, "RollingOut"),
        status_with(NEW, "", "Completed"),
    ]
    code, out, _ = command("promote", "deployment/flowers", "--wait", "--timeout", 20)
    assert code == 0
    assert [line for line in out.splitlines() if line.startswith(f"{NEW}: RollingOut")] == [
        f"{NEW}: RollingOut."
    ]
    assert out.splitlines()[-1] == f"{NEW} answers."


def test_promote_ends_with_32_when_the_revision_is_rejected(api: PlayedApi, command: Command) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "RollingOut")))
    rejected = {
        **revision(NEW),
        "outcome": "Rejected",
        "reason": "DigestMismatch",
        "when": STARTED.isoformat(),
    }
    api.upcoming = [status_with(OLD, "", "CanaryRejected", history=[rejected])]
    code, out, _ = command("promote", "deployment/flowers", "--wait", "--timeout", 20)
    assert code == EXIT_CODES[Reason.CANARY_REJECTED] == 32
    assert f"{OLD}: CanaryRejected." in out


def test_promote_says_what_to_write_into_git_where_argo_cd_keeps_it(api: PlayedApi, command: Command) -> None:
    body = deployment(status_with(OLD, NEW, "AwaitingApproval"))
    body["metadata"]["annotations"] = {"argocd.argoproj.io/tracking-id": "vision:flowers"}
    api.put("modeldeployments", body)
    _, out, _ = command("promote", "deployment/flowers")
    assert f"Write into git:\n  spec:\n    rollout:\n      approvedRevision: {NEW}\n" in out


def test_deployment_that_is_not_there_is_a_sentence(command: Command) -> None:
    code, _, errors = command("pause", "deployment/tulips")
    assert code != 0
    assert "There is no ModelDeployment tulips in the namespace vision." in errors


def test_verbs_of_jobs_say_that_they_are(command: Command) -> None:
    for verb, words in (("cancel", "tunesmith pause deployment/flowers"), ("logs", "kubectl logs")):
        code, _, errors = command(verb, "deployment/flowers")
        assert code == EXIT_CODES[Reason.SPEC_INVALID]
        assert f"tunesmith {verb} is for TrainingJobs only." in errors
        assert words in errors.replace("\n", " ")
    assert "Write deployment/flowers" in command("promote", "job/flowers")[2]
    assert "names no resource" in command("status", "pod/flowers")[2]


# status, wait, submit


def test_status_shows_everything_on_one_screen(api: PlayedApi, command: Command) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "RollingOut")))
    code, out, _ = command("status", "deployment/flowers")
    assert code == 0
    for words in (
        f"✓ Serving: {OLD} answers.",
        f"▸ RollingOut: {NEW}: RollingOut.",
        f"http://{HOST}",
        f"{OLD}, sha256:{'a' * 12}, 2 pods",
        f"{NEW}, sha256:{'b' * 12}",
        "█████░░░░░░░░░░░░░░░ 25 % of the requests",
        "step 1 of 1, for ",
        " of at least 2:00",
        "Promoted",
        "Next  tunesmith wait deployment/flowers --promoted -n vision",
    ):
        assert words in out
    assert len(out.splitlines()) <= 24


def test_status_without_a_name_lists_both_kinds(api: PlayedApi, command: Command) -> None:
    assert "no TrainingJobs and no ModelDeployments" in command("status")[1]
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "RollingOut")))
    job = {
        "apiVersion": "tunesmith.dev/v1alpha1",
        "kind": "TrainingJob",
        "metadata": {"name": "flowers", "namespace": "vision"},
        "spec": {"dataset": {"uri": "s3://photos"}, "store": {"uri": "s3://models"}},
    }
    api.put("trainingjobs", job)
    _, out, _ = command("status")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "New" in rows["flowers"]
    assert f"{NEW} 25 %" in rows["deployment/flowers"]
    kinds = [json.loads(line)["kind"] for line in command("status", "-o", "json")[1].splitlines()]
    assert kinds == ["TrainingJob", "ModelDeployment"]


def test_wait_for_a_deployment_ends_when_it_answers_or_in_time(api: PlayedApi, command: Command) -> None:
    waiting = status_with(OLD)
    waiting["conditions"][0] = condition("Ready", False, "ModelPending", "No model yet.")
    api.put("modeldeployments", deployment(waiting))
    code, out, errors = command("wait", "deployment/flowers", "--timeout", 0)
    assert code == EXIT_CODES[Reason.DEADLINE_EXCEEDED]
    assert "No model yet." in out
    assert "tunesmith status deployment/flowers" in errors
    api.upcoming = [status_with(OLD)]
    assert command("wait", "deployment/flowers", "--timeout", 20)[0] == 0
    code, _, errors = command("wait", "flowers", "--promoted")
    assert code == EXIT_CODES[Reason.SPEC_INVALID]


def test_submit_applies_both_kinds_in_their_order(api: PlayedApi, command: Command, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        """
apiVersion: tunesmith.dev/v1alpha1
kind: TrainingJob
metadata: {name: flowers}
spec: {dataset: {uri: "s3://photos"}, store: {uri: "s3://models"}}
---
apiVersion: tunesmith.dev/v1alpha1
kind: ModelDeployment
metadata: {name: flowers}
spec: {model: {trainingJob: flowers}}
"""
    )
    code, out, errors = command("submit", "-f", path)
    assert code == 0, errors
    assert [body["kind"] for _, body in api.patches] == ["TrainingJob", "ModelDeployment"]
    assert {kind for kind, _ in api.patches} == {"application/apply-patch+yaml"}
    assert "Submitted deployment/flowers to the namespace vision." in out
    assert set(api.objects) == {("trainingjobs", "flowers"), ("modeldeployments", "flowers")}


# predict, explain


class Gateway:
    """Plays a gateway with predictors behind it.

    Attributes:
        address: HOST:PORT.
        asked: host, revision header and path of each request.
        serves: the revision that answers, whatever is asked for.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []
        self.serves = OLD
        gateway = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._say({"models": ["flowers"], "parameters": self._metadata()})

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                classes = [{"label": "rose", "probability": 0.9}, {"label": "tulip", "probability": 0.1}]
                png = base64.b64encode(picture("red")).decode()
                self._say({"predictions": [{"classes": classes, "explanation": {"png": png}}]})

            def _metadata(self) -> dict[str, object]:
                return {"verified": True, "digest": DIGESTS[gateway.serves]}

            def _say(self, body: dict[str, Any]) -> None:
                header = self.headers.get("x-tunesmith-revision", "")
                gateway.asked.append((self.headers["host"], header, self.path))
                data = json.dumps(body).encode()
                self.send_response(200 if self.headers["host"] == HOST else 404)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *arguments: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def gateway() -> Iterator[Gateway]:
    gateway = Gateway()
    yield gateway
    gateway.server.shutdown()
    gateway.server.server_close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    path.write_bytes(picture("red"))
    return path


def test_predict_asks_the_gateway_by_the_deployments_host_name(
    api: PlayedApi, command: Command, gateway: Gateway, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD)))
    code, out, errors = command("predict", "deployment/flowers", photo, "--gateway", gateway.address)
    assert code == 0, errors
    assert "rose" in out
    assert {(host, revision) for host, revision, _ in gateway.asked} == {(HOST, "")}
    monkeypatch.setenv("TUNESMITH_GATEWAY", gateway.address)
    assert command("predict", "deployment/flowers", photo)[0] == 0


def test_explain_writes_what_spoke_for_the_class(
    api: PlayedApi, command: Command, gateway: Gateway, photo: Path, tmp_path: Path
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD)))
    arguments = ("explain", "deployment/flowers", photo, "--to", tmp_path / "why")
    code, _, errors = command(*arguments, "--gateway", gateway.address)
    assert code == 0, errors
    assert (tmp_path / "why" / "photo.rose.png").read_bytes() == picture("red")
    assert gateway.asked[-1][2] == "/v1/models/flowers:explain?top=3"


def test_one_revision_is_asked_by_a_header_and_no_other_may_answer(
    api: PlayedApi, command: Command, gateway: Gateway, photo: Path
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "AwaitingApproval")))
    arguments = ("predict", "deployment/flowers", photo, "--gateway", gateway.address, "--revision")
    gateway.serves = NEW
    assert command(*arguments, NEW)[0] == 0
    assert {revision for _, revision, _ in gateway.asked} == {NEW}
    gateway.serves = OLD
    code, _, errors = command(*arguments, NEW)
    assert code == EXIT_CODES[Reason.DIGEST_MISMATCH]
    assert f"kubectl -n vision port-forward deployment/{NEW}-predictor 8080:8080" in errors
    code, _, errors = command(*arguments, "flowers-cccccccc")
    assert code == EXIT_CODES[Reason.SPEC_INVALID]
    assert f"It knows {NEW}, {OLD}." in errors


def test_host_name_that_is_not_known_here_is_told_with_the_ways_to_reach_it(
    api: PlayedApi, command: Command, photo: Path
) -> None:
    api.put("modeldeployments", deployment(status_with(OLD)))
    code, _, errors = command("predict", "deployment/flowers", photo)
    assert code != 0
    assert f"{HOST} cannot be found from here." in errors
    assert "--gateway HOST[:PORT]" in errors
    assert f"kubectl -n vision port-forward deployment/{OLD}-predictor 8080:8080" in errors


def test_address_inside_the_cluster_is_no_gateways(
    api: PlayedApi, command: Command, gateway: Gateway, photo: Path
) -> None:
    status = status_with(OLD, NEW, "RollingOut", url="http://flowers.vision.svc")
    api.put("modeldeployments", deployment(status))
    code, _, errors = command("predict", "deployment/flowers", photo, "--gateway", gateway.address)
    assert code != 0
    assert "port-forward" in errors
    assert "--gateway" not in errors
    code, _, errors = command("predict", "deployment/flowers", photo, "--revision", NEW)
    assert "has no gateway" in errors
    assert gateway.asked == []


def test_deployment_that_answers_nothing_yet_says_why(api: PlayedApi, command: Command, photo: Path) -> None:
    status = {"conditions": [condition("Ready", False, "ModelPending", "No model yet.")]}
    api.put("modeldeployments", deployment(status))
    code, _, errors = command("predict", "deployment/flowers", photo)
    assert code != 0
    assert "No model yet." in errors
    assert "tunesmith wait deployment/flowers" in errors


def test_revision_is_for_deployments(command: Command, photo: Path) -> None:
    code, _, errors = command("predict", "http://127.0.0.1:1", photo, "--revision", NEW)
    assert code == EXIT_CODES[Reason.SPEC_INVALID]
    assert "deployment/NAME" in errors


# From Python


def test_client_has_the_same_verbs(api: PlayedApi, gateway: Gateway, photo: Path) -> None:
    api.put("modeldeployments", deployment(status_with(OLD, NEW, "AwaitingApproval")))
    found = client.status("deployment/flowers")
    assert found.status is not None
    assert found.metadata.name == "flowers"
    [answer] = client.predict("flowers", [photo], gateway=gateway.address)
    assert (answer.label, answer.probabilities) == ("rose", {"rose": 0.9, "tulip": 0.1})
    assert gateway.asked[-1][2] == "/v1/models/flowers:predict"
    assert client.explain("flowers", photo, gateway=gateway.address) == picture("red")
    said: list[str] = []
    api.upcoming = [status_with(NEW)]
    assert client.promote("flowers", wait=True, timeout=20, say=said.append) == 0
    assert rollout(api)["approvedRevision"] == NEW
    assert said[-1] == f"{NEW} answers."
    client.pause("flowers")
    assert rollout(api)["paused"] is True
    client.resume("flowers")
    assert rollout(api)["paused"] is False
    api.put("modeldeployments", deployment(status_with(OLD)))
    with pytest.raises(SpecInvalid, match="no revision to go back to"):
        client.rollback("flowers")
    with pytest.raises(SpecInvalid, match="TrainingJobs only"):
        client.cancel("deployment/flowers")
