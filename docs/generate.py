"""Writes the generated pages: `python docs/generate.py`, or with `--check` only names what is stale."""  # noqa: INP001  a program

import json
import sys
from collections.abc import Iterator
from pathlib import Path

from docs._audit import audit_schema
from docs._chart import CHART, chart_readme, chart_yaml, values_schema
from docs._configuration import configuration
from docs._deploy import scheduler_configurations
from docs._doctor import findings
from docs._examples import ROOT, demo, with_demo, with_examples
from docs._gpunode import chart_copy, gpu_node
from docs._monitoring import monitoring
from docs._reference import commands, kueue_transformations, metrics, reasons, scheduler_sample
from extender.config.schema import json_schema

README = ROOT / "README.md"


def pages() -> dict[Path, str]:
    """Every page with what it should say, the demo's picture apart; hand-written ones as they are."""
    docs = ROOT / "docs"
    generated = {
        docs / "reference/reasons.md": reasons(),
        docs / "reference/configuration.md": configuration(),
        docs / "reference/config.schema.json": _json(json_schema()),
        docs / "reference/audit.schema.json": _json(audit_schema()),
        docs / "reference/metrics.md": metrics(),
        docs / "reference/commands.md": commands(),
        docs / "reference/doctor.md": findings(),
        docs / "reference/gpunode.md": gpu_node(),
        docs / "how-to/kueue-transformations.yaml": kueue_transformations(),
        CHART / "values.schema.json": _json(values_schema()),
        CHART / "Chart.yaml": chart_yaml(),
        CHART / "README.md": chart_readme(),
        **scheduler_configurations(),
        **monitoring(),
        **chart_copy(),
    }
    samples = (ROOT / "deploy/scheduler").glob("*.yaml")
    generated |= {path: scheduler_sample(path.read_text(encoding="utf-8")) for path in samples}
    written = {path: path.read_text(encoding="utf-8") for path in [README, *docs.rglob("*.md")]}
    return {path: with_examples(text) for path, text in written.items()} | generated


def _json(schema: object) -> str:
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"


def stale(wanted: dict[Path, str]) -> Iterator[Path]:
    """The pages that say something else."""
    for path, text in sorted(wanted.items()):
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            yield path


def main() -> int:
    """Write what is stale; the exit code."""
    if sys.argv[1:] not in ([], ["--check"]):
        sys.stderr.write(f"usage: {sys.argv[0]} [--check]\n")
        return 2
    wanted = pages()
    if sys.argv[1:]:
        names = [str(path.relative_to(ROOT)) for path in stale(wanted)]
        if names:
            sys.stderr.write(f"stale: {', '.join(names)}; run `make docs`\n")
        return int(bool(names))
    wanted[README] = with_demo(wanted[README], demo())
    for path in list(stale(wanted)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[path], encoding="utf-8")
        sys.stdout.write(f"{path.relative_to(ROOT)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
