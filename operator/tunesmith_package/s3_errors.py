"""What an S3 server's errors mean: wait, give up at once, or an answer in itself.

Servers differ in codes and agree in HTTP status: codes are looked up first, the status decides the rest.
"""

from botocore import exceptions as boto
from botocore.exceptions import BotoCoreError, ClientError

from tunesmith_api.reasons import ObjectMissing, StoreDenied, StoreError, StoreFull, StoreUnreachable
from tunesmith_package.patience import Transient
from tunesmith_package.store import AFTER_FULL

_MISSING = {"NoSuchKey", "404", "NotFound"}
_FULL = {"QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded", "507"}
_PASSING = {"SlowDown", "InternalError", "ServiceUnavailable", "RequestTimeout", "ConditionalRequestConflict"}
_PASSING_STATUS = {408, 409, 429, 500, 502, 503, 504}
# A wrong region, an expired session and a wrong clock arrive as 301, 400 or 403, depending on the server.
_DENIED = {
    "PermanentRedirect": "Set AWS_REGION to the bucket's region.",
    "AuthorizationHeaderMalformed": "Set AWS_REGION to the bucket's region.",
    "ExpiredToken": "Renew the credentials.",
    "InvalidToken": "Renew the credentials.",
    "RequestTimeTooSkewed": "Set this machine's clock.",
    "NoSuchBucket": "Create the bucket or correct the address.",
    "InvalidBucketName": "Correct the bucket's name.",
}
_CONNECTION: tuple[type[Exception], ...] = (
    boto.ConnectionError,  # refused, reset, timed out, no such host
    boto.HTTPClientError,  # reading timed out or broke off
    boto.IncompleteReadError,
)
_CREDENTIALS: tuple[type[Exception], ...] = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
)
_HINT = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN and what they may do."


def code_of(error: Exception) -> str:
    """Return the code of the server's answer, for example ``"NoSuchKey"``; empty when it gave none."""
    response = getattr(error, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def status_of(error: Exception) -> int:
    """Return the HTTP status of the server's answer; 0 when there was none."""
    response = getattr(error, "response", None) or {}
    return int(response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def is_conflict(error: Exception) -> bool:
    """Say whether a condition of the request (If-Match, If-None-Match) did not hold."""
    return code_of(error) in ("PreconditionFailed", "412") or status_of(error) == 412


def translate(error: ClientError | BotoCoreError, where: str) -> Exception:
    """Return the store's error for boto3's: `Transient` when waiting may help.

    Args:
        error: what boto3 raised.
        where: the address that was asked for.
    """
    if isinstance(error, boto.SSLError):
        return StoreUnreachable(
            f"The certificate of {where} is not trusted ({error}).", "Name its authority in AWS_CA_BUNDLE."
        )
    if isinstance(error, _CONNECTION):
        return Transient(_first_line(error))
    if isinstance(error, _CREDENTIALS):
        return StoreDenied(f"There are no credentials for {where} ({_first_line(error)}).", _HINT)
    if not isinstance(error, ClientError):
        return StoreError(f"{where} cannot be used ({_first_line(error)}).", "Correct the address.")
    return _translate_answer(error, where)


def _translate_answer(error: ClientError, where: str) -> Exception:
    code, status = code_of(error), status_of(error)
    said = str(error.response.get("Error", {}).get("Message", "")) or code
    if code in _FULL or status == 507:
        return StoreFull(f"{where} cannot be written: the store has no room ({said}).", AFTER_FULL)
    if code in _DENIED:
        return StoreDenied(f"{where} may not be used ({said}).", _DENIED[code])
    if code in _MISSING:
        return ObjectMissing(f"{where} does not exist.", "Check the address.")
    if code in _PASSING or status in _PASSING_STATUS:
        return Transient(f"{code or status}: {said}")
    if status in (401, 403):
        return StoreDenied(f"The store refuses {where} ({said}).", _HINT)
    if status == 404:
        return ObjectMissing(f"{where} does not exist ({said}).", "Check the address.")
    if status == 501:
        return StoreError(
            f"The server of {where} lacks a function that is needed ({said}).",
            "Use a server with conditional writes (If-None-Match).",
        )
    return StoreError(f"{where} cannot be used ({code}: {said}).", "Check the address and the server's log.")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:300]
