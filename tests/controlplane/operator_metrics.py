"""What an operator's metrics say that it did."""

import re


def writes(metrics: str) -> int:
    """Calls that changed something, but for the lease."""
    lines = re.findall(r'api_calls_total\{code="\d+",resource="(\w+)",verb="(\w+)"\} (\S+)', metrics)
    return int(
        sum(float(count) for what, verb, count in lines if what != "leases" and verb not in ("get", "list"))
    )
