"""Rules and dashboard for those who install them, and the table of alerts, made from one source."""  # noqa: INP001  pages, no package

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from docs._markdown import code, table

ROOT = Path(__file__).parents[1]
DEPLOY = ROOT / "deploy"
RULES = DEPLOY / "monitoring/rules.yaml"
RUNBOOKS = "docs/how-to/runbooks.md"
COMPONENT = DEPLOY / "kustomize/components/monitoring"

_COLUMNS = 24
"""Of Grafana's grid."""
_HEIGHT = 8


class Panel(NamedTuple):
    """One picture of the dashboard."""

    title: str
    unit: str
    queries: dict[str, str]
    """Legend -> PromQL."""
    width: int = 8
    kind: str = "timeseries"


_LATENCY = "sum by (verb, le) (rate(migfit_request_duration_seconds_bucket[$__rate_interval]))"
PANELS = (
    Panel(
        "Memory given back",
        "bytes",
        {"": "max(migfit_memory_given_back_bytes)"},
        6,
        "stat",
    ),
    Panel(
        "Pods rewritten, per day",
        "short",
        {"": 'sum(increase(migfit_decisions_total{action="rewritten"}[1d]))'},
        6,
        "stat",
    ),
    Panel(
        "Certificate ends in",
        "s",
        {"": "min(migfit_certificate_expiry_seconds > -Inf)"},
        6,
        "stat",
    ),
    Panel(
        "Configuration refused, by replicas",
        "short",
        {"": "sum(1 - migfit_config_valid)"},
        6,
        "stat",
    ),
    Panel(
        "Decisions by reason",
        "reqps",
        {"{{reason}}": "sum by (reason) (rate(migfit_decisions_total[$__rate_interval]))"},
        12,
    ),
    Panel(
        "Rewritten, by profile",
        "reqps",
        {
            "{{profile}}": "sum by (profile) "
            '(rate(migfit_decisions_total{action="rewritten"}[$__rate_interval]))'
        },
        12,
    ),
    Panel(
        "Slices that pods wait for",
        "short",
        {"{{profile}}": "max by (profile) (migfit_unmet_demand)"},
    ),
    Panel(
        "Held back",
        "short",
        {
            "workloads now": "max(migfit_held_workloads)",
            "new in an hour: {{cause}}": "sum by (cause) (increase(migfit_holds_total[1h]))",
            "pods deleted in an hour": "sum(increase(migfit_pods_deleted_total[1h]))",
        },
    ),
    Panel(
        "Created without us, in an hour",
        "short",
        {"pods": "sum(increase(migfit_missed_total[1h]))"},
    ),
    Panel(
        "Latency",
        "s",
        {
            "{{verb}} p50": f"histogram_quantile(0.5, {_LATENCY})",
            "{{verb}} p99": f"histogram_quantile(0.99, {_LATENCY})",
        },
    ),
    Panel(
        "Requests",
        "reqps",
        {
            "{{verb}} {{code}}": "sum by (verb, code) (rate(migfit_requests_total[$__rate_interval]))"
        },
    ),
    Panel(
        "Dry runs of kubectl",
        "reqps",
        {"dry runs": "sum(rate(migfit_dry_run_reviews_total[$__rate_interval]))"},
    ),
    Panel("Age of the snapshot", "s", {"{{pod}}": "migfit_snapshot_age_seconds"}),
    Panel(
        "Events from watches",
        "reqps",
        {"{{resource}}": "sum by (resource) (rate(migfit_watch_events_total[$__rate_interval]))"},
    ),
    Panel(
        "Trouble",
        "reqps",
        {
            "watch of {{resource}}: {{cause}}": "sum by (resource, cause) "
            "(rate(migfit_watch_trouble_total[$__rate_interval]))",
            "audit lines dropped": "sum(rate(migfit_audit_dropped_total[$__rate_interval]))",
            "Events dropped": "sum(rate(migfit_events_dropped_total[$__rate_interval]))",
        },
    ),
    Panel("Last full list took", "s", {"{{pod}} {{resource}}": "migfit_list_duration_seconds"}),
    Panel("Events waiting to be written", "short", {"{{pod}}": "migfit_events_waiting"}),
    Panel(
        "Replicas",
        "short",
        {"in sync": "sum(migfit_synced)", "reconciling": "sum(migfit_reconciler_leader)"},
    ),
    Panel(
        "Memory of migfit", "bytes", {"{{pod}}": 'process_resident_memory_bytes{job=~".*migfit.*"}'}
    ),
)


