"""What a person and a machine see of a run: the live picture, the outcome, the JSON lines."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.text import Text
from tests.unit.emitting_trainer import Steps, result, trainer_command

from tunesmith import wording
from tunesmith.line_views import PlainView
from tunesmith.live_view import LiveView, stage_table, trial_table
from tunesmith.outcome import metrics_table
from tunesmith.run import run_file
from tunesmith.run_state import RunState
from tunesmith_api.status import TrainingJobStatus

JOB = """
apiVersion: tunesmith.dev/v1alpha1
kind: TrainingJob
metadata: {name: flowers}
spec:
  dataset: {uri: "file://./photos"}
  store: {uri: "file://./models"}
"""


def shown(*renderables: RenderableType, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(*renderables)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


STATUS: dict[str, Any] = {
    "phase": "Failed",
    "verification": {
        "metrics": {"accuracy": 0.81234, "latencyP95Milliseconds": 12.34},
        "gates": [
            {
                "metric": "accuracy",
                "limit": ">= 0.9",
                "value": 0.81234,
                "passed": False,
                "message": "too low",
            },
            {"metric": "accuracy", "limit": ">= champion + 0", "passed": True, "message": ""},
        ],
    },
    "model": {"uri": "file:///s/models/flowers/3f", "digest": "sha256:" + "3f" * 32, "verified": False},
    "reportUri": "file:///s/models/flowers/3f/report.html",
}


def trial(name: str, accuracy: float, **more: Any) -> dict[str, Any]:
    row = {
        "id": name,
        "state": "Succeeded",
        "strategy": "LinearProbe",
        "backbone": "mobilenet_v2",
        "parameters": {"learningRate": 0.00123456},
        "metrics": {"accuracy": accuracy},
    }
    return {"type": "trial", "trial": {**row, **more}}


def state_of(*events: dict[str, Any]) -> RunState:
    state = RunState()
    for second, event in enumerate(events):
        state = state.after(event, float(second))
    return state


def test_stages_show_what_is_done_what_goes_on_and_how_long_it_takes() -> None:
    progress = {"type": "progress", "task": "decode", "stage": "search", "total": 100, "unit": "images"}
    state = state_of(
        {"type": "stage", "stage": "prepare", "state": "reused", "seconds": 0.0},
        {"type": "stage", "stage": "search", "state": "started"},
        {**progress, "done": 0},
        {**progress, "done": 20},
    )
    lines = shown(stage_table(state, now=3.0)).splitlines()
    assert "prepare" in lines[0]
    assert "kept from an earlier run" in lines[0]
    assert "decode" in lines[1]
    assert "20 of 100 images  20 images/s  4.0 s left" in lines[1]
    assert lines[3].split() == ["·", "publish"]


def test_trials_are_ranked_and_counted() -> None:
    state = state_of(trial("t1", 0.8), trial("t2", 0.9, epochs=3, maxEpochs=12, state="Running"))
    lines = [line.rstrip() for line in shown(trial_table(state, "accuracy", maximize=True)).splitlines()]
    assert lines[0] == "2 trials: 1 running, 1 succeeded"
    assert lines[2].split()[:5] == ["t2", "LinearProbe", "mobilenet_v2", "0.9000", "-"]
    assert "3/12" in lines[2]
    assert "learningRate=0.00123" in lines[3]


@pytest.mark.parametrize("width", [40, 80, 160])
def test_live_picture_fits_the_terminal(width: int) -> None:
    console = Console(file=io.StringIO(), width=width, height=24, force_terminal=True, color_system=None)
    state = state_of(*(trial(f"t{number}", number / 100) for number in range(40)))
    with LiveView(console, "flowers", "accuracy", maximize=True) as view:
        view.show({}, state)
    assert isinstance(console.file, io.StringIO)
    picture = Text.from_ansi(console.file.getvalue())
    assert all(line.cell_len <= width for line in picture.split())
    assert "40 trials" in picture.plain


def test_outcome_shows_each_metric_beside_its_gates() -> None:
    lines = shown(metrics_table(TrainingJobStatus.model_validate(STATUS))).splitlines()
    rows = [line.split() for line in lines[1:]]
    assert rows == [
        ["accuracy", "0.8123", ">=", "0.9", "failed:", "too", "low"],
        ["accuracy", "0.8123", ">=", "champion", "+", "0", "passed"],
        ["latencyP95Milliseconds", "12.3"],
    ]


def run(
    folder: Path, steps: Steps, capsys: pytest.CaptureFixture[str], *, as_json: bool, text: str = JOB
) -> tuple[int, list[str]]:
    (folder / "job.yaml").write_text(text)
    code = run_file(
        folder / "job.yaml",
        Console(highlight=False, width=200),
        name=None,
        as_json=as_json,
        device="cpu",
        cache_dir=folder / "cache",
        result=folder / "result.json",
        trainer=trainer_command(folder, steps),
    )
    return code, capsys.readouterr().out.splitlines()


def test_run_as_json_ends_with_the_job_as_a_cluster_would_show_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = result(25, "GateFailed", "accuracy is too low.", status=STATUS)
    code, lines = run(tmp_path, [trial("t1", 0.8), last, {"do": "exit", "code": 25}], capsys, as_json=True)
    documents = [json.loads(line) for line in lines]
    assert code == 25
    assert [one["type"] for one in documents[:-1]] == ["trial", "result"]
    assert set(documents[-1]) == {"apiVersion", "kind", "metadata", "spec", "status"}
    assert documents[-1]["spec"]["dataset"]["uri"] == (tmp_path / "photos").as_uri()
    assert documents[-1]["status"]["verification"]["metrics"]["accuracy"] == 0.81234
    assert json.loads((tmp_path / "result.json").read_text()) == documents[-1]


def test_run_for_people_ends_with_verdict_places_and_the_next_commands(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    verified = {**STATUS, "phase": "Succeeded", "model": {**STATUS["model"], "verified": True}}
    last = result(0, "Completed", status=verified)
    code, lines = run(tmp_path, [last, {"do": "exit", "code": 0}], capsys, as_json=False)
    assert code == 0
    assert "Verified: the model passed every gate." in lines
    assert "Report   file:///s/models/flowers/3f/report.html" in lines
    assert "  tunesmith predict file:///s/models/flowers/3f IMAGE..." in lines


def test_run_that_failed_says_why_first_and_then_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = {**result(12, "DatasetInvalid", "The class 'x' has 2 images."), "nextStep": "Add images."}
    code, lines = run(tmp_path, [last, {"do": "exit", "code": 12}], capsys, as_json=False)
    assert code == 12
    assert lines[-2:] == ["The class 'x' has 2 images.", "Add images."]


def deployment(name: str, job: str = "flowers") -> str:
    return (
        f"---\napiVersion: tunesmith.dev/v1alpha1\nkind: ModelDeployment\nmetadata: {{name: {name}}}\n"
        f"spec: {{model: {{trainingJob: {job}}}}}\n"
    )


@pytest.mark.parametrize(
    ("deployments", "said"),
    [
        pytest.param(deployment("garden"), "nothing is served in this run", id="for programs"),
        pytest.param(deployment("garden", "trees"), "not of this job", id="of another job"),
        pytest.param(deployment("garden") + deployment("park"), "one of several", id="two"),
    ],
)
def test_run_with_a_deployment_that_it_does_not_serve_says_so(
    deployments: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    steps: Steps = [result(0, "Completed"), {"do": "exit", "code": 0}]
    _, lines = run(tmp_path, steps, capsys, as_json=True, text=JOB + deployments)
    first = json.loads(lines[0])
    assert first["type"] == "note"
    assert "ModelDeployment garden" in first["message"]
    assert said in first["message"]


class Clock:
    """Seconds that grow when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_plain_view_counts_slow_work_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    view = PlainView(stream, "accuracy", clock=clock)
    state = RunState()
    for second in range(25):
        clock.now = float(second)
        event = {"type": "progress", "task": "decode", "stage": "prepare", "total": 100, "unit": "images"}
        state = state.after({**event, "done": second}, clock.now)
        view.show({**event, "done": second}, state)
    assert stream.getvalue().splitlines() == [
        "prepare: decode, 10 of 100 images, 1.0 images/s, 1:30 left",
        "prepare: decode, 20 of 100 images, 1.0 images/s, 1:20 left",
    ]


def test_plain_view_tells_how_far_a_long_fine_tuning_is() -> None:
    stream, clock = io.StringIO(), Clock()
    view = PlainView(stream, "accuracy", clock=clock)
    for epoch in range(1, 4):
        clock.now += 7.0
        event = trial("t7", 0.8, state="Running", epochs=epoch, maxEpochs=12)
        view.show(event, RunState())
    assert stream.getvalue().splitlines() == ["trial t7: epoch 2 of 12"]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.42, "0.4 s"), (12.3, "12 s"), (59.7, "1:00"), (185, "3:05"), (3723, "1:02:03")]
)
def test_duration_reads_naturally(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("rate", "words"), [(240.4, "240 images/s"), (1.24, "1.2 images/s"), (0.2, "12.0 images/min")]
)
def test_rate_takes_the_unit_that_reads_best(rate: float, words: str) -> None:
    assert wording.rate(rate, "images") == words


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("T-shirt/top", "t-shirt-top"),
        ("Ankle boot", "ankle-boot"),
        ("Löwenzahn", "löwenzahn"),
        ("../..", "class"),
    ],
)
def test_file_name_of_a_label_is_one_plain_part(label: str, name: str) -> None:
    assert wording.file_name(label) == name
