"""Logs on stderr: JSON for machines, lines for people at a terminal. Stdout belongs to the audit."""

import logging
import sys
from io import StringIO
from typing import Any, TextIO

import structlog

LONGEST = 2000
"""Characters of one value; names and errors come from outside and may be long."""


def _bounded(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    for key, value in event.items():
        if isinstance(value, str) and len(value) > LONGEST and key != "exception":
            event[key] = value[:LONGEST] + "…"
    return event


def _printable(_logger: object, _method: str, event: dict[str, Any]) -> dict[str, Any]:
    """A terminal obeys control characters, and a name with a newline would look like another line."""
    for key, value in event.items():
        if isinstance(value, str) and not value.isprintable():
            event[key] = repr(value)[1:-1]
    return event


def _traceback(stream: TextIO, error: Any) -> None:
    """Without locals, which are pods; and its message may hold a name just as well as a value does."""
    plain = StringIO()
    structlog.dev.plain_traceback(plain, error)
    lines = plain.getvalue().strip("\n").splitlines()
    stream.writelines(f"\n  {x if x.isprintable() else repr(x)[1:-1]}" for x in lines)


def configure(*, level: int = logging.INFO) -> None:
    """Send structlog and the standard library's logging to stderr, in one form."""
    at_terminal = sys.stderr.isatty()
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _bounded,
    ]
    rendered: list[Any] = (
        [
            _printable,
            structlog.dev.ConsoleRenderer(
                colors=False,
                exception_formatter=_traceback,
            ),
        ]
        if at_terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[*shared, *rendered],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # A line in one write: where stdout and stderr are one file, the audit must not come between.
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendered],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
