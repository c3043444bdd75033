"""The chart's values: all explained, all checked, and good in every combination."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any

import jsonschema  # type: ignore[import-untyped]
import kubernetes_validate
import pytest
import yaml
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from docs._chart import MAPS, values
from extender.cli.agent import agent
from extender.config import load
from extender.core.rewrite import REWRITTEN_LABEL
from extender.server.traces import ENDPOINT
from tests.deploy.chart import CHART, FOREIGN, MONITORING, RefusedError, named, rendered
from tests.deploy.manifests import JSON, NAMESPACE, ROOT, served_by
from tests.deploy.pod_security import violations
from tests.deploy.test_kustomize import NEWEST

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

BINDINGS = ("RoleBinding", "ClusterRoleBinding")
SCHEMA: JSON = json.loads((CHART / "values.schema.json").read_text())
DEFAULTS: JSON = yaml.safe_load((CHART / "values.yaml").read_text())


def schemas(schema: Any, path: str = "") -> Iterator[tuple[str, JSON]]:
    """Every schema there is, with where it stands."""
    if isinstance(schema, list):
        for item in schema:
            yield from schemas(item, path)
    elif isinstance(schema, dict):
        yield path, schema
        for key, item in schema.items():
            if key not in ("default", "enum", "const"):
                yield from schemas(item, f"{path}/{key}")


def sections(value: JSON, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Paths of all maps in values.yaml whose keys are ours."""
    yield path
    for key, item in value.items():
        if isinstance(item, dict) and key not in {*MAPS, "usable"}:
            yield from sections(item, (*path, key))


def at(path: Iterable[str], value: object) -> JSON:
    """A document with that value at that path."""
    for key in reversed([*path]):
        value = {key: value}
    assert isinstance(value, dict)
    return value


# --- explained and strict ------------------------------------------------------------------------


def test_every_value_is_explained_where_it_stands_or_with_its_section() -> None:
    found = {value.path: value for value in values()}

    def explained(path: str) -> bool:
        return bool(found[path].text) or ("." in path and explained(path.rpartition(".")[0]))

    assert [path for path in found if not explained(path)] == []
    assert all(found[path].text for path in found if "." not in path)


def test_the_entries_that_are_explained_are_all_there_are() -> None:
    def paths(value: JSON, prefix: str = "") -> Iterator[str]:
        for key, item in value.items():
            yield f"{prefix}{key}"
            if isinstance(item, dict) and not {"cpu", "memory"} & item.keys():
                yield from paths(item, f"{prefix}{key}.")

    assert [value.path for value in values()] == list(paths(DEFAULTS))


def test_the_defaults_are_good_and_the_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(DEFAULTS)


def test_nothing_is_open_for_keys_that_nobody_knows() -> None:
    for path, schema in schemas(SCHEMA):
        if schema.get("type") != "object" or path == "/properties/global":
            continue
        others = schema.get("additionalProperties")
        assert others is False or (isinstance(others, dict) and others), path


def test_every_pattern_is_one_that_helm_can_read() -> None:
    patterns = [
        each["pattern"] for _, each in schemas(SCHEMA) if isinstance(each.get("pattern"), str)
    ]

    assert len(patterns) > 10
    assert [pattern for pattern in patterns if re.search(r"\(\?[=!<]", pattern)] == []


# --- mistakes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [*sections(DEFAULTS)], ids=".".join)
def test_a_key_that_there_is_not_is_refused(path: tuple[str, ...]) -> None:
    typo = at((*path, "colour"), "red")

    (error,) = jsonschema.Draft7Validator(SCHEMA).iter_errors(typo)

    assert tuple(error.absolute_path) == path
    assert "'colour' was unexpected" in error.message


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        ({"replica": 3}, r"replica"),
        ({"replicas": 0}, r"\breplicas"),
        ({"packing": "SecondSheduler"}, r"\bpacking"),
        ({"networkPolicy": {"enable": False}}, r"\bnetworkPolicy.*enable"),
        ({"config": {"inject": {"schedulrName": "x"}}}, r"\bconfig/inject.*schedulrName"),
        ({"config": {"rules": [{"name": "a", "match": {}, "mod": "DryRun"}]}}, r"rules/0.*mod"),
        ({"image": {"digest": "sha256:abc"}}, r"\bimage/digest"),
        ({"tolerations": [{"effect": "NoSchedul"}]}, r"\btolerations/0/effect"),
        ({"metrics": {"serviceMonitor": True}}, r"\bmetrics/serviceMonitor"),
        ({"dashboard": {"enable": True}}, r"\bdashboard.*enable"),
        ({"traces": {"endpoint": "otel-collector:4318"}}, r"\btraces/endpoint"),
        ({"agent": {"enabled": "yes"}}, r"\bagent/enabled"),
        ({"agent": {"tolerations": [{"effect": "NoSchedul"}]}}, r"\bagent/tolerations/0/effect"),
    ],
    ids=repr,
)
def test_helm_refuses_a_mistake_and_names_its_path(mistake: JSON, told: str) -> None:
    with pytest.raises(RefusedError) as refused:
        rendered(mistake)

    assert re.search(told, str(refused.value).replace("'", "").replace(".", "/"))


