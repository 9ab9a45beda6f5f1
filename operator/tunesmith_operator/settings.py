"""What an installation decides: images, names, limits. Set by flags, see ``main``."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The operator's settings.

    Attributes:
        trainer_image: of the trainer's pods.
        image_pull_policy: of the same; Kubernetes' own default when empty.
        image_pull_secrets: names of Secrets in the job's namespace.
        namespaces: to watch; all when empty.
        own_namespace: holds the lease.
        lease_name: of the lease.
        workers: TrainingJobs that are reconciled at once.
        resync_seconds: every TrainingJob is looked at again so often, news or not.
        grace_seconds: that a trainer has between SIGTERM and SIGKILL, to store its checkpoint.
    """

    trainer_image: str
    image_pull_policy: str = ""
    image_pull_secrets: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    own_namespace: str = "tunesmith-system"
    lease_name: str = "tunesmith-operator"
    workers: int = 8
    resync_seconds: float = 600.0
    grace_seconds: int = 120
