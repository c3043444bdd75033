"""`migfit serve` whose own certificates live for seconds: `short_lived.py SCHEDULE FLAGS`.

SCHEDULE is a JSON object with fields of `extender.server.certificates.Schedule`.
"""

import importlib
import json
import sys
from functools import partial

from extender.server.certificates import Schedule

if __name__ == "__main__":
    schedule, *flags = sys.argv[1:]
    command = importlib.import_module("extender.cli.serve")
    command.run = partial(command.run, certificates=Schedule(**json.loads(schedule)))  # type: ignore[attr-defined]
    command.serve(flags)