def test_a_scheduler_other_than_the_one_that_is_installed_is_refused() -> None:
    values_ = {"packing": "SecondScheduler", "config": {"inject": {"schedulerName": "bin-packer"}}}

    with pytest.raises(RefusedError, match=r"config\.inject\.schedulerName: leave it empty"):
        rendered(values_)


def test_the_namespace_of_the_agents_is_not_where_the_release_goes() -> None:
    with pytest.raises(RefusedError, match=r"agent\.enabled: migfit-agent is the namespace of"):
        rendered({"agent": {"enabled": True}}, namespace="migfit-agent")


# --- every combination ---------------------------------------------------------------------------


def drawn(schema: JSON, name: str = "") -> st.SearchStrategy[Any]:
    """Values for a schema: every switch and every form, not every text."""
    if "$ref" in schema:
        return drawn(SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]])
    if "enum" in schema:
        return st.sampled_from(schema["enum"])
    if name in MAPS:
        return st.sampled_from([{}, {"example.com/team": "gpu", "tier": "1"}])
    match schema.get("type"):
        case "boolean":
            return st.booleans()
        case "integer" if "minimum" in schema:
            return st.integers(schema["minimum"], min(schema.get("maximum", 7), 7))
        case "array" if "items" in schema:
            return st.lists(drawn(schema["items"]), max_size=2, unique_by=json.dumps)
        case "object" if "properties" in schema:
            optional = {key: drawn(each, key) for key, each in schema["properties"].items()}
            known = {key: each for key, each in optional.items() if not each.is_empty}
            return st.fixed_dictionaries({}, optional=known)
        case "string" | ["string", "number"] if "pattern" in schema:
            return st.from_regex(re.compile(schema["pattern"], re.ASCII), fullmatch=True).filter(
                lambda text: "\n" not in text
            )
    return st.nothing()  # free text, and what the configuration's own tests draw


def switches() -> st.SearchStrategy[JSON]:
    """Of the configuration only what does not depend on something else in it."""
    own = {
        key: each for key, each in SCHEMA["properties"].items() if key not in ("config", "global")
    }
    config = {
        key: drawn(SCHEMA["properties"]["config"]["properties"][key])
        for key in ("mode", "quota", "queues", "allowSpecialProfiles", "minCompute", "scheduling")
    } | {
        "gpuResource": st.sampled_from(["nvidia.com/gpu", "example.com/card"]),
        "namespaces": st.fixed_dictionaries(
            {"exclude": st.lists(st.sampled_from(["infra", "gpu-*", "kube-system"]), unique=True)}
        ),
    }
    return st.fixed_dictionaries(
        {},
        optional={
            **{key: drawn(each, key) for key, each in own.items() if not drawn(each, key).is_empty},
            "config": st.fixed_dictionaries({}, optional=config),
        },
    )


@cache
def valid(text: str) -> bool:
    """Whether Kubernetes' published schema takes an object, given as JSON."""
    return bool(kubernetes_validate.validate(json.loads(text), NEWEST, strict=True) == NEWEST)


@given(switches())
@settings(max_examples=20, phases=[Phase.explicit, Phase.reuse, Phase.generate])
def test_every_combination_renders_to_valid_objects_of_one_piece(chosen: JSON) -> None:
    jsonschema.Draft7Validator(SCHEMA).validate(chosen)
    objects = named(rendered(chosen))

    names = {kind: {name for of, name in objects if of == kind} for kind, _ in objects}
    for (kind, _), item in objects.items():
        if item["apiVersion"] not in FOREIGN:
            assert valid(json.dumps(item))
        if kind == "Deployment":
            whole(item, names)
        if kind == "DaemonSet":
            whole_agent(item, names)
        if kind in BINDINGS and not item["roleRef"]["name"].startswith("system:"):
            assert item["roleRef"]["name"] in names[item["roleRef"]["kind"]]
    told_alike(chosen, objects)


def hangs_together(owner: JSON, names: dict[str, set[str]]) -> tuple[JSON, set[str]]:
    """Of what makes pods account, labels and volumes fit; the pods' spec and names of the volumes."""
    template = owner["spec"]["template"]
    spec = template["spec"]
    assert spec["serviceAccountName"] in names["ServiceAccount"]
    selector = owner["spec"]["selector"]["matchLabels"]
    assert selector.items() <= template["metadata"]["labels"].items()
    volumes = {volume["name"] for volume in spec.get("volumes", ())}
    mounts = {
        mount["name"] for each in spec["containers"] for mount in each.get("volumeMounts", ())
    }
    assert volumes == mounts
    return spec, volumes


