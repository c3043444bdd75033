"""What the log is told of the sources and of the API server."""

import structlog

log = structlog.get_logger(__name__)


class Said:
    """Logs a problem when it comes and when it goes, and not in between."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}

    def about(self, source: str, problem: str) -> None:
        """This is how it is with a source now; empty: fine."""
        before = self._problems.get(source, "")
        if problem and problem != before:
            log.warning("unavailable", source=source, error=problem)
        elif before and not problem:
            log.info("restored", source=source)
        self._problems[source] = problem
