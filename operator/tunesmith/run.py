"""``tunesmith run``: read the file, run its TrainingJob, tell how it ended."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from tunesmith.files import place
from tunesmith.job_file import JobFile, read_job_file
from tunesmith.line_views import JsonView, PlainView, View, compact
from tunesmith.live_view import LiveView
from tunesmith.local_run import run_job
from tunesmith.outcome import print_outcome
from tunesmith.serve import require_predictor, serve_model


def run_file(
    path: Path,
    console: Console,
    *,
    name: str | None,
    as_json: bool,
    device: str,
    cache_dir: Path,
    result: Path | None = None,
    trainer: Sequence[str] = (),
    serve: bool = True,
    port: int = 8080,
) -> int:
    """Run the TrainingJob of a YAML file, show it on standard output, and serve what it made.

    A model is served when the file has a ModelDeployment of it; this process then becomes its predictor and
    does not return.

    Args:
        path: the file; its folder is where relative addresses in the spec start.
        console: standard output.
        name: which TrainingJob; needed when the file holds several.
        as_json: print the trainer's events, and last the TrainingJob with its status, as JSON lines.
        device: auto, cpu or cuda.
        cache_dir: for everything that can be made again.
        result: a file for the TrainingJob with its final status.
        trainer: the command that starts a trainer; this Python's tunesmith_trainer unless given.
        serve: whether to serve the model; JSON is for programs, which are served nothing.
        port: where it is served.

    Returns:
        The exit code.

    Raises:
        SpecInvalid: the file breaks a rule, or leaves open which job is meant.
        TunesmithError: the model is to be served, and the predictor is not installed.
    """
    content = read_job_file(path, name)
    view = _view(content, console, as_json=as_json)
    for sentence in content.remarks:
        view.say(sentence)
    deployment = content.deployment
    if deployment is not None and (as_json or not serve):
        view.say(f"The ModelDeployment {deployment.name} is left alone: nothing is served in this run.")
        deployment = None
    if deployment is not None:
        require_predictor()  # now, rather than after hours of training
    outcome = run_job(content.job, cache_dir=cache_dir.absolute(), view=view, device=device, trainer=trainer)
    if result is not None:
        document = json.dumps(outcome.job.to_dict(), indent=2, ensure_ascii=False)
        place(result, lambda temporary: temporary.write_text(document + "\n"))
    if as_json:
        print(compact(outcome.job.to_dict()), flush=True)
    else:
        print_outcome(console, outcome)
    model = outcome.job.status.model if outcome.job.status else None
    if deployment is not None and outcome.exit_code == 0 and model is not None:
        monitoring = deployment.spec.monitoring
        serve_model(
            model.uri,
            console,
            port=port,
            name=deployment.name,
            digest=model.digest,
            drift_window=monitoring.drift.window_requests if monitoring.drift.enabled else 0,
            feedback=monitoring.feedback.enabled,
            explanations=deployment.spec.explanations.enabled,
        )
    return outcome.exit_code


def _view(content: JobFile, console: Console, *, as_json: bool) -> View:
    primary = content.job.spec.objectives[0]
    if as_json:
        return JsonView(sys.stdout)
    if console.is_terminal and not console.is_dumb_terminal:
        return LiveView(console, content.job.name, primary.metric, maximize=primary.maximize)
    return PlainView(sys.stdout, primary.metric)