def whole_agent(daemon_set: JSON, names: dict[str, set[str]]) -> None:
    """The agent has all it needs, and of what Pod Security forbids only what is written down."""
    spec, _ = hangs_together(daemon_set, names)
    assert set(violations(spec)) <= {
        "hostPath",
        "allowPrivilegeEscalation",
        "runAsNonRoot",
        "runAsUser",
        "add",
    }
    (container,) = spec["containers"]
    assert container["securityContext"]["capabilities"].get("add", []) in ([], ["SYS_ADMIN"])
    assert agent.make_context("agent", container["args"][1:]).params["ops_port"]
    assert daemon_set["metadata"]["namespace"] == "migfit-agent"
    assert {"gpunodes.migfit.io"} == names["CustomResourceDefinition"]


def whole(deployment: JSON, names: dict[str, set[str]]) -> None:
    """A Deployment stands by itself: rights, configuration, command lines, Pod Security."""
    spec, volumes = hangs_together(deployment, names)
    assert list(violations(spec)) == []
    for volume in spec.get("volumes", ()):
        if "configMap" in volume:
            assert volume["configMap"]["name"] in names["ConfigMap"]
    for container in spec["containers"]:
        if container["name"] != "kube-scheduler":
            told = served_by(container["args"])
            assert told.configmap == (NAMESPACE, "migfit-config")
            assert (told.tls_cert is None) == ("tls" not in volumes)


def told_alike(chosen: JSON, objects: dict[tuple[str, str], JSON]) -> None:
    """The webhook configuration and the schedulers speak of the same resource and namespaces."""
    config = chosen.get("config", {})
    gpu = config.get("gpuResource", "nvidia.com/gpu")
    policy = load(objects["ConfigMap", "migfit-config"]["data"]["config.yaml"])
    by_name = {each for each in config.get("namespaces", {}).get("exclude", ()) if "*" not in each}
    assert policy.gpu_resource == gpu
    for webhook in objects["MutatingWebhookConfiguration", "migfit"]["webhooks"]:
        expressions = " ".join(each["expression"] for each in webhook["matchConditions"])
        (selected,) = webhook["namespaceSelector"]["matchExpressions"]
        assert set(re.findall(r"'([^']+)' in", expressions)) - {REWRITTEN_LABEL} == {gpu}
        assert {"kube-system", NAMESPACE, *by_name} <= set(selected["values"])
        assert not any("*" in name for name in selected["values"])
    for name, key in (
        ("migfit-scheduler", "config.yaml"),
        ("migfit-extender", "kube-scheduler.yaml"),
    ):
        if ("ConfigMap", name) in objects:
            (extender,) = yaml.load(objects["ConfigMap", name]["data"][key], yaml.CSafeLoader)[
                "extenders"
            ]
            assert extender["managedResources"][-1]["name"] == gpu
    first = {True: "DryRun", False: "Enforce"}[chosen.get("firstSteps", True)]
    assert policy.mode.value == (config.get("mode") or first)
    assert policy.inject.prefer_used_nodes == (chosen.get("packing") == "WebhookOnly")
    handed = "migfit-scheduler" if chosen.get("packing") == "SecondScheduler" else ""
    assert policy.inject.scheduler_name == handed


def blocks(page: str) -> Iterator[JSON]:
    """The YAML that a page shows."""
    text = (ROOT / page).read_text()
    return map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def test_the_values_on_the_install_page_are_good() -> None:
    (shown,) = [block for block in blocks("docs/how-to/install.md") if "kind" not in block]

    objects = named(rendered(shown))

    assert load(objects["ConfigMap", "migfit-config"]["data"]["config.yaml"]).models
    (container,) = objects["Deployment", "migfit"]["spec"]["template"]["spec"]["containers"]
    assert container["image"].startswith(shown["image"]["repository"])


def test_the_values_on_the_page_about_monitoring_are_good_and_switch_on_all_there_is() -> None:
    shown, *_ = blocks("docs/how-to/monitor.md")

    objects = named(rendered(shown))

    assert objects.keys() == named(rendered(MONITORING)).keys()
    label = shown["metrics"]["serviceMonitor"]["labels"].items()
    assert label <= objects["ServiceMonitor", "migfit"]["metadata"]["labels"].items()


@pytest.mark.parametrize(
    ("packing", "deployment"),
    [
        ("None", "migfit"),
        ("SecondScheduler", "migfit-scheduler"),
        ("DefaultScheduler", "migfit-extender"),
    ],
)
def test_the_values_on_that_page_about_traces_reach_each_process_that_serves(
    packing: str, deployment: str
) -> None:
    *_, shown = blocks("docs/how-to/monitor.md")

    objects = named(rendered({"packing": packing} | shown))

    containers = objects["Deployment", deployment]["spec"]["template"]["spec"]["containers"]
    (serving,) = [each for each in containers if "serve" in each["args"]]
    assert serving["env"] == [{"name": ENDPOINT, "value": shown["traces"]["endpoint"]}]
