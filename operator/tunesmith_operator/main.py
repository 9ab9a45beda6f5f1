"""The operator's process: reads flags, connects the parts, runs until it is told to stop."""

import argparse
import asyncio
import gc
import logging
import os
import re
import signal
import socket
import sys
import uuid
from datetime import UTC, datetime
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import aiohttp
import kopf
from kubernetes.aio.client import ApiClient

from tunesmith_api.reasons import TunesmithError, exit_code
from tunesmith_operator.cache import Cache
from tunesmith_operator.connection import connect, kopf_connection
from tunesmith_operator.endpoint import endpoint
from tunesmith_operator.kinds import (
    MODEL_DEPLOYMENT,
    OPTIONAL,
    OURS,
    RESOURCES,
    TRAINING_JOB,
    WATCHED,
    Key,
    Kind,
)
from tunesmith_operator.kube import ApiError, Kube, fence_trace
from tunesmith_operator.leader import Elector
from tunesmith_operator.logs import set_up_logs
from tunesmith_operator.metrics import Metrics
from tunesmith_operator.model_deployment.counters import FromPods, FromPrometheus
from tunesmith_operator.model_deployment.predictors import Meter, Prober
from tunesmith_operator.model_deployment.reconcile import DeploymentReconciler
from tunesmith_operator.queue import KeyedQueue
from tunesmith_operator.settings import Settings
from tunesmith_operator.training_job.reconcile import Reconciler
from tunesmith_operator.training_job.typical import typical_text
from tunesmith_operator.watches import NoRecords, registry_of, settings_of

_log = logging.getLogger(__name__)
AUDIT_SECONDS = 2.0
"""How soon after a list what it does not hold is forgotten."""
FIRST_KINDS_SECONDS, KINDS_SECONDS = 0.5, 15.0
"""How often the server is asked whether it has KServe and the Gateway API by now."""
STOPPING_SECONDS = 10.0
"""How long what is going on may take to end."""


def main(arguments: list[str] | None = None) -> int:
    """Run the operator; returns the exit code."""
    options = _parse(arguments)
    set_up_logs(options.log_format, options.log_level)
    settings = Settings(
        trainer_image=options.trainer_image,
        predictor_image=options.predictor_image,
        gateway=options.gateway,
        gateway_domain=options.gateway_domain,
        prometheus=options.prometheus,
        image_pull_policy=options.image_pull_policy,
        image_pull_secrets=tuple(options.image_pull_secret),
        namespaces=tuple(options.namespace),
        own_namespace=options.own_namespace,
        lease_name=options.lease_name,
        workers=options.workers,
        resync_seconds=options.resync_seconds,
        grace_seconds=options.grace_seconds,
    )
    # What was imported stays. Left out, it is not looked through again, and garbage is found sooner: Python
    # looks for it when a quarter has been added to what it knows.
    gc.freeze()
    try:
        asyncio.run(_run(settings, options.host, options.port))
    except TunesmithError as error:
        _log.error("%s", error)
        return exit_code(error)
    except Exception:
        _log.exception("The operator ends because something failed that it cannot mend; start it again")
        return 1
    return 0


def _parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tunesmith_operator",
        description="Watches TrainingJobs and ModelDeployments: has Kubernetes train the first and KServe "
        "serve the second. Connects with its pod's service account, or with KUBECONFIG.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--trainer-image", required=True, help="image of the trainer's pods")
    add("--predictor-image", default="", help="image of the predictors' pods; without it nothing is served")
    add(
        "--gateway",
        type=_gateway,
        default="",
        metavar="NAMESPACE/NAME",
        help="the Gateway that predictions come through; without one only strategy Replace works",
    )
    add(
        "--gateway-domain",
        default="example.com",
        help="predictions have the host name NAME.NAMESPACE.DOMAIN",
    )
    add(
        "--prometheus",
        type=_url,
        default="",
        metavar="URL",
        help="analyses of rollouts read what predictors count from this Prometheus, not from their pods",
    )
    add("--image-pull-policy", default="", choices=("", "Always", "IfNotPresent", "Never"))
    add(
        "--image-pull-secret",
        action="append",
        default=[],
        help="a Secret in the resource's namespace; may repeat",
    )
    add(
        "--namespace", action="append", default=[], help="watch only this one; may repeat; all when not given"
    )
    add("--own-namespace", default=_own_namespace(), help="where the lease is kept")
    add("--lease-name", default="tunesmith-operator", help="replicas of one operator share it")
    add("--workers", type=int, default=8, help="resources handled at once")
    add("--resync-seconds", type=float, default=600.0, help="look at each so often, news or not")
    add("--grace-seconds", type=int, default=120, help="between a trainer's SIGTERM and its SIGKILL")
    add("--host", default="0.0.0.0", help="address of /metrics, /healthz and /readyz")
    add("--port", type=int, default=8080, help="port of the same; 0 for any")
    add("--log-format", choices=("json", "text"), default="text" if sys.stderr.isatty() else "json")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info")
    return parser.parse_args(arguments)


