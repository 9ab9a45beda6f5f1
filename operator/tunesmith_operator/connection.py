"""How to reach the API server: with the pod's account, or as kubectl does; for our calls and Kopf's alike."""

import os
import urllib.request
from urllib.parse import urlsplit

import kopf
from kubernetes.aio import client, config

from tunesmith_api.reasons import TunesmithError


async def connect() -> client.Configuration:
    """The service account's credentials in a pod, else KUBECONFIG's.

    Raises:
        TunesmithError: there are neither.
    """
    configuration = client.Configuration(client_session_kwargs={"trust_env": False})
    if "KUBERNETES_SERVICE_HOST" in os.environ and not os.environ.get("KUBECONFIG"):
        config.load_incluster_config(configuration)
        return configuration
    try:
        await config.load_kube_config(client_configuration=configuration)
    except config.ConfigException as error:
        raise TunesmithError(
            f"No way to the API server is known: {error}.",
            "Run the operator in a cluster, or set KUBECONFIG to a file that kubectl can use.",
        ) from error
    configuration.proxy = configuration.proxy or _proxy_of(configuration.host)
    return configuration


def _proxy_of(server: str) -> str | None:
    """What HTTPS_PROXY and NO_PROXY say; aiohttp would ask them in a thread for each call."""
    address = urlsplit(server)
    if urllib.request.proxy_bypass(address.netloc):
        return None
    return urllib.request.getproxies().get(address.scheme)


async def kopf_connection(configuration: client.Configuration) -> kopf.ConnectionInfo:
    """The same for Kopf's watches, with the token as it is now; Kopf asks again when it is refused."""
    if configuration.refresh_api_key_hook is not None:
        configuration.refresh_api_key_hook(configuration)
    scheme, _, token = str(configuration.api_key.get("BearerToken") or "").partition(" ")
    return kopf.ConnectionInfo(
        server=configuration.host,
        ca_path=configuration.ssl_ca_cert,
        insecure=not configuration.verify_ssl,
        scheme=scheme or None,
        token=token or None,
        certificate_path=configuration.cert_file,
        private_key_path=configuration.key_file,
        proxy_url=configuration.proxy,
    )
