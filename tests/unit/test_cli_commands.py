"""The commands as they are typed: what they print and the exit code they end with."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.testbed.tiny_package import HEADER, picture, write_tiny_package

from tunesmith.cli import main
from tunesmith_package.package import PublishedPackage, publish_package
from tunesmith_package.store import open_store

Command = Callable[..., tuple[int, str, str]]

JOB = """
apiVersion: tunesmith.dev/v1alpha1
kind: TrainingJob
metadata: {name: flowers}
spec:
  dataset: {uri: "file://./photos"}
  store: {uri: "file://./models"}
"""
OTHER_JOB = JOB.replace("flowers", "birds")
DEPLOYMENT = """
apiVersion: tunesmith.dev/v1alpha1
kind: ModelDeployment
metadata: {name: flowers}
spec:
  model: {trainingJob: flowers}
"""


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs a command line; gives its exit code, standard output and standard error."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("TUNESMITH_DEBUG", raising=False)

    def run(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        code = end.value.code
        return (code if isinstance(code, int) else 1), output.out, output.err

    return run


@pytest.fixture
def package(tmp_path: Path) -> PublishedPackage:
    directory = write_tiny_package(tmp_path / "built")
    metrics = {
        "images": 40,
        "metrics": {"accuracy": {"value": 0.95, "low": 0.9, "high": 0.98}},
        "gates": [{"metric": "accuracy", "limit": ">= 0.9", "passed": True, "value": 0.95, "message": ""}],
    }
    (directory / "metrics.json").write_text(json.dumps(metrics))
    return publish_package(directory, open_store((tmp_path / "store").as_uri()), "colours", HEADER)


def folder_of(package: PublishedPackage) -> Path:
    return Path(package.uri.removeprefix("file://"))


def written(folder: Path, text: str, name: str = "job.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


# validate


def test_validate_valid_documents_are_named_one_by_one(command: Command, tmp_path: Path) -> None:
    path = written(tmp_path, f"{JOB}---{DEPLOYMENT}")
    code, out, _ = command("validate", "-f", path)
    assert code == 0
    assert out.splitlines() == [
        f"valid    {path}: TrainingJob flowers",
        f"valid    {path}: ModelDeployment flowers",
    ]


def test_validate_names_every_violation_of_every_document_of_every_file(
    command: Command, tmp_path: Path
) -> None:
    wrong = JOB.replace("file://./photos", "http://photos").replace("name: flowers", "name: Flowers")
    first = written(tmp_path, f"{wrong}---{DEPLOYMENT}", "first.yaml")
    second = written(tmp_path, JOB + "  serch: {numTrials: 5}\n", "second.yaml")
    code, out, _ = command("validate", "-f", first, "-f", second)
    assert code == 10
    assert out.count("invalid  ") == 2
    assert f"valid    {first}: ModelDeployment flowers" in out
    for words in ("spec.dataset.uri", "metadata.name", 'unknown field "spec.serch"'):
        assert words in out


@pytest.mark.parametrize(
    ("text", "words"),
    [
        pytest.param("a: [", "line", id="what is no YAML points at its line"),
        pytest.param("", "no resource", id="an empty file holds nothing to validate"),
        pytest.param(f"{JOB}---{JOB}", "twice", id="two resources of one name collide"),
        pytest.param("kind: Pod\napiVersion: v1", "Pod", id="another kind is not ours"),
    ],
)
def test_validate_refuses_a_file_as_a_whole(command: Command, tmp_path: Path, text: str, words: str) -> None:
    code, out, _ = command("validate", "-f", written(tmp_path, text))
    assert code == 10
    assert "invalid  " in out
    assert words in out


# run: what is refused before anything starts


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        pytest.param(
            JOB.replace("file://./photos", "http://x"), [], "spec.dataset.uri", id="an invalid spec"
        ),
        pytest.param(DEPLOYMENT, [], "no TrainingJob", id="a file without a job"),
        pytest.param(
            f"{JOB}---{JOB.replace('flowers', 'birds')}",
            [],
            "--name: flowers, birds",
            id="two jobs, none chosen",
        ),
        pytest.param(JOB, ["--name", "birds"], "It holds: flowers", id="a job that is not in the file"),
    ],
)
def test_run_refuses(command: Command, tmp_path: Path, text: str, arguments: list[str], words: str) -> None:
    code, out, err = command("run", "-f", written(tmp_path, text), *arguments, "--cache-dir", tmp_path / "c")
    assert code == 10
    assert out == ""
    assert words in err
    assert not (tmp_path / "c").exists()


# inspect


def test_inspect_shows_origin_metrics_gates_and_files(command: Command, package: PublishedPackage) -> None:
    code, out, _ = command("inspect", package.uri)
    assert code == 0
    for words in (package.digest, "tiny, LinearProbe, 32 pixels", "3: red, green, blue", "0.9500"):
        assert words in out
    assert re.search(r"accuracy +0\.9500 +0\.9000 to 0\.9800 +>= 0\.9 +passed", out)
    assert re.search(r"model\.onnx +\d", out)


def test_inspect_names_a_score_interval_and_shows_no_interval_where_there_is_none(
    command: Command, tmp_path: Path
) -> None:
    directory = write_tiny_package(tmp_path / "built")
    values = {
        "accuracy": {"value": 1.0, "low": 0.936, "high": 1.0, "method": "wilson"},
        "modelSizeMegabytes": {"value": 9.1, "low": 9.1, "high": 9.1, "method": "bootstrap"},
    }
    (directory / "metrics.json").write_text(json.dumps({"images": 56, "metrics": values, "gates": []}))
    package = publish_package(directory, open_store((tmp_path / "store").as_uri()), "colours", HEADER)
    _, out, _ = command("inspect", package.uri)
    assert re.search(r"accuracy +1\.0000 +0\.9360 to 1\.0000 \(Wilson\)", out)
    assert re.search(r"modelSizeMegabytes +9\.1000 *$", out, re.MULTILINE)


def test_inspect_as_json_is_one_document(command: Command, package: PublishedPackage) -> None:
    code, out, _ = command("inspect", folder_of(package), "-o", "json")
    document = json.loads(out)
    assert code == 0
    assert document["digest"] == package.digest
    assert document["verified"] is True
    assert document["metrics"]["accuracy"]["value"] == 0.95
    assert document["labels"] == ["red", "green", "blue"]


@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_package_that_is_not_there_is_a_sentence(command: Command, tmp_path: Path, verb: str) -> None:
    code, out, err = command(verb, (tmp_path / "nothing").as_uri())
    assert code == 26
    assert out == ""
    assert "is not a package" in err
    assert "Traceback" not in err


@pytest.mark.parametrize("verb", ["inspect", "verify", "predict"])
def test_package_with_another_digest_is_refused(
    command: Command, package: PublishedPackage, tmp_path: Path, verb: str
) -> None:
    image = tmp_path / "red.png"
    image.write_bytes(picture("red"))
    images = [image] if verb == "predict" else []
    code, _, err = command(verb, package.uri, *images, "--digest", f"sha256:{'0' * 64}")
    assert code == 27
    assert package.digest in err


def test_inspect_altered_metrics_are_not_shown(command: Command, package: PublishedPackage) -> None:
    metrics = folder_of(package) / "metrics.json"
    metrics.write_text(metrics.read_text().replace("0.95", "0.99"))
    code, out, err = command("inspect", package.uri)
    assert (code, out) == (27, "")
    assert "metrics.json" in err


# verify


def test_verify_sound_package_names_every_file(command: Command, package: PublishedPackage) -> None:
    code, out, _ = command("verify", package.uri)
    assert code == 0
    assert out.count("unchanged") == 6
    assert "All 6 files are what was published." in out


def flip_a_bit(folder: Path) -> None:
    model = folder / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "code", "words"),
    [
        pytest.param(flip_a_bit, 27, "other bytes", id="one bit of the model"),
        pytest.param(lambda folder: (folder / "labels.json").unlink(), 26, "missing", id="a lost file"),
        pytest.param(lambda folder: (folder / "x.py").touch(), 26, "not named", id="a file too many"),
    ],
)
def test_verify_damaged_package_says_what_is_wrong(
    command: Command, package: PublishedPackage, damage: Callable[[Path], None], code: int, words: str
) -> None:
    damage(folder_of(package))
    found, out, _ = command("verify", package.uri)
    assert found == code
    assert words in out
    assert "1 of " in out


def test_verify_as_json_says_which_file_is_wrong(command: Command, package: PublishedPackage) -> None:
    flip_a_bit(folder_of(package))
    code, out, _ = command("verify", package.uri, "-o", "json")
    document = json.loads(out)
    assert code == 27
    assert document["sound"] is False
    assert [one["name"] for one in document["files"] if one["problem"]] == ["model.onnx"]


# predict


def test_predict_names_class_and_probability_of_each_image(
    command: Command, package: PublishedPackage, tmp_path: Path
) -> None:
    for colour in ("red", "blue"):
        (tmp_path / f"{colour}.png").write_bytes(picture(colour))
    code, out, _ = command("predict", package.uri, tmp_path / "red.png", tmp_path / "blue.png", "--top", 2)
    rows = [line.split() for line in out.splitlines()[1:]]
    assert code == 0
    assert [(row[0], row[1]) for row in rows] == [
        (str(tmp_path / "red.png"), "red"),
        (str(tmp_path / "blue.png"), "blue"),
    ]
    assert all(float(row[2].rstrip("%")) > 90 for row in rows)


def test_predict_as_json_gives_one_line_for_each_image(
    command: Command, package: PublishedPackage, tmp_path: Path
) -> None:
    image = tmp_path / "green.png"
    image.write_bytes(picture("green"))
    code, out, _ = command("predict", package.uri, image, image, "--top", 3, "-o", "json")
    documents = [json.loads(line) for line in out.splitlines()]
    assert code == 0
    assert len(documents) == 2
    assert documents[0]["predictions"][0]["label"] == "green"
    assert sum(one["probability"] for one in documents[0]["predictions"]) == pytest.approx(1.0, abs=1e-6)


def test_predict_explain_writes_an_overlay_for_each_image(
    command: Command, package: PublishedPackage, tmp_path: Path
) -> None:
    image = tmp_path / ("a long name that makes two long paths in one line of a table " * 3) / "red.png"
    image.parent.mkdir()
    image.write_bytes(picture("red"))
    code, out, _ = command("predict", package.uri, image, "--explain", tmp_path / "why")
    (overlay,) = (tmp_path / "why").iterdir()
    assert code == 0
    assert str(image) in out
    assert overlay.name == "red.red.png"
    assert overlay.read_bytes().startswith(b"\x89PNG")
    assert str(overlay) in out


def test_predict_explain_keeps_the_overlays_of_images_with_the_same_name_apart(
    command: Command, package: PublishedPackage, tmp_path: Path
) -> None:
    images = [tmp_path / folder / name for folder, name in (("a", "2.png"), ("b", "2.png"), ("b", "3.png"))]
    for image in images:
        image.parent.mkdir(exist_ok=True)
        image.write_bytes(picture("red"))
    code, out, _ = command("predict", package.uri, *images, images[0], "--explain", tmp_path / "why")
    written = sorted(overlay.name for overlay in (tmp_path / "why").iterdir())
    assert code == 0
    assert written == ["3.red.png", "a-2-2.red.png", "a-2.red.png", "b-2.red.png"]
    assert all(str(tmp_path / "why" / name) in out for name in written)


@pytest.mark.parametrize("output", ["table", "json"])
def test_predict_image_that_is_none_does_not_keep_the_others_back(
    command: Command, package: PublishedPackage, tmp_path: Path, output: str
) -> None:
    good, bad, empty = tmp_path / "red.png", written(tmp_path, "hello", "notes.jpg"), tmp_path / "none.jpg"
    good.write_bytes(picture("red"))
    empty.touch()
    code, out, err = command("predict", package.uri, bad, good, empty, "-o", output)
    assert code == 13
    assert str(good) in out
    assert str(bad) not in out
    assert "2 of 3 images cannot be predicted." in err
    assert str(bad) in err
    assert str(empty) in err


def test_predict_image_that_is_none_is_named(
    command: Command, package: PublishedPackage, tmp_path: Path
) -> None:
    image = written(tmp_path, "hello", "notes.jpg")
    code, out, err = command("predict", package.uri, image)
    assert code == 13
    assert out == ""
    assert str(image) in err


def test_predict_unverified_model_says_so(command: Command, tmp_path: Path) -> None:
    import dataclasses

    header = dataclasses.replace(HEADER, verified=False)
    store = open_store((tmp_path / "store").as_uri())
    package = publish_package(write_tiny_package(tmp_path / "built"), store, "colours", header)
    (tmp_path / "red.png").write_bytes(picture("red"))
    _, out, _ = command("predict", package.uri, tmp_path / "red.png")
    assert "did not pass its gates" in out


def test_predict_needs_no_torch_and_no_ray(package: PublishedPackage, tmp_path: Path) -> None:
    image = tmp_path / "red.png"
    image.write_bytes(picture("red"))
    program = (
        "import sys\nfrom tunesmith.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'torchvision', 'ray', 'optuna'} & set(sys.modules)))\n"
    )
    arguments = [
        sys.executable,
        "-c",
        program,
        "predict",
        package.uri,
        str(image),
        "--explain",
        str(tmp_path),
    ]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# The command itself

VERBS = [
    ("run",),
    ("validate",),
    ("inspect",),
    ("verify",),
    ("predict",),
    ("explain",),
    ("fetch", "weights"),
    ("fetch", "data"),
    ("submit",),
    ("status",),
    ("logs",),
    ("wait",),
    ("cancel",),
    ("promote",),
    ("rollback",),
    ("pause",),
    ("resume",),
]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_help_teaches_with_an_example(command: Command, verb: tuple[str, ...]) -> None:
    code, out, _ = command(*verb, "--help")
    assert code == 0
    assert f"Example: tunesmith {' '.join(verb)} " in out


def test_version_as_json_names_tunesmith_and_python(command: Command) -> None:
    code, out, _ = command("version", "-o", "json")
    assert code == 0
    assert json.loads(out)["tunesmith"].count(".") == 2


def test_error_with_debugging_on_shows_where_it_happened(command: Command, tmp_path: Path) -> None:
    _, _, err = command("--debug", "inspect", (tmp_path / "nothing").as_uri())
    assert "Traceback" in err
    assert "PackageInvalid" in err


def test_fault_of_our_own_is_a_sentence_with_its_own_exit_code(
    command: Command, package: PublishedPackage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object, **options: object) -> None:
        raise RuntimeError("out of ideas")

    monkeypatch.setattr("tunesmith.inspect.inspect_package", broken)
    code, _, err = command("inspect", package.uri)
    assert code == 63
    assert "out of ideas" in err
    assert "Traceback" not in err