def _gateway(text: str) -> str:
    if text and not re.fullmatch(r"[-a-z0-9]+/[-.a-z0-9]+", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no NAMESPACE/NAME")
    return text


def _url(text: str) -> str:
    if text and not re.fullmatch(r"https?://[^/?#\s@]+(/[^?#\s]*)?", text):
        raise argparse.ArgumentTypeError(f"{text!r} is no URL of a server, like http://prometheus:9090")
    return text


def _own_namespace() -> str:
    try:
        return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text("utf-8").strip()
    except OSError:
        return os.environ.get("POD_NAMESPACE", "tunesmith-system")


async def _run(settings: Settings, host: str, port: int) -> None:
    configuration = await connect()
    async with ApiClient(configuration) as client, aiohttp.ClientSession() as session:
        operator = Operator(settings, client, session)
        # Read when the first request opens the client's session.
        configuration.trace_configs = [fence_trace(operator.may_write_for)]
        await operator.run(host, port)


class Operator:
    """All parts of the operator and how they are connected.

    Args:
        settings: the installation's.
        client: connected.
        session: for what is not the API server: predictors, and Prometheus.
    """

    def __init__(self, settings: Settings, client: ApiClient, session: aiohttp.ClientSession) -> None:
        """Connect the parts; nothing runs yet."""
        self._settings, self._client = settings, client
        identity = f"{socket.gethostname()}-{uuid.uuid4().hex[:8]}"
        self._cache, self._metrics = Cache(typical_text(settings)), Metrics()
        self._queue: KeyedQueue[Key] = KeyedQueue()
        self._kube = Kube(client, self.may_write_for, self._metrics.called)
        self._elector = Elector(
            self._kube, settings.own_namespace, settings.lease_name, identity, on_change=self._leads
        )
        self._reconciler = Reconciler(
            self._kube,
            self._cache,
            settings,
            identity,
            lambda: datetime.now(UTC),
            lambda: self._elector.leads,
        )
        pods = FromPods(session)
        self._deployments = DeploymentReconciler(
            self._kube,
            settings,
            identity,
            lambda: datetime.now(UTC),
            lambda: self._elector.leads,
            lambda kind: kind in self._optional,
            Meter(FromPrometheus(session, settings.prometheus) if settings.prometheus else pods),
            Prober(session, pods),
        )
        self._metrics.queue_depth(lambda: len(self._queue))
        self._started = asyncio.Event()
        self._listed: set[Kind] = set()
        self._optional: frozenset[Kind] = frozenset()

    def may_write_for(self) -> float:
        """Seconds for which this process may write.

        Raises:
            NotLeader: it may not.
        """
        return self._elector.may_write_for()

    async def run(self, host: str, port: int) -> None:
        """Run until SIGTERM or SIGINT: then finish what is being written and give the lease back.

        Raises:
            TunesmithError: the API server does not know TrainingJobs, or cannot be asked.
        """
        await self._check_installation()
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        async with endpoint(host, port, self._metrics, self._not_ready, lambda: "") as bound:
            _log.info("The operator starts; metrics and probes are at port %d", bound)
            work = [
                asyncio.create_task(self._queue.run(self._reconcile, self._settings.workers)),
                asyncio.create_task(self._resync()),
                asyncio.create_task(self._audit()),
            ]
            lead = asyncio.create_task(self._elector.run())
            watch = asyncio.create_task(self._watch(stop))
            stopping = asyncio.create_task(stop.wait())
            done, _ = await asyncio.wait([*work, lead, watch, stopping], return_when=asyncio.FIRST_COMPLETED)
            stop.set()
            self._queue.close()
            await asyncio.wait([work[0]], timeout=STOPPING_SECONDS)
            await _end(*work, lead)
            await asyncio.wait([watch], timeout=STOPPING_SECONDS)
            await _end(watch, stopping)
            for task in done:
                if not task.cancelled() and (error := task.exception()):
                    raise error
        _log.info("The operator has stopped")

    async def _check_installation(self) -> None:
        try:
            for kind, namespace in product(RESOURCES, self._settings.namespaces or ("",)):
                await self._kube.ask_for(kind, namespace)
        except ApiError as error:
            hint = {
                404: "Install the CRDs: kubectl apply --server-side -f manifests/crds.",
                403: "Apply the operator's roles, or name the namespaces it may watch with --namespace.",
            }
            raise TunesmithError(
                f"{kind.name}s cannot be listed: {error.message}.",
                hint.get(error.status, "Check that the API server can be reached."),
            ) from error

    async def _watch(self, stop: asyncio.Event) -> None:
        """Watch what the server has; begin anew when it has KServe or the Gateway API, or no longer."""
        self._optional = await self._other_kinds(None)
        while not stop.is_set():
            over = asyncio.Event()
            watching = asyncio.create_task(self._watch_until(over))
            stopped = asyncio.create_task(stop.wait())
            others = asyncio.create_task(self._other_kinds(self._optional))
            await asyncio.wait([watching, stopped, others], return_when=asyncio.FIRST_COMPLETED)
            if watching.done():  # Kopf takes SIGTERM and SIGINT over from us, and ends by itself.
                stop.set()
            over.set()
            await watching
            if others.done():
                self._optional = others.result()
            await _end(stopped, others)

    async def _served(self) -> frozenset[Kind]:
        return frozenset([kind for kind in OPTIONAL if await self._kube.serves(kind)])

    async def _other_kinds(self, known: frozenset[Kind] | None) -> frozenset[Kind]:
        """What the server has, once that is something else than what is known; nothing is, to begin with."""
        while True:
            try:
                if (served := await self._served()) != known:
                    return served
            except ApiError as error:
                _log.info("Which kinds the server has is asked later: %s", error)
            await asyncio.sleep(FIRST_KINDS_SECONDS if known is None else KINDS_SECONDS)

    async def _watch_until(self, over: asyncio.Event) -> None:
        await kopf.operator(
            registry=registry_of(
                self._cache,
                self._news,
                partial(kopf_connection, self._client.configuration),
                self._told,
                self._listed_anew,
                self._kinds(),
            ),
            settings=settings_of(),
            memories=NoRecords(),
            clusterwide=not self._settings.namespaces,
            namespaces=self._settings.namespaces,
            stop_flag=over,
            ready_flag=self._started,
        )

    async def _reconcile(self, key: Key) -> float | None:
        with self._metrics.reconciling():
            if key.kind == MODEL_DEPLOYMENT.name:
                return await self._deployments.reconcile(key)
            return await self._reconciler.reconcile(key)

    def _news(self, key: Key) -> None:
        """Something is new of a resource; what serves a job's model looks too."""
        self._queue.add(key)
        if key.kind == TRAINING_JOB.name:
            for follower in self._cache.followers(key):
                self._queue.add(follower)

    async def _resync(self) -> None:
        while True:
            await asyncio.sleep(self._settings.resync_seconds)
            self._listed |= set(self._kinds())
            self._enqueue_all()

    async def _audit(self) -> None:
        """After a list, forget what is gone: a watch that was cut tells of no deletion."""
        while True:
            await asyncio.sleep(AUDIT_SECONDS)
            kinds, self._listed = self._listed, set()
            for kind in kinds:
                await self._look_through(kind)

    async def _look_through(self, kind: Kind) -> None:
        selector = "" if kind in RESOURCES else OURS
        for namespace in self._settings.namespaces or ("",):
            try:
                version, names = await self._kube.names(kind, namespace, selector)
            except ApiError as error:
                _log.info("%s are looked through later: %s", kind.plural, error)
                self._listed.add(kind)
                return
            for key in self._cache.keep_only(kind, names, version, namespace):
                self._queue.add(key)

    def _kinds(self) -> tuple[Kind, ...]:
        """What is watched."""
        watched = (kind for kind in WATCHED if kind not in OPTIONAL or kind in self._optional)
        return (*RESOURCES, *watched)

    def _enqueue_all(self) -> None:
        for key in list(self._cache.resources()):
            self._queue.add(key)

    def _leads(self, leads: bool) -> None:
        self._metrics.leads(leads)
        if leads:
            self._enqueue_all()

    def _told(self, key: Key, phase: str | None) -> None:
        self._metrics.phase(key, phase)
        if phase is None:
            self._queue.forget(key)
            self._deployments.forget(key)

    def _listed_anew(self, kind: Kind) -> None:
        self._listed.add(kind)

    def _not_ready(self) -> str:
        return "" if self._started.is_set() else "the watches have not started"


async def _end(*tasks: asyncio.Task[Any]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
