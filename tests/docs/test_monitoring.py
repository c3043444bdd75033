"""What is shipped for Prometheus and Grafana, against the metrics there are and the pages about them."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from docs._monitoring import COMPONENT, PANELS, RULES, alerts, dashboard
from docs._reference import exposed
from extender.core.decision import Decision
from extender.core.doctor.finding import Id
from extender.core.policy import Mode
from extender.core.reason import Action, Reason
from extender.server.at_once import Answered
from extender.server.traces import ENDPOINT, Spent, Traces
from tests.deploy.manifests import ROOT
from tests.deploy.routes import extender_paths, webhook_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

MONITOR = ROOT / "docs/how-to/monitor.md"
RUNBOOKS = ROOT / "docs/how-to/runbooks.md"
TROUBLESHOOTING = ROOT / "docs/how-to/troubleshooting.md"
URL = "https://github.com/migfit/migfit/blob/main/docs/how-to/runbooks.md#"
SERIES = re.compile(r"\b(migfit_\w+)(?:\{([^}]*)\})?")
BY = re.compile(r"\bby \(([^)]*)\)")
OF_HISTOGRAMS = re.compile(r"_(bucket|sum|count)$")
VALUES: dict[str, set[str]] = {
    "action": {str(each) for each in Action},
    "reason": {str(each) for each in Reason},
    "state": {"heard", "silent"},
}


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in alerts())
    yield from (query for panel in PANELS for query in panel.queries.values())


@pytest.mark.parametrize("expression", list(expressions()))
def test_every_metric_and_label_in_rules_and_dashboard_exists(expression: str) -> None:
    known = exposed()
    series = SERIES.findall(expression)
    labels: set[str] = set()
    for name, selector in series:
        metric = known.get(name) or known[OF_HISTOGRAMS.sub("", name)]
        labels |= set(metric._labelnames)
        for label, value in re.findall(r'(\w+)="([^"]*)"', selector):
            assert label in metric._labelnames
            assert value in VALUES[label]
    for grouped in BY.findall(expression):
        assert set(grouped.split(", ")) <= labels | {"le"}
    assert series or "process_" in expression


def test_every_metric_is_shown_or_watched() -> None:
    seen = {
        OF_HISTOGRAMS.sub("", name) for text in expressions() for name, _ in SERIES.findall(text)
    }

    assert set(exposed()) == seen


def test_every_alert_has_a_runbook_and_every_runbook_an_alert() -> None:
    page = RUNBOOKS.read_text(encoding="utf-8")
    headings = re.findall(r"^## (\w+)$", page, re.MULTILINE)

    assert headings == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == URL + rule["alert"].lower()
        assert rule["annotations"].keys() == {"summary", "description", "runbook_url"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}


def test_the_rule_for_the_operator_says_the_same_as_the_file_for_prometheus() -> None:
    rule = yaml.safe_load((COMPONENT / "prometheusrule.yaml").read_text())

    assert rule["spec"] == yaml.safe_load(RULES.read_text())


def test_the_dashboard_fits_the_grid_and_asks_which_prometheus_to_use() -> None:
    made: dict[str, Any] = json.loads(dashboard())
    taken: set[tuple[int, int]] = set()

    for panel in made["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken
        assert max(x for x, _ in cells) < 24
        taken |= cells
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    config_map = yaml.safe_load((COMPONENT / "dashboard.yaml").read_text())
    assert json.loads(config_map["data"]["migfit.json"]) == made


def test_troubleshooting_leads_to_findings_that_there_are() -> None:
    text = TROUBLESHOOTING.read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]\w+)`", text)) & set(Id)

    assert len(named) >= 15


def test_the_page_names_the_variable_and_every_attribute_of_a_span() -> None:
    section = MONITOR.read_text().partition("## Traces\n")[2].partition("\n## ")[0]
    made: list[Spent] = []
    decision = Decision(
        action=Action.LEFT,
        reason=Reason.NO_FOOTPRINT,
        message="",
        id="",
        namespace="",
        pod="",
        mode=Mode.ENFORCE,
        config_revision="",
    )
    spans = Traces(made.append, lambda: None)
    spans.of("/mutate", lambda _: Answered(b"", decision=decision))(b"")
    spans.close()

    (spent,) = made
    assert set(re.findall(r"`(migfit\.\w+)`", section)) == set(spent.attributes)
    assert f"`{ENDPOINT}`" in section
    assert set(re.findall(r"`POST (/\S+)`", section)) == {*webhook_paths(), *extender_paths()}
