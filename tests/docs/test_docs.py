"""The documentation against the code, both ways: nothing missing, and nothing that is not there."""

from __future__ import annotations

import json
import re
import shlex
import time
from dataclasses import fields as fields_of
from pathlib import Path

import click
import pytest
import yaml
from prometheus_client import generate_latest

from docs._configuration import fields
from docs._examples import commands_shown, demo, with_demo, with_examples
from docs._gpunode import paths
from docs._reference import exposed, helps, kueue_transformations, transformation
from docs.generate import README, pages, stale
from extender.agent.hardware import Health
from extender.agent.metrics import AgentMetrics
from extender.cli import main
from extender.cluster.inventory import inventory
from extender.config import LEAST_DOCUMENT, load
from extender.core.catalogue import ALL_RESOURCES
from extender.core.decide import decide
from extender.core.defaulting import defaulted
from extender.core.doctor.finding import Id
from extender.core.policy import Policy
from extender.core.reason import Reason
from extender.core.render import warning
from extender.core.templates import pods_in
from extender.server.metrics import Metrics

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), ROOT / "deploy/chart/README.md"]
)
SOURCES = sorted((ROOT / "extender").rglob("*.py"))

CODE_BLOCK = re.compile(r"^ *```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
CODE_SPAN = re.compile(r"`([^`\n]+)`")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def prose(page: Path) -> str:
    """A page without its code blocks."""
    return CODE_BLOCK.sub("", page.read_text(encoding="utf-8"))


def rows(page: str, column: int = 0) -> list[str]:
    """The code that stands in one column of a page's tables."""
    lines = [line.replace("\\|", "/").split("|") for line in page.splitlines() if line[:1] == "|"]
    cells = [line[column + 1].strip() for line in lines]
    return [cell.strip("`") for cell in cells if re.fullmatch("`[^`]+`", cell)]


def shell_lines() -> list[tuple[Path, str]]:
    return [
        (page, line.removeprefix("$ "))
        for page in PAGES
        for kind, block in CODE_BLOCK.findall(page.read_text(encoding="utf-8"))
        for line in map(str.strip, block.splitlines())
        if kind == "console" and line.startswith("$ ")
    ]


# --- generated pages -----------------------------------------------------------------------------


def test_generated_pages_and_examples_are_current() -> None:
    assert [str(path.relative_to(ROOT)) for path in stale(pages())] == []


def test_the_picture_in_the_readme_is_what_the_demo_draws() -> None:
    page = README.read_text(encoding="utf-8")

    assert with_demo(page, demo()) == page


def test_an_example_block_is_filled_with_what_the_command_prints() -> None:
    shown = "<!-- example: migfit --version -->\n```console\nstale\n```\n<!-- /example -->\n"

    filled = with_examples(shown)

    assert commands_shown(shown) == ["migfit --version"]
    assert "$ migfit --version\nmigfit 0." in filled
    assert "stale" not in filled


def test_some_page_shows_explain_at_work() -> None:
    shown = [command for page in PAGES for command in commands_shown(page.read_text("utf-8"))]

    assert any(command.startswith("migfit explain ") for command in shown)


def test_the_warning_in_the_readme_is_what_kubectl_would_print() -> None:
    policy = load(LEAST_DOCUMENT)
    nodes = yaml.safe_load_all(text("docs/examples/cluster.yaml"))
    state = inventory(nodes, policy, time.monotonic)
    [pod] = pods_in(yaml.safe_load(text("docs/examples/asr.yaml")))

    line = warning(decide(defaulted(pod), state.snapshot(), policy))

    assert f"\nWarning: {line}\n" in README.read_text(encoding="utf-8")


# --- reasons -------------------------------------------------------------------------------------


def test_every_reason_is_explained_once_and_no_other() -> None:
    page = text("docs/reference/reasons.md")

    assert sorted(rows(page) + rows(page, 1)) == sorted(Reason)


def test_no_page_names_a_reason_that_there_is_not() -> None:
    # What looks like a reason and is one of the configuration's words, or Kubernetes'.
    words = set(re.findall(r"\b[A-Z]\w+", text("docs/reference/configuration.md")))
    chart = json.loads(text("deploy/chart/values.schema.json"))["properties"]
    words |= {*chart["packing"]["enum"], *chart["certificate"]["properties"]["from"]["enum"]}
    words |= {
        "DynamicMIG",
        "ContainerCreating",
        "GpuNode",
        "ImagePullBackOff",
        "LeastAllocated",
        "MostAllocated",
        "UnexpectedAdmissionError",
    }
    words |= set(Health)
    spans = {span for page in PAGES for span in CODE_SPAN.findall(prose(page))}

    named = {span for span in spans if re.fullmatch(r"[A-Z][a-z]+([A-Z][a-z]+)+", span)}

    assert named - words <= {*Reason, *Id}


def test_every_reason_is_produced_somewhere() -> None:
    producing = [path for path in SOURCES if path.name != "reason.py"]

    silent = {
        reason
        for reason in Reason
        if not any(f"Reason.{reason.name}" in path.read_text("utf-8") for path in producing)
    }

    assert silent == set()


# --- findings of the doctor ----------------------------------------------------------------------


def test_every_finding_of_the_doctor_is_explained_once_and_no_other() -> None:
    assert rows(text("docs/reference/doctor.md")) == list(Id)


# --- metrics -------------------------------------------------------------------------------------


def test_every_metric_is_documented_and_no_other() -> None:
    page = text("docs/reference/metrics.md")
    ours, of_agent = Metrics(), AgentMetrics()

    assert rows(page) == [*exposed(), *exposed(of_agent)]
    for metrics in (ours, of_agent):
        text_of_all = generate_latest(metrics.registry).decode()
        scraped = re.findall(r"^# TYPE (migfit_\w+)", text_of_all, re.MULTILINE)
        named = {name for name in scraped if not name.endswith("_created")}
        assert set(exposed(metrics)) == named


def test_no_page_names_a_metric_that_there_is_not() -> None:
    named = {
        name
        for page in PAGES
        for name in re.findall(r"\bmigfit_[a-z_]+", page.read_text(encoding="utf-8"))
    }

    known = {*exposed(), *exposed(AgentMetrics())}
    assert {re.sub("_(bucket|sum|count)$", "", name) for name in named} <= known


# --- GpuNode -------------------------------------------------------------------------------------


def test_every_field_of_a_gpu_node_is_documented_with_its_meaning_and_no_other() -> None:
    page = text("docs/reference/gpunode.md")
    fields_told = [row for row in rows(page) if row.startswith(".status")]

    assert fields_told == paths()
    assert len(fields_told) > 40
    assert not re.search(r"^\| `\.status[^|]*\|[^|]*\|\s*\|$", page, re.MULTILINE)


# --- configuration -------------------------------------------------------------------------------


def test_every_field_is_documented_and_no_other() -> None:
    page = text("docs/reference/configuration.md")

    assert rows(page) == fields()


def test_settings_named_anywhere_exist_and_are_good() -> None:
    known = {path.replace("[]", "") for path in fields()}
    tops = {path for path in known if "." not in path} - {"apiVersion", "kind"}
    for page in PAGES:
        for span in CODE_SPAN.findall(prose(page)):
            top = re.match(r"\w*", span)
            if top is None or top[0] not in tops or page.name == "scenario.md":
                continue
            if span.endswith(".py"):
                continue
            if ": " in span:
                path, _, value = span.partition(": ")
                *sections, field = path.split(".")
                setting = "".join(f"{{{section}: " for section in sections)
                setting = f"{setting}{{{field}: {value}}}{'}' * len(sections)}"
                load(json.dumps(yaml.safe_load(LEAST_DOCUMENT) | yaml.safe_load(setting)))
            elif "." in span:
                assert span.replace("[]", "") in known, f"{page}: {span}"


def test_no_field_is_read_and_checked_and_then_without_effect() -> None:
    readers = [
        path.read_text(encoding="utf-8")
        for path in SOURCES
        if "config" not in path.parts and path.name != "policy.py"
    ]
    idle = {
        field.name
        for field in fields_of(Policy)
        if not any(re.search(rf"policy(\(\))?\.{field.name}\b", source) for source in readers)
    }

    assert idle == set()


# --- annotations and labels ----------------------------------------------------------------------

MARK = re.compile(r"\bgpu-memory\.migfit\.io/|(?<![\w.])migfit\.io/[a-z-]+(?![\w-])")
OTHERS = {"migfit.io/serve", "migfit.io/schemas", "migfit.io/judged-until"}
"""Not on pods: the name under which Events are written, where schemas have their names from, what is
noted on our Lease."""


def test_every_annotation_and_label_is_documented_and_no_other() -> None:
    in_code = {mark for path in SOURCES for mark in MARK.findall(path.read_text(encoding="utf-8"))}
    page = text("docs/reference/annotations.md")

    assert in_code - OTHERS == set(MARK.findall(page))


def test_no_page_names_an_annotation_that_there_is_not() -> None:
    reference = set(MARK.findall(text("docs/reference/annotations.md")))
    named = {mark for page in PAGES for mark in MARK.findall(page.read_text(encoding="utf-8"))}

    assert named <= reference


def test_the_readme_lists_what_app_teams_may_write() -> None:
    def may_write(page: str) -> set[str]:
        return set(MARK.findall(page.partition("app teams may write")[2].partition("\n## ")[0]))

    assert may_write(README.read_text("utf-8")) == may_write(text("docs/reference/annotations.md"))


# --- commands ------------------------------------------------------------------------------------


def command_at(words: list[str]) -> tuple[click.Command, list[str]]:
    """The command that words call, and the words that are left for it."""
    command: click.Command = main
    with click.Context(main) as context:
        while isinstance(command, click.Group) and words and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            assert found is not None, f"no command {words[0]!r}"
            command, words = found, words[1:]
    return command, words


def test_every_command_and_flag_is_documented_and_no_other_command() -> None:
    page = text("docs/reference/commands.md")
    sections = dict(
        re.findall(r"^## `([^`]+)`\n\n```text\n(.*?)```", page, re.MULTILINE | re.DOTALL)
    )

    assert list(sections) == list(helps())
    for name, section in sections.items():
        command, rest = command_at(name.split()[1:])
        assert not rest
        for parameter in command.params:
            assert all(option in section for option in parameter.opts if option.startswith("-"))


def test_commands_named_anywhere_exist_with_the_flags_they_are_given() -> None:
    lines = [line for _, line in shell_lines()]
    lines += [span for page in PAGES for span in CODE_SPAN.findall(prose(page))]
    lines += [
        line.strip().removeprefix("#").strip()
        for path in (ROOT / "deploy").rglob("*.yaml")
        for line in path.read_text(encoding="utf-8").splitlines()
    ]
    calls = [call for line in lines for call in re.findall(r"(?:^|\| )migfit( .*)?$", line)]

    assert len(calls) > 10
    for call in calls:
        words = shlex.split(call.partition("|")[0].replace("[", "").replace("]", ""))
        command, rest = command_at([word for word in words if word != "…"])
        known = {option for parameter in command.params for option in parameter.opts}
        given = {word.partition("=")[0] for word in rest if word.startswith("--")}
        assert given <= known | {"--help", "--version"}, call


def test_make_targets_named_anywhere_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", text("Makefile"), re.MULTILINE))
    named = {
        target
        for page in PAGES
        for target in re.findall(r"[`$] ?make ([a-z-]+)", page.read_text(encoding="utf-8"))
    }

    assert {"demo", "test", "docs"} <= named
    assert named <= targets


def test_paths_in_shell_lines_exist() -> None:
    for page, line in shell_lines():
        for path in re.findall(r"(?:^| )((?:deploy|docs|bench|tests)/[\w./-]+)", line):
            assert (ROOT / path).exists(), f"{page}: {line}"


# --- Kueue ---------------------------------------------------------------------------------------


def test_kueue_gets_an_entry_for_every_mig_resource_there_is() -> None:
    document = yaml.safe_load(kueue_transformations())

    entries = document["resources"]["transformations"]
    assert [entry["input"] for entry in entries] == list(ALL_RESOURCES)
    assert {entry["strategy"] for entry in entries} == {"Replace"}
    assert all(entry["outputs"] == {Policy().gpu_resource: "1"} for entry in entries)


def test_the_entries_on_the_page_about_kueue_are_among_them() -> None:
    shown = re.findall(r"- (\{input: .*\})", text("docs/how-to/kueue.md"))

    assert shown
    assert set(shown) <= {transformation(resource) for resource in ALL_RESOURCES}


# --- links ---------------------------------------------------------------------------------------

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def anchors(page: Path) -> set[str]:
    """What GitHub makes of a page's headings."""
    found = re.findall(r"^#+ +(.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page: Path) -> None:
    for link in LINK.findall(prose(page)):
        if link.startswith(("https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_every_page_can_be_reached_from_the_index() -> None:
    index = ROOT / "docs/index.md"
    reached, ahead = set[Path](), [index]
    while ahead:
        page = ahead.pop()
        if page in reached or page.suffix != ".md" or not page.exists():
            continue
        reached.add(page)
        links = (link.partition("#")[0] for link in LINK.findall(prose(page)))
        ahead += [(page.parent / link).resolve() for link in links if "://" not in link]

    assert {page for page in PAGES if page.parent != ROOT} <= reached
