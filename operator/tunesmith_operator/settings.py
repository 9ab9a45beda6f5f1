"""What an installation decides: images, names, limits. Set by flags, see ``main``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The operator's settings.

    Attributes:
        trainer_image: of the trainer's pods.
        predictor_image: of the predictors' pods; empty where nothing is to be served.
        gateway: NAMESPACE/NAME of the Gateway that predictions come through; empty for none.
        gateway_domain: predictions of a ModelDeployment have the host name NAME.NAMESPACE.DOMAIN.
        prometheus: URL of one that reads the predictors; the operator asks them itself when empty.
        image_pull_policy: of all pods; Kubernetes' own default when empty.
        image_pull_secrets: names of Secrets in the resource's namespace.
        namespaces: to watch; all when empty.
        own_namespace: holds the lease.
        lease_name: of the lease.
        workers: resources that are reconciled at once.
        resync_seconds: every resource is looked at again so often, news or not.
        grace_seconds: that a trainer has between SIGTERM and SIGKILL, to store its checkpoint.
    """

    trainer_image: str
    predictor_image: str = ""
    gateway: str = ""
    gateway_domain: str = "example.com"
    prometheus: str = ""
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    own_namespace: str = "tunesmith-system"
    lease_name: str = "tunesmith-operator"
    workers: int = 8
    resync_seconds: float = 600.0
    grace_seconds: int = 120
