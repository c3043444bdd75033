"""`migfit serve` whose event loop does nothing else during a review: `stuck.py FILE FLAGS`.

A review takes for as long as FILE is there; once one has begun, so is FILE.begun.
"""

import importlib
import sys
from pathlib import Path

from extender.admission.review import Reviewed, Reviewer


class Stuck(Reviewer):
    """Reviews when it is let."""

    file = Path()

    def review(self, body: bytes) -> Reviewed:
        """As ever, in the end."""
        self.file.with_suffix(".begun").touch()
        while self.file.exists():
            pass
        return super().review(body)


if __name__ == "__main__":
    name, *flags = sys.argv[1:]
    Stuck.file = Path(name)
    importlib.import_module("extender.server.serve").Reviewer = Stuck  # type: ignore[attr-defined]
    importlib.import_module("extender.cli.serve").serve(flags)
