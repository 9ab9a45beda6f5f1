"""``tunesmith serve``: a model package behind HTTP on this machine, by the cluster's own predictor."""

import importlib.util
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from tunesmith.model_reference import model_reference
from tunesmith_api.reasons import TunesmithError
from tunesmith_package.package import open_package


def serve_model(
    uri: str,
    console: Console,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    grpc_port: int = 0,
    name: str | None = None,
    digest: str | None = None,
    allow_unverified: bool = False,
    drift_window: int = 1_000,
    feedback: bool = True,
    explanations: bool = True,
) -> None:
    """Fetch and check a package, say how to ask it, and become its predictor.

    Args:
        uri: a package, its folder, or the file that ``run --result`` wrote.
        console: where it is said.
        host: address to listen on.
        port: for HTTP.
        grpc_port: for gRPC; 0 for none.
        name: of the model in the address; the package's own unless given.
        digest: refuse a package with another one.
        allow_unverified: serve a model that did not pass its gates, for study.
        drift_window: how many images are compared with the package's reference; 0 for none.
        feedback: take true labels.
        explanations: answer with activation maps where they are asked for.

    Raises:
        PackageError: there is no such package, or it must not be served.
        StoreError: the store cannot be read.
        TunesmithError: the predictor is not installed.
    """
    require_predictor()
    reference = model_reference(uri, digest)
    package = open_package(reference.uri, digest=reference.digest, require_verified=not allow_unverified)
    served = name or package.manifest.name
    console.print(_how_to_ask(served, host, port), soft_wrap=True)
    command = [
        *(sys.executable, "-m", "tunesmith_predictor", "serve"),
        *("--model-dir", str(Path(package.directory).absolute()), "--model-name", served),
        *("--digest", package.digest, "--host", host),
        *("--http-port", str(port), "--grpc-port", str(grpc_port)),
        # Nobody balances requests over a laptop, so Ctrl-C need not wait until they go elsewhere.
        *("--drain-seconds", "0", "--drift-window", str(drift_window)),
        *(["--feedback"] if feedback else []),
        *([] if explanations else ["--no-explanations"]),
        *(["--allow-unverified"] if allow_unverified else []),
    ]
    sys.stdout.flush()
    os.execv(command[0], command)


def require_predictor() -> None:
    """Make sure that the predictor is installed.

    Raises:
        TunesmithError: it is not.
    """
    if importlib.util.find_spec("tunesmith_predictor") is None or importlib.util.find_spec("kserve") is None:
        raise TunesmithError(
            "Serving needs KServe's server, which is not installed here.",
            "Install it with pip install 'tunesmith[predictor]'.",
        )


def _how_to_ask(name: str, host: str, port: int) -> Text:
    address = f"http://{host}:{port}/v1/models/{name}"
    lines = (
        f"Serving {name} at http://{host}:{port}, a page to try it with; Ctrl-C ends it. Or ask it with:",
        f"  tunesmith predict http://{host}:{port} photo.jpg",
        f"  curl --data-binary @photo.jpg -H 'content-type: image/jpeg' {address}:predict",
        f"  curl --data-binary @photo.jpg -H 'content-type: image/jpeg' {address}:explain",
    )
    return Text("\n".join(lines))
