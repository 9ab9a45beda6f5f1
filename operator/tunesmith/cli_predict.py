"""``tunesmith predict`` and ``explain``: ask a package, a predictor or a ModelDeployment about images."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli_options import Digest, Namespace, Output, OutputOption, console
from tunesmith.cluster_names import deployment_name, is_deployment
from tunesmith_api.reasons import SpecInvalid

if TYPE_CHECKING:
    from tunesmith.predict import Model

GATEWAY = "TUNESMITH_GATEWAY"
"""The variable that names the gateway's address."""
predict_app = typer.Typer(rich_markup_mode="markdown")

Asked = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="A model package (file:///..., s3://..., its folder, what `run --result` wrote), the address of "
        "a predictor, or deployment/NAME of a cluster.",
    ),
]
Images = Annotated[
    list[Path], typer.Argument(metavar="IMAGE...", help="JPEG or PNG files.", exists=True, dir_okay=False)
]
Top = Annotated[int, typer.Option("--top", min=1, help="How many classes to show for each image.")]
Wait = Annotated[
    float, typer.Option("--wait", metavar="SECONDS", min=0, help="For a predictor that is starting.")
]
Gateway = Annotated[
    str,
    typer.Option(
        "--gateway",
        metavar="HOST[:PORT]",
        envvar=GATEWAY,
        help="For deployment/NAME: the gateway's address, where its host name is not known here.",
        show_default=False,
    ),
]
Revision = Annotated[
    str | None,
    typer.Option("--revision", metavar="NAME", help="For deployment/NAME: ask this revision only."),
]


@predict_app.command(
    epilog="Example: `tunesmith predict file:///home/me/models/flowers/3f2a... photo.jpg --explain why/`"
)
def predict(
    model: Asked,
    images: Images,
    top: Top = 3,
    explain: Annotated[
        Path | None,
        typer.Option(
            "--explain",
            metavar="DIR",
            help="Also write each image with what spoke for its class marked, as PNG.",
            file_okay=False,
        ),
    ] = None,
    digest: Digest = None,
    output: OutputOption = Output.TABLE,
    wait: Wait = 0.0,
    gateway: Gateway = "",
    revision: Revision = None,
    namespace: Namespace = None,
) -> None:
    """Predict the classes of images with a model package, by ONNX Runtime, or ask what serves a model.

    The address of what `tunesmith serve` or a cluster serves may stand in place of the package:
    `tunesmith predict http://localhost:8080 photo.jpg`; so may a ModelDeployment of a cluster:
    `tunesmith predict deployment/flowers photo.jpg`, with --revision for a look at one before its promotion.

    Probabilities are calibrated: of predictions made with 0.9, about nine in ten are right on photos like
    those of the test split.
    """
    from tunesmith.predict import predict_images

    opened = _opened(model, digest, wait, gateway, revision, namespace)
    predict_images(opened, images, console(), top=top, explain=explain, as_json=output is Output.JSON)


@predict_app.command(epilog="Example: `tunesmith explain deployment/flowers photo.jpg --to why/`")
def explain(
    model: Asked,
    images: Images,
    to: Annotated[
        Path, typer.Option("--to", metavar="DIR", help="The folder for the drawings.", file_okay=False)
    ],
    top: Top = 3,
    digest: Digest = None,
    output: OutputOption = Output.TABLE,
    wait: Wait = 0.0,
    gateway: Gateway = "",
    revision: Revision = None,
    namespace: Namespace = None,
) -> None:
    """Draw what spoke for the class of each image, as PNG; the same as `predict --explain`."""
    from tunesmith.predict import predict_images

    opened = _opened(model, digest, wait, gateway, revision, namespace)
    predict_images(opened, images, console(), top=top, explain=to, as_json=output is Output.JSON)


def _opened(
    model: str, digest: str | None, wait: float, gateway: str, revision: str | None, namespace: str | None
) -> "Model":
    from tunesmith.predict import open_model

    if not is_deployment(model):
        if revision is not None or namespace is not None:
            raise SpecInvalid(
                f"--revision and --namespace are for ModelDeployments, and {model} is none.",
                "Write deployment/NAME in place of it, or leave them out.",
            )
        return open_model(model, digest, wait)
    from tunesmith.cluster import Cluster
    from tunesmith.deployment_endpoint import open_deployment

    return open_deployment(
        Cluster(namespace).deployments.get(deployment_name(model)),
        gateway=gateway,
        revision=revision,
        digest=digest,
        wait_seconds=wait,
    )
