import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.config import LEAST_DOCUMENT, ConfigError, load
from extender.config.document import read
from extender.config.problem import SHOWN
from extender.config.types import MigfitConfiguration
from extender.config.validate import MOST, validate

LEAST_LINE = (
    "the least valid document is the two lines 'apiVersion: migfit.io/v1alpha1' and "
    "'kind: MigfitConfiguration'"
)
A_MODEL = "{name: m, gpuMemory: 9.6G}"


def lines(text: str) -> list[str]:
    """Every problem of a document, without the line number."""
    with pytest.raises(ConfigError) as caught:
        load(text)
    return [f"{problem.path}: {problem.message}" for problem in caught.value.problems]


def said(text: str) -> str:
    """The one problem of a field added to the least document."""
    (line,) = lines(f"{LEAST_DOCUMENT}{text}")
    return line


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file() -> None:
    with pytest.raises(ConfigError) as caught:
        load(
            """\
apiVersion: migfit.io/v1
kind: MigfitConfiguration
headroom: 20
schedulng: {filter: true}
staleAfter: 180
models:
- {name: a, gpuMemory: 9.6G}
- {name: b, gpuMemory: 12Gi, images: [x, "a b"]}
- {name: a, gpuMemory: 9.6GB}
staleAfter: 3m
"""
        )
    assert str(caught.value).splitlines() == [
        (
            "apiVersion: 'migfit.io/v1': write migfit.io/v1alpha1, the only one this version reads "
            "(line 1)"
        ),
        "headroom: 20 is a headroom of 2000%: write 20% (line 3)",
        "schedulng: unknown field: did you mean scheduling? (line 4)",
        (
            "models[1].images[1]: 'a b': write an image without spaces, as in "
            "nvcr.io/nim/nvidia/parakeet-* (line 8)"
        ),
        "models[2].gpuMemory: '9.6GB' is no quantity: write 9.6G (or 9.6Gi) (line 9)",
        "models[2].name: 'a': also models[0].name: a name stands for one entry (line 9)",
        "staleAfter: given twice, first in line 5: keep one (line 10)",
    ]


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~"])
def test_an_empty_document_is_told_the_least_valid_one(text: str) -> None:
    assert lines(text) == [f": the document is empty: {LEAST_LINE}"]


def test_the_least_valid_document_is_as_the_message_says() -> None:
    assert LEAST_DOCUMENT == "apiVersion: migfit.io/v1alpha1\nkind: MigfitConfiguration\n"
    assert validate(read(LEAST_DOCUMENT)) == ()


def test_missing_keys_are_told_the_least_valid_document() -> None:
    assert lines("mode: Enforce") == [
        f"apiVersion: missing: {LEAST_LINE}",
        f"kind: missing: {LEAST_LINE}",
    ]


@pytest.mark.parametrize("text", ["[]", "Enforce", "3"])
def test_what_is_no_map_is_no_configuration(text: str) -> None:
    (line,) = lines(text)
    assert line.endswith(f"is no configuration: {LEAST_LINE}")