def alerts() -> list[dict[str, Any]]:
    """The rules, in order."""
    document = yaml.safe_load(RULES.read_text(encoding="utf-8"))
    return [rule for group in document["groups"] for rule in group["rules"]]


def alerts_table() -> str:
    """For the page about metrics."""
    rows = [
        [
            f"[{rule['alert']}](../how-to/runbooks.md#{rule['alert'].lower()})",
            rule["labels"]["severity"],
            code(rule["expr"]),
            rule.get("for", ""),
        ]
        for rule in alerts()
    ]
    return table(["alert", "severity", "when", "for"], rows)


def monitoring() -> dict[Path, str]:
    """What is installed: neither kustomize nor helm can read another's folder."""
    rules = RULES.read_text(encoding="utf-8")
    picture = dashboard()
    return {
        DEPLOY / "monitoring/dashboard.json": picture,
        DEPLOY / "chart/files/dashboard.json": picture,
        DEPLOY / "chart/files/rules.yaml": rules,
        COMPONENT / "prometheusrule.yaml": _rule(rules),
        COMPONENT / "dashboard.yaml": _config_map(picture),
    }


def dashboard() -> str:
    """A dashboard for Grafana 10 and later; it asks which Prometheus to use."""
    return (
        json.dumps(
            {
                "uid": "migfit",
                "title": "migfit",
                "tags": ["migfit", "gpu"],
                "schemaVersion": 39,
                "timezone": "browser",
                "time": {"from": "now-24h", "to": "now"},
                "refresh": "1m",
                "templating": {
                    "list": [
                        {"name": "datasource", "label": "Prometheus", "type": "datasource",
                         "query": "prometheus"}
                    ]
                },
                "panels": list(_panels()),
            },
            indent=2,
        )
        + "\n"
    )  # fmt: skip


def _panels() -> Iterator[dict[str, Any]]:
    x = y = 0
    source = {"type": "prometheus", "uid": "${datasource}"}
    for number, panel in enumerate(PANELS, 1):
        if x + panel.width > _COLUMNS:
            x, y = 0, y + _HEIGHT
        yield {
            "id": number,
            "title": panel.title,
            "type": panel.kind,
            "datasource": source,
            "gridPos": {"x": x, "y": y, "w": panel.width, "h": _HEIGHT},
            "fieldConfig": {"defaults": {"unit": panel.unit}, "overrides": []},
            "targets": [
                {"refId": chr(ord("A") + place), "datasource": source, "expr": expr,
                 "legendFormat": legend}
                for place, (legend, expr) in enumerate(panel.queries.items())
            ],
        }  # fmt: skip
        x += panel.width


def _head(version: str, kind: str, source: str, labels: str = "") -> str:
    return (
        f"# Generated by `make docs` from {source}.\n"
        f"apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {{name}}\n"
        "  namespace: migfit-system\n  labels:\n    app.kubernetes.io/name: migfit\n"
        f"    app.kubernetes.io/instance: migfit\n{labels}"
    )


def _rule(rules: str) -> str:
    body = rules.partition("groups:\n")[2]
    indented = "".join(f"  {line}".rstrip() + "\n" for line in body.splitlines())
    head = _head("monitoring.coreos.com/v1", "PrometheusRule", "deploy/monitoring/rules.yaml")
    return f"{head.format(name='migfit')}spec:\n  groups:\n{indented}"


def _config_map(picture: str) -> str:
    indented = "".join(f"    {line}\n" for line in picture.splitlines())
    label = '    grafana_dashboard: "1" # by which the side-car of the Grafana chart finds it\n'
    head = _head("v1", "ConfigMap", "docs/_monitoring.py", label)
    return f"{head.format(name='migfit-dashboard')}data:\n  migfit.json: |\n{indented}"
