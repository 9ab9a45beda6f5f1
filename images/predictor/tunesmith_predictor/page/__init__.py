"""The page at ``/``: one file without a build step, that asks for nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

_PLACE = "{{MODEL}}"
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page(model_name: str) -> tuple[str, dict[str, str]]:
    """The page of a model, and its headers: nothing runs or loads but what the page itself holds."""
    text = (Path(__file__).parent / "index.html").read_text(encoding="utf-8")
    hashes = {kind: f"'sha256-{_digest(inner)}'" for kind, inner in _INLINE.findall(text)}
    policy = (
        f"default-src 'none'; script-src {hashes['script']}; style-src {hashes['style']}; "
        "connect-src 'self'; img-src blob: data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "content-security-policy": policy,
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return text.replace(_PLACE, html.escape(model_name, quote=True)), headers


def _digest(inner: str) -> str:
    return base64.b64encode(hashlib.sha256(inner.encode()).digest()).decode()