def test_the_configmap_around_the_configuration_is_recognised() -> None:
    assert lines("apiVersion: v1\nkind: ConfigMap\ndata: {config.yaml: x}\n") == [
        ": this is the ConfigMap itself: give the text that stands under its key config.yaml"
    ]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("gpu_resource: x/y", "gpu_resource: unknown field: did you mean gpuResource?"),
        ("Mode: Enforce", "Mode: unknown field: did you mean mode?"),
        ("lambda: 3", "lambda: unknown field: it belongs in consolidation"),
        ("spreadReplicas: true", "spreadReplicas: unknown field: it belongs in scheduling"),
        ("observed: {xyz: 1}", "observed.xyz: unknown field: there are raise"),
        (
            f"models: [{A_MODEL[:-1]}, namespaces: []}}]",
            "models[0].namespaces: unknown field: it belongs in the top level or rules[].match",
        ),
    ],
)
def test_an_unknown_field_is_told_the_one_meant(text: str, line: str) -> None:
    assert said(text) == line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("mode: enforce", "mode: 'enforce': write Enforce"),
        ("mode: dry-run", "mode: 'dry-run': write DryRun"),
        ("mode: ignore", "mode: 'ignore': write Enforce, DryRun or Disabled"),
        ("mode:", "mode: no value: write one, or leave the line out"),
        ("quota: true", "quota: true: write CountAsGpu or Ignore"),
        ("autoscaled: auto", "autoscaled: 'auto': write Auto"),
        ("autoscaled: yes", "autoscaled: 'yes': write Auto, true or false"),
        ("allowSpecialProfiles: 'true'", "allowSpecialProfiles: 'true': write true"),
        ("observed: {raise: on}", "observed.raise: 'on': write true or false"),
        ("minCompute: 0", "minCompute: 0: write a whole number from 1 to 7"),
        ("minCompute: 8", "minCompute: 8: write a whole number from 1 to 7"),
        ("minCompute: 1.5", "minCompute: 1.5: write a whole number from 1 to 7"),
        ("minCompute: '1'", "minCompute: '1': write a whole number from 1 to 7"),
        ("minCompute: true", "minCompute: true: write a whole number from 1 to 7"),
        ("consolidation: {lambda: -1}", "consolidation.lambda: -1: write a number from 0 to 1000"),
        ("whenFull: Wait", "whenFull: 'Wait': a list belongs here: write [Wait]"),
        ("whenFull: [wait]", "whenFull[0]: 'wait': write Wait"),
        (
            "whenFull: [Wait, WholeNow, Wait]",
            "whenFull[2]: 'Wait': also whenFull[0]: each is tried once",
        ),
        (
            "whenUnknown: leave",
            (
                "whenUnknown: 'leave' is no quantity: write a quantity such as 9.6G, at most 1Ti, "
                "or Leave"
            ),
        ),
        ("headroom: -5%", "headroom: '-5%' is no headroom: write 30% or 0.3, from 0 to 1000%"),
        (
            "staleAfter: 3min",
            "staleAfter: '3min': write a duration above zero such as 3m, 30s, 24h or 1h30m",
        ),
        (
            "backoff: {hold: 1d}",
            "backoff.hold: '1d': write a duration above zero such as 3m, 30s, 24h or 1h30m",
        ),
        (
            "reservationTtl: 0s",
            "reservationTtl: '0s': write a duration above zero such as 3m, 30s, 24h or 1h30m",
        ),
        (
            "gpuResource: nvidia.com/mig-1g.10gb",
            (
                "gpuResource: 'nvidia.com/mig-1g.10gb': write the extended resource of a whole GPU, "
                "as in nvidia.com/gpu"
            ),
        ),
        (
            "schedulers: [Volcano]",
            "schedulers[0]: 'Volcano': a scheduler's name is lower-case letters, digits, - and .",
        ),
        (
            "namespaces: {include: [Team_A]}",
            (
                "namespaces.include[0]: 'Team_A': namespaces are lower-case letters, digits and -, "
                "with the wildcards * ? [a-z] [!a-z]"
            ),
        ),
        (
            "inject: {nodeSelector: {pool: 1}}",
            "inject.nodeSelector.pool: 1: text belongs here: write '1', in quotes",
        ),
        (
            "inject: {nodeSelector: {a/b/c: x}}",
            (
                "inject.nodeSelector['a/b/c']: 'a/b/c': not a label key of Kubernetes: write as in app "
                "or example.com/team"
            ),
        ),
        (
            "inject: {tolerations: [{value: x}]}",
            (
                "inject.tolerations[0]: no key: name one, or write operator: Exists to tolerate every "
                "taint"
            ),
        ),
        (
            "inject: {tolerations: [{key: a, operator: Exists, value: x}]}",
            (
                "inject.tolerations[0].value: operator Exists takes no value: leave it out, or write "
                "Equal"
            ),
        ),
        (
            "inject: {tolerations: [{key: a, tolerationSeconds: 3, effect: NoSchedule}]}",
            (
                "inject.tolerations[0].tolerationSeconds: only with effect: NoExecute: write that, or "
                "leave it out"
            ),
        ),
        (
            "inject: {tolerations: nvidia}",
            "inject.tolerations: 'nvidia': a list belongs here: write [nvidia]",
        ),
        (
            "inject: []",
            "inject: a list: a map belongs here: write {} or lines of the form 'key: value'",
        ),
        (
            "usable: {NVIDIA-B200: {1g.10gb.me: 5Gi}}",
            (
                "usable.NVIDIA-B200['1g.10gb.me']: '1g.10gb.me': write a MIG profile as NVML does, as "
                "in 1g.23gb or 1g.10gb+me"
            ),
        ),
        (
            "usable: {NVIDIA-B200: {1g.23gb: 20992}}",
            "usable.NVIDIA-B200['1g.23gb']: 20992 counts bytes: write 20992M (or 20992Mi)",
        ),
        (
            "pools: [{name: p, slices: {}}]",
            "pools[0].slices: empty: write at least one entry, as in {nvidia.com/mig-1g.10gb: 1}",
        ),
        (
            "pools: [{name: p, slices: {1g.10gb: 0}}]",
            "pools[0].slices['1g.10gb']: 0: write a whole number from 1 to 1024",
        ),
        (
            "pools: [{name: p, slices: {1g.10gb: 1, nvidia.com/mig-1g.10gb: 2}}]",
            (
                "pools[0].slices['1g.10gb']: the same slice as nvidia.com/mig-1g.10gb: keep one of the "
                "two"
            ),
        ),
        (
            "pools: [{name: p, slices: {1g.10gb: 1}, taints: [{key: a}]}]",
            "pools[0].taints[0].effect: missing: write as in effect: NoExecute",
        ),
        (
            "models: [{name: m}]",
            "models[0].gpuMemory: missing: write as in gpuMemory: 9.6G",
        ),
        (
            "models: [{name: m, gpuMemory: 9.6}]",
            "models[0].gpuMemory: 9.6 counts bytes: write 9.6G (or 9.6Gi)",
        ),
        (
            "models: [{name: m, gpuMemory: [1]}]",
            "models[0].gpuMemory: a list: write a quantity such as 9.6G, 13400Mi or 12Gi",
        ),
        (
            "rules: [{name: r, match: {kinds: [deployments]}}]",
            (
                "rules[0].match.kinds[0]: 'deployments': write a kind as Kubernetes does, as in "
                "Deployment, StatefulSet or Job"
            ),
        ),
        ("rules: [{name: r}]", "rules[0].match: missing: write as in match: {}"),
        (
            "rules: [{name: r, match: {}}, {name: r, match: {}}]",
            "rules[1].name: 'r': also rules[0].name: a name stands for one entry",
        ),
    ],
)
def test_a_mistake_is_one_line_with_what_to_do(text: str, line: str) -> None:
    assert said(text) == line


