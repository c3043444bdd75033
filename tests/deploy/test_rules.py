"""Alerts and metrics by Prometheus' own tool: syntax, and each alert when it fires and when not."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from docs._monitoring import PANELS, RULES, alerts
from extender.server.metrics import Metrics
from tests.deploy.promtool import MissingError, find

TESTS = Path(__file__).with_name("rules-test.yaml")


@pytest.fixture(scope="module")
def promtool() -> Path:
    """Required where CI=true."""
    try:
        return find()
    except MissingError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))  # it says: run `make promtool`


def run(program: Path, *words: str | Path, stdin: str = "") -> str:
    """What it says; AssertionError with that if it fails."""
    done = subprocess.run(
        [program, *words], input=stdin, capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_rules_are_what_prometheus_takes(promtool: Path) -> None:
    assert f"SUCCESS: {len(alerts())} rules found" in run(promtool, "check", "rules", RULES)


def test_each_alert_fires_when_it_should_and_not_otherwise(promtool: Path) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", TESTS)


def test_a_rule_that_is_changed_fails_its_test(promtool: Path, tmp_path: Path) -> None:
    rules = RULES.read_text().replace("migfit_synced == 0", "migfit_synced == 1")
    (tmp_path / "rules.yaml").write_text(rules)
    told = TESTS.read_text().replace("../../deploy/monitoring/rules.yaml", "rules.yaml")
    (tmp_path / "test.yaml").write_text(told)

    with pytest.raises(AssertionError, match="MigfitNotSynced"):
        run(promtool, "test", "rules", tmp_path / "test.yaml")


def test_every_alert_has_a_test_that_it_fires_and_one_that_it_does_not() -> None:
    cases = [
        case
        for test in yaml.safe_load(TESTS.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in alerts()}

    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_the_queries_of_the_dashboard_are_what_prometheus_takes(
    promtool: Path, tmp_path: Path
) -> None:
    queries = [query for panel in PANELS for query in panel.queries.values()]
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))

    assert f"SUCCESS: {len(queries)} rules found" in run(promtool, "check", "rules", file)


def test_our_metrics_are_named_as_prometheus_advises(promtool: Path) -> None:
    assert (
        run(promtool, "check", "metrics", stdin=generate_latest(Metrics().registry).decode()) == ""
    )
