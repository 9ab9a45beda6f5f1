"""The verbs for what is in a cluster: TrainingJobs and ModelDeployments."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli_options import Namespace, Output, OutputOption, console, say
from tunesmith.cluster_names import deployment_name, job_name, reference
from tunesmith_api.reasons import SpecInvalid

if TYPE_CHECKING:
    from tunesmith.cluster import Cluster
    from tunesmith.following import Say
    from tunesmith.rollout_ends import End

IN_A_CLUSTER = "In a cluster"
cluster_app = typer.Typer(rich_markup_mode="markdown")

JobName = Annotated[str, typer.Argument(metavar="NAME", help="The TrainingJob's name.")]
AnyName = Annotated[
    str,
    typer.Argument(metavar="NAME", help="A TrainingJob's name, or deployment/NAME."),
]
DeploymentName = Annotated[
    str, typer.Argument(metavar="deployment/NAME", help="The ModelDeployment; deployment/ may be left out.")
]
Wait = Annotated[bool, typer.Option("--wait", help="Stay until it is done; 32: the revision was rejected.")]
Timeout = Annotated[float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Of the waiting.")]
DAY = 86_400.0


@cluster_app.command(
    rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith submit -f job.yaml --follow -n vision`"
)
def submit(
    file: Annotated[
        Path,
        typer.Option(
            "--filename",
            "-f",
            help="YAML with TrainingJobs and ModelDeployments.",
            exists=True,
            dir_okay=False,
        ),
    ],
    namespace: Namespace = None,
    follow: Annotated[
        bool, typer.Option("--follow", help="Stay, show the training and end with its exit code.")
    ] = False,
) -> None:
    """Have a cluster train and serve: create the resources of a file, or change what may change of them.

    The same as `kubectl apply -f`, after the same checks as `tunesmith validate`.
    """
    from tunesmith import cluster_jobs
    from tunesmith.cluster import Cluster

    raise typer.Exit(cluster_jobs.submit(Cluster(namespace), file, console(), follow=follow))


@cluster_app.command(
    rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith status deployment/flowers -n vision`"
)
def status(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="One job, or deployment/NAME, in full.")
    ] = None,
    namespace: Namespace = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a TrainingJob or a ModelDeployment in full, or a line for each of a namespace."""
    from tunesmith import cluster_jobs
    from tunesmith.cluster import Cluster

    cluster_jobs.show_status(Cluster(namespace), name, console(), as_json=output is Output.JSON)