@pytest.mark.parametrize(
    "text",
    [
        "gpuResource: nvidia.com/gpu.shared",
        "gpuResource: example.com/a100_gpu",
        "headroom: 0",
        "headroom: 1000%",
        "whenFull: []",
        "namespaces: {include: ['team-[a-f]*', '?'], exclude: []}",
        "inject: {tolerations: [{operator: Exists}]}",
        "inject: {tolerations: [{key: a, operator: Exists, effect: NoExecute, tolerationSeconds: 0}]}",
        "inject: {nodeSelector: {example.com/team: ''}}",
        "usable: {NVIDIA-RTX-PRO-6000: {1g.24gb+me.all: 23Gi, 1g.24gb-me: 1Mi, 4g.96gb+gfx: 1Ti}}",
        "pools: [{name: p, slices: {nvidia.com/mig-1g.24gb.me.all: 1, nvidia.com/mig-1g.24gb-me: 2}}]",
        "models: [{name: 'meta-llama/Llama-3.1-8B', gpuMemory: 16060M}]",
        "models: [{name: 'qwen2.5:7b', gpuMemory: 1e10}]",
        "rules: [{name: everything, match: {}}]",
        "staleAfter: 1h30m",
        "consolidation: {lambda: 2.5}",
    ],
)
def test_what_is_well_written_is_taken(text: str) -> None:
    load(LEAST_DOCUMENT + text)


def test_every_mig_profile_there_is_may_be_named() -> None:
    names = [
        f"{compute}g.{memory}gb{attribute}"
        for compute in (1, 2, 3, 4, 7)
        for memory in (5, 10, 24, 141, 278)
        for attribute in ("", "+me", "-me", "+gfx", "+me.all")
    ]
    usable = json.dumps({"NVIDIA-H200": dict.fromkeys(names, "5Gi")})
    assert set(load(f"{LEAST_DOCUMENT}usable: {usable}").usable_mib["NVIDIA-H200"]) == set(names)


def test_hundreds_of_mistakes_end_the_search_and_the_text_shows_the_first() -> None:
    with pytest.raises(ConfigError) as caught:
        load(LEAST_DOCUMENT + "".join(f"key{i}: 1\n" for i in range(5000)))
    assert len(caught.value.problems) == MOST
    shown = str(caught.value).splitlines()
    assert len(shown) == SHOWN + 1
    assert shown[-1] == f"and {MOST - SHOWN} more: mend these first"


def test_a_long_or_odd_value_stays_one_short_line() -> None:
    least = read(LEAST_DOCUMENT).value
    assert isinstance(least, dict)
    odd = {"mode": "x\n\u202e" + "y" * 10_000, "schedulers": ["z" * 400], "k\n" + "z" * 900: 1}
    found = lines(json.dumps(least | odd))
    assert len(found) == 3
    assert all(line.isprintable() and len(line) < 600 for line in found)


SCALARS: st.SearchStrategy[Any] = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "Enforce", "9.6G", "20%", "3m", "nvidia.com/gpu", "*", "Exists"])
)
FIELDS = st.sampled_from(
    [f.encode_name for f in msgspec.structs.fields(MigfitConfiguration)]
    + ["name", "gpuMemory", "match", "key", "operator", "slices", "labels", "lambda", "", "x y"]
)


@given(
    st.recursive(
        SCALARS,
        lambda v: st.lists(v, max_size=3) | st.dictionaries(FIELDS, v, max_size=5),
        max_leaves=20,
    )
)
def test_whatever_json_a_document_is_it_is_taken_or_refused_with_paths(value: Any) -> None:
    if isinstance(value, dict):
        value |= {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}
    document = read(json.dumps(value))
    problems = validate(document)
    if problems:
        assert all(problem.message.isprintable() for problem in problems)
    else:
        msgspec.convert(document.value, MigfitConfiguration)
