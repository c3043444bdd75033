"""The JSON Schema against the loader: random good documents, and the same with a few mistakes."""

import copy
import json
import random
import re
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import msgspec
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from extender.config import DEFAULT_DOCUMENT, LEAST_DOCUMENT, ConfigError, load
from extender.config import types as config_types
from extender.config.document import read
from extender.config.schema import field_docs, json_schema

SCHEMA = json_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

LOADER_ONLY = re.compile(
    r"also (models|rules|pools)\[|the same slice as|is more than any GPU has|is less than 1Mi"
    r"|counts bytes|counts thousandths|is a headroom of|has an absurd exponent"
)
"""What no JSON Schema can say: names given twice, and the size of an amount that is text."""


def problems(document: Any) -> list[str]:
    try:
        load(json.dumps(document, ensure_ascii=False))
    except ConfigError as error:
        return [str(problem) for problem in error.problems]
    return []


def options(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=fields)


def pick(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


def some(values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(values, max_size=3)


QUANTITY = pick("9.6G", "13400Mi", "12Gi", "1e10", "+.5Ti", "5.E+9", 9_600_000_000, 2.5e9, "1Ti")
HEADROOM = pick("20%", 0.2, "0.2", 0, "1000%", ".5", "5.%", 10, 1e-7)
DURATION = pick("3m", "30s", "24h", "1h30m", "1h2m3s", "00001s")
MODE = pick("Enforce", "DryRun", "Disabled")
COMPUTE = st.integers(1, 7) | pick(3.0)
GLOBS = some(pick("ds-*", "team-[a-z]?", "a"))
IMAGES = some(pick("*/jupyter-*", "nvcr.io/nim/nvidia/parakeet-*", "a:b@sha256:0"))
LABELS = st.dictionaries(pick("app", "example.com/team", "a_b.c-D"), pick("", "x", "A_b.1"))
TOLERATION = pick(
    {},
    {"operator": "Exists"},
    {"key": "a", "value": "b"},
    {"key": "a/b", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5},
    {"key": "a", "operator": "Equal", "effect": ""},
    {"key": "", "operator": "Exists", "value": ""},
)
GOOD = options(
    mode=MODE,
    gpuResource=pick("nvidia.com/gpu", "nvidia.com/gpu.shared", "a.b-c/D_e"),
    headroom=HEADROOM,
    minCompute=COMPUTE,
    whenUnknown=QUANTITY | pick("Leave"),
    whenFull=st.lists(pick("NextLarger", "WholeNow", "WholeLater", "Wait"), unique=True),
    quota=pick("CountAsGpu", "Ignore"),
    allowSpecialProfiles=st.booleans(),
    namespaces=options(include=GLOBS, exclude=GLOBS),
    schedulers=some(pick("volcano", "a.b")),
    queues=pick("Leave", "Rewrite"),
    autoscaled=pick("Auto", True, False),
    inject=options(
        schedulerName=pick("", "migfit-scheduler"),
        tolerations=some(TOLERATION),
        nodeSelector=LABELS,
        preferUsedNodes=st.booleans(),
    ),
    usable=st.dictionaries(
        pick("NVIDIA-B200", "NVIDIA-A100-SXM4-80GB"),
        st.dictionaries(pick("1g.23gb", "1g.10gb+me", "4g.96gb+gfx"), QUANTITY),
    ),
    pools=some(
        st.fixed_dictionaries(
            {
                "name": pick("a", "b", "c"),
                "slices": st.dictionaries(
                    pick("1g.10gb", "nvidia.com/mig-1g.10gb.me", "nvidia.com/mig-1g.24gb-me"),
                    st.integers(1, 1024),
                    min_size=1,
                ),
            },
            optional={
                "labels": LABELS,
                "taints": some(pick({"key": "a", "effect": "NoSchedule"})),
            },
        )
    ),
    models=some(
        st.fixed_dictionaries(
            {"name": pick("a", "meta-llama/Llama-3.1-8B", "qwen2.5:7b"), "gpuMemory": QUANTITY},
            optional={"minCompute": COMPUTE, "images": IMAGES},
        )
    ),
    rules=some(
        st.fixed_dictionaries(
            {
                "name": pick("a", "b", "c"),
                "match": options(
                    namespaces=GLOBS, labels=LABELS, images=IMAGES, kinds=some(pick("Job"))
                ),
            },
            optional={
                "gpuMemory": QUANTITY,
                "headroom": HEADROOM,
                "minCompute": COMPUTE,
                "mode": MODE,
            },
        )
    ),
    scheduling=options(filter=st.booleans(), spreadReplicas=st.booleans()),
    consolidation=options(**{"lambda": pick(0, 3, 2.5, 1000)}),
    observed=options(**{"raise": st.booleans()}),
    staleAfter=DURATION,
    reservationTtl=DURATION,
    backoff=options(
        restarts=st.integers(1, 1000),
        window=DURATION,
        hold=DURATION,
        pending=DURATION,
        action=pick("Recreate", "Report"),
    ),
).map(lambda d: {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"} | d)

ODD = [
    None, True, False, 0, 1, -1, 8, 1.5, 10.5, 1e9, 2**40, 2**40 + 1, 10**80, "", "true", "1",
    "9.6", "9.6GB", "0G", "-1G", "9.6 G", "1n", "1E", "1e", "2Ti", "0.5Mi", "20 %", "%", "1001%",
    "3min", "0s", "m", "1m1h", "1000000h", "enforce", "Enforce", "Leave", "Auto", "*", "a b", "A",
    "a/b/c", "-a", "a" * 64, "a" * 300, "é", "x/y", "nvidia.com/mig-1g.10gb", "requests.a/b",
    "kubernetes.io/gpu", "1g.10gb", "1g.10gb+me", "1g.10gb.me", "8g.10gb", "Exists", "NoExecute",
    [], ["Wait", "Wait"], ["a"], {}, {"a": "b"}, {"A b": ""}, {"key": "a", "effect": "NoSchedule"},
    {"tolerationSeconds": 1, "key": "a"}, {"operator": "Exists", "value": "v"}, {"value": "v"},
    {"1g.10gb": 1, "nvidia.com/mig-1g.10gb": 1}, {"name": "a"}, {"name": "a", "match": {}},
]  # fmt: skip


SAMPLE: dict[str, Any] = {
    **yaml.safe_load(DEFAULT_DOCUMENT),
    "namespaces": {"include": ["a"], "exclude": ["b"]},
    "schedulers": ["a"],
    "inject": {
        "schedulerName": "a",
        "tolerations": [
            {"key": "a", "operator": "Equal", "value": "b", "effect": "", "tolerationSeconds": 1}
        ],
        "nodeSelector": {"a": "b"},
        "preferUsedNodes": True,
    },
    "usable": {"NVIDIA-B200": {"1g.23gb": "1Gi"}},
    "pools": [
        {
            "name": "a",
            "labels": {"a": "b"},
            "taints": [{"key": "a", "value": "b", "effect": "NoExecute"}],
            "slices": {"1g.10gb": 1},
        }
    ],
    "models": [{"name": "a", "gpuMemory": "1Gi", "minCompute": 1, "images": ["a"]}],
    "rules": [
        {
            "name": "a",
            "match": {"namespaces": ["a"], "labels": {"a": "b"}, "images": ["a"], "kinds": ["A"]},
            "gpuMemory": "1Gi",
            "headroom": 0,
            "minCompute": 1,
            "mode": "DryRun",
        }
    ],
}
"""Every field there is, so that every place can be spoilt."""


def places(value: Any) -> list[tuple[Any, Any]]:
    """Every container and key in a document."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    found = [(value, key) for key in keys]
    for key in keys:
        if isinstance(value[key], dict | list):
            found += places(value[key])
    return found


def spoil(document: Any, seed: random.Random) -> None:
    """One mistake, or what looks like one, somewhere in the document."""
    container, key = seed.choice(places(document))
    how = seed.randrange(5)
    if how == 0:
        del container[key]
    elif how == 1 and isinstance(container, dict):
        container[seed.choice(["x", "name", "", "Mode", "images", "a/b", "1g.5gb"])] = container[
            key
        ]
    elif how == 2 and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    else:
        container[key] = copy.deepcopy(seed.choice(ODD))


def agree(document: Any) -> None:
    found = problems(document)
    errors = [error.message for error in VALIDATOR.iter_errors(document)]
    if errors:
        assert found, f"only the schema refuses: {errors}"
    else:
        only_schema = [line for line in found if not LOADER_ONLY.search(line)]
        assert not only_schema, f"only the loader refuses: {only_schema}"


def test_the_schema_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)


@given(GOOD)
def test_loader_and_schema_agree_on_documents_of_good_values(document: dict[str, Any]) -> None:
    agree(document)


@settings(max_examples=400)
@given(GOOD, st.randoms(use_true_random=False), st.integers(1, 3))
def test_loader_and_schema_agree_on_documents_with_mistakes(
    document: dict[str, Any], seed: random.Random, mistakes: int
) -> None:
    spoiled = copy.deepcopy(document)
    for _ in range(mistakes):
        if spoiled:
            spoil(spoiled, seed)
    agree(spoiled)


@pytest.mark.parametrize("field", list(SAMPLE)[2:])
def test_loader_and_schema_agree_on_every_odd_value_in_every_place(field: str) -> None:
    sample = {name: SAMPLE[name] for name in ("apiVersion", "kind", field)}
    for position in range(2, len(places(sample))):
        for value in ODD:
            document = copy.deepcopy(sample)
            container, key = places(document)[position]
            container[key] = value
            agree(document)


@given(
    st.from_regex(r"[+-]?[0-9.]{1,6}([numkMGTPEKi]{0,3}|[eE][+-]?[0-9]{1,3})[%s]?", fullmatch=True)
)
def test_loader_and_schema_agree_on_amounts(text: str) -> None:
    least = read(LEAST_DOCUMENT).value
    assert isinstance(least, dict)
    agree(least | {"whenUnknown": text})
    agree(least | {"headroom": text})
    agree(least | {"staleAfter": text})


def test_what_the_documentation_shows_is_valid_in_the_schema() -> None:
    for text in (DEFAULT_DOCUMENT, LEAST_DOCUMENT):
        assert list(VALIDATOR.iter_errors(read(text).value)) == []


def test_every_field_says_what_it_means_and_why_its_default_is_what_it_is() -> None:
    docs = field_docs()
    for name, definition in SCHEMA["$defs"].items():
        section = getattr(config_types, name)
        if not issubclass(section, msgspec.Struct):
            continue
        for field in msgspec.structs.fields(section):
            text = docs[name].get(field.encode_name, "")
            assert definition["properties"][field.encode_name]["description"] == text
            assert text.endswith("."), f"{name}.{field.name} has no docstring"
            if not field.required and not isinstance(field.default, msgspec.Struct):
                assert "Default: " in text, f"{name}.{field.name} does not say why its default"
