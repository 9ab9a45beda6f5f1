"""Log lines for a terminal or, one JSON object a line, for a collector."""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import TextIO


class JsonLines(logging.Formatter):
    """One object a line: time, level, logger, message, object, error."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if isinstance(name := getattr(record, "object", None), str):
            line["object"] = name
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


def set_up_logs(style: str, level: str, stream: TextIO = sys.stderr) -> None:
    """Send everything that is logged to the stream.

    Args:
        style: ``json`` or ``text``.
        level: of our own lines; libraries speak from warning upwards, or debug too when it is that.
        stream: where to.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        JsonLines()
        if style == "json"
        else logging.Formatter("%(asctime)s %(levelname)-7s %(message)s", "%H:%M:%S")
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if level == "debug" else logging.WARNING)
    logging.getLogger("tunesmith_operator").setLevel(level.upper())