@cluster_app.command(rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith logs -f flowers`")
def logs(
    name: JobName,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Stay until the job is over.")] = False,
    namespace: Namespace = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a TrainingJob's training as `tunesmith run` would, from the logs of its pods."""
    from tunesmith import cluster_jobs
    from tunesmith.cluster import Cluster

    name = job_name(
        name,
        "logs",
        "A predictor's: kubectl logs deployment/REVISION-predictor.",
    )
    as_json = output is Output.JSON
    raise typer.Exit(
        cluster_jobs.follow_job(Cluster(namespace), name, console(), as_json=as_json, follow=follow)
    )


@cluster_app.command(rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith wait flowers --timeout 7200`")
def wait(
    name: AnyName,
    timeout: Timeout = DAY,
    promoted: Annotated[
        bool,
        typer.Option("--promoted", help="deployment/NAME: until no revision is on its way any more."),
    ] = False,
    revision: Annotated[
        str | None,
        typer.Option("--revision", metavar="NAME", help="deployment/NAME: until this one has all requests."),
    ] = None,
    namespace: Namespace = None,
) -> None:
    """Wait until a TrainingJob is over, or a ModelDeployment answers requests.

    For a job the exit code is that of `tunesmith run`; for a ModelDeployment 0, or 32 when the revision that
    was waited for is rejected. 30: not in time.
    """
    from tunesmith import cluster_deployments, cluster_jobs
    from tunesmith.cluster import Cluster

    named = reference(name)
    if named.is_deployment:
        end = cluster_deployments.end_of(revision=revision, promoted=promoted)
        _follow(Cluster(namespace), named.name, end, timeout)
    if promoted or revision is not None:
        raise SpecInvalid(
            "--promoted and --revision are for ModelDeployments.",
            f"Write deployment/{name}, or leave them out.",
        )
    raise typer.Exit(cluster_jobs.wait_for(Cluster(namespace), named.name, say, timeout=timeout))


@cluster_app.command(rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith cancel flowers`")
def cancel(
    name: JobName,
    delete: Annotated[
        bool, typer.Option("--delete", help="Delete it instead; what lies in the store stays.")
    ] = False,
    namespace: Namespace = None,
) -> None:
    """Stop a TrainingJob: suspended, it can go on later from where it was. Not for ModelDeployments."""
    from tunesmith import cluster_jobs
    from tunesmith.cluster import Cluster

    name = job_name(
        name,
        "cancel",
        f"Hold a rollout with tunesmith pause {name}, give a revision up with tunesmith rollback {name}, "
        f"or stop serving with kubectl delete modeldeployment {name.partition('/')[2]}.",
    )
    cluster_jobs.cancel(Cluster(namespace), name, say, delete=delete)


@cluster_app.command(
    rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith promote deployment/flowers --wait`"
)
def promote(
    name: DeploymentName,
    revision: Annotated[
        str | None,
        typer.Argument(metavar="[REVISION]", help="One that was rejected, to have it tried again."),
    ] = None,
    wait: Wait = False,
    timeout: Timeout = DAY,
    namespace: Namespace = None,
) -> None:
    """Have a ModelDeployment's new revision take over, by spec.rollout.approvedRevision."""
    from tunesmith import cluster_deployments

    def change(cluster: "Cluster", name: str, say: "Say") -> "End":
        return cluster_deployments.promote(cluster, name, revision, say)

    _change(change, name, namespace, wait, timeout)


@cluster_app.command(
    rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith rollback deployment/flowers --wait`"
)
def rollback(
    name: DeploymentName, wait: Wait = False, timeout: Timeout = DAY, namespace: Namespace = None
) -> None:
    """Give a ModelDeployment's new revision up, or go back by one, by spec.rollout.rejectedRevision."""
    from tunesmith import cluster_deployments

    _change(cluster_deployments.rollback, name, namespace, wait, timeout)


@cluster_app.command(rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith pause deployment/flowers`")
def pause(
    name: DeploymentName, wait: Wait = False, timeout: Timeout = DAY, namespace: Namespace = None
) -> None:
    """Have a ModelDeployment's rollout stand where it is, by spec.rollout.paused."""
    from tunesmith import cluster_deployments

    _change(cluster_deployments.pause, name, namespace, wait, timeout)


@cluster_app.command(
    rich_help_panel=IN_A_CLUSTER, epilog="Example: `tunesmith resume deployment/flowers --wait`"
)
def resume(
    name: DeploymentName, wait: Wait = False, timeout: Timeout = DAY, namespace: Namespace = None
) -> None:
    """Have a ModelDeployment's rollout go on that was paused."""
    from tunesmith import cluster_deployments

    _change(cluster_deployments.resume, name, namespace, wait, timeout)


def _change(
    verb: "Callable[[Cluster, str, Say], End]", name: str, namespace: str | None, wait: bool, timeout: float
) -> None:
    from tunesmith.cluster import Cluster

    name, cluster = deployment_name(name), Cluster(namespace)
    end = verb(cluster, name, say)
    if wait:
        _follow(cluster, name, end, timeout)


def _follow(cluster: "Cluster", name: str, end: "End", timeout: float) -> None:
    from tunesmith import cluster_deployments

    raise typer.Exit(cluster_deployments.wait_for(cluster, name, end, say, timeout=timeout))
