"""What a trainer in a cluster tells of itself: live into its TrainingJob's status, last into its pod's.

The status is written by server-side apply with a field manager of the trainer's own, so that it and the
operator each keep their part: data, search, verification and model are the trainer's, the rest is not.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tunesmith_api.fields import API_VERSION, GROUP, VERSION
from tunesmith_api.reasons import TrainingJobCondition
from tunesmith_api.status import TrainingJobStatus

FIELD_MANAGER = "tunesmith-trainer"
PERIOD_SECONDS = 2.0
"""A search changes its status several times a second; people look less often."""
RETRY_SECONDS = 1.0
LAST_SECONDS = 60.0
"""How long the end waits for the last status to be taken. The operator then has the termination message."""
TERMINATION_LOG = Path("/dev/termination-log")
TERMINATION_BYTES = 4_096
"""The kubelet keeps so much."""

_OWN_FIELDS = ("dataset", "search", "verification", "model", "reportUri", "restarts", "gpuSeconds")
_OWN_CONDITIONS = frozenset(
    {
        TrainingJobCondition.DATA_READY.value,
        TrainingJobCondition.SEARCH_COMPLETE.value,
        TrainingJobCondition.VERIFIED.value,
    }
)
_log = logging.getLogger(__name__)

Write = Callable[[dict[str, Any]], None]


class Refused(Exception):
    """The API server will not have the status: the TrainingJob is gone, or another has its name."""


def own_part(status: TrainingJobStatus) -> dict[str, Any]:
    """The trainer's part of a status, as JSON."""
    whole = status.to_dict()
    part = {field: whole[field] for field in _OWN_FIELDS if field in whole}
    part["conditions"] = [one for one in whole.get("conditions", ()) if one["type"] in _OWN_CONDITIONS]
    return part


class StatusReporter:
    """Sends the newest status from a thread of its own, at most every ``PERIOD_SECONDS``.

    Args:
        write: sends the trainer's part; raises Refused when there is no use in going on, anything else when
            it may work later.
    """

    def __init__(self, write: Write) -> None:
        """Start the thread; nothing is sent yet."""
        self._write = write
        self._changed = threading.Condition()
        self._newest: dict[str, Any] | None = None
        self._sent: dict[str, Any] | None = None
        self._over = False
        self._thread = threading.Thread(target=self._run, name="status-reporter", daemon=True)
        self._thread.start()

    def tell(self, status: TrainingJobStatus) -> None:
        """Have this status sent soon; only the newest counts."""
        part = own_part(status)
        with self._changed:
            self._newest = part
            self._changed.notify_all()

    def finish(self, seconds: float = LAST_SECONDS) -> bool:
        """Send what is not sent yet; returns whether the server has taken the last status."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        self._thread.join(seconds)
        return self._sent == self._newest

    def _run(self) -> None:
        while (part := self._next()) is not None:
            try:
                self._write(part)
                self._sent = part
            except Refused as error:
                _log.warning("The status is not reported any more: %s", error)
                return
            except Exception as error:  # The client raises errors of five libraries.
                _log.warning("The status was not taken and is sent again: %s", error)
                time.sleep(RETRY_SECONDS)
            self._rest(PERIOD_SECONDS)

    def _next(self) -> dict[str, Any] | None:
        """Wait for something to send; None when it is all sent and there will be no more."""
        with self._changed:
            while self._newest == self._sent and not self._over:
                self._changed.wait()
            return None if self._newest == self._sent else self._newest

    def _rest(self, seconds: float) -> None:
        """Wait between two writes, unless the end has come."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, seconds)


def cluster_writer(namespace: str, name: str, uid: str) -> Write:
    """Writes the status of one TrainingJob with the pod's service account, or with KUBECONFIG.

    Args:
        namespace: of the TrainingJob.
        name: of the TrainingJob.
        uid: of the TrainingJob; another one of its name is left alone.
    """
    connected: list[Any] = []

    def write(part: dict[str, Any]) -> None:
        # Imported in the reporter's thread: it takes a second that the training need not wait for.
        import kubernetes

        if not connected:
            if path := os.environ.get("KUBECONFIG"):
                kubernetes.config.load_kube_config(path)
            else:
                kubernetes.config.load_incluster_config()
            connected.append(kubernetes.client.CustomObjectsApi())
        address = (GROUP, VERSION, namespace, "trainingjobs", name)
        try:
            # The API server compares uids in metadata, but not when a status is written; so we do, and the
            # version makes sure that what we looked at is what we write to.
            present = connected[0].get_namespaced_custom_object(*address)["metadata"]
            if present["uid"] != uid:
                raise Refused(f"the TrainingJob {name} is another one by now")
            body = {
                "apiVersion": API_VERSION,
                "kind": "TrainingJob",
                "metadata": {
                    "name": name,
                    "namespace": namespace,
                    "resourceVersion": present["resourceVersion"],
                },
                "status": part,
            }
            connected[0].patch_namespaced_custom_object_status(
                *address,
                body,
                field_manager=FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=10,
            )
        except kubernetes.client.ApiException as error:
            if error.status == 404:
                raise Refused(f"{error.status} {error.reason}") from error
            raise

    return write


def last_words(reason: str, message: str, next_step: str, status: dict[str, Any] | None) -> str:
    """The termination message: what the operator and ``kubectl describe pod`` show of the end."""
    whole = status or {}
    said: dict[str, Any] = {
        "reason": reason,
        "message": message[:1_500],
        "nextStep": next_step[:500],
        "status": {field: whole[field] for field in ("model", "reportUri") if field in whole},
    }
    text = json.dumps(said, ensure_ascii=True, separators=(",", ":"))
    if len(text) > TERMINATION_BYTES:
        # Escaped letters take up to twelve bytes; what was asked of the model matters more.
        said["message"], said["nextStep"] = message[:100], ""
        text = json.dumps(said, ensure_ascii=True, separators=(",", ":"))
    return text
