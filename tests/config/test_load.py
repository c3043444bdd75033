from dataclasses import replace
from fractions import Fraction
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.config import DEFAULT_DOCUMENT, LEAST_DOCUMENT, ConfigError, Current, load
from extender.config.document import read
from extender.config.types import MigfitConfiguration
from extender.config.values import seconds
from extender.core.policy import (
    Backoff,
    BackoffAction,
    Globs,
    Inject,
    Match,
    Mode,
    Model,
    Policy,
    Pool,
    Queues,
    QuotaRule,
    Rule,
    WhenFull,
)

FULL = """
apiVersion: migfit.io/v1alpha1
kind: MigfitConfiguration
mode: DryRun
gpuResource: example.com/gpu
headroom: 0.25
minCompute: 2
whenUnknown: 12Gi
whenFull: [Wait]
quota: Ignore
allowSpecialProfiles: true
namespaces: {include: ["team-*"], exclude: [team-x]}
schedulers: [volcano]
queues: Rewrite
autoscaled: false
inject:
  schedulerName: migfit-scheduler
  tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoExecute, tolerationSeconds: 60}
  - {key: team, value: speech}
  nodeSelector: {pool: mig}
  preferUsedNodes: true
usable: {NVIDIA-B200: {1g.23gb: 20.5Gi, 1g.23gb+me: 21000000000}}
pools:
- name: burst
  labels: {nvidia.com/gpu.product: NVIDIA-A100-SXM4-80GB}
  taints: [{key: nvidia.com/gpu, effect: NoSchedule}]
  slices: {1g.10gb+me: 1, nvidia.com/mig-2g.20gb: 3}
models:
- name: parakeet-1.1b
  gpuMemory: 9.6G
  minCompute: 1
  images: ["nvcr.io/nim/nvidia/parakeet-*"]
rules:
- name: notebooks
  match: {namespaces: ["ds-*"], labels: {app: lab}, images: ["*/jupyter-*"], kinds: [StatefulSet]}
  gpuMemory: 6Gi
  headroom: 0
  minCompute: 7
  mode: Disabled
- name: rest
  match: {}
scheduling: {filter: false, spreadReplicas: false}
consolidation: {lambda: 3}
observed: {raise: true}
staleAfter: 1h30m
reservationTtl: 10s
backoff: {restarts: 5, window: 1h, hold: 2h, pending: 90s, action: Report}
"""


def without_revision(policy: Policy) -> Policy:
    return replace(policy, revision="")


def test_the_least_document_says_the_defaults() -> None:
    assert without_revision(load(LEAST_DOCUMENT)) == Policy()


def test_the_default_document_gives_every_field_and_every_default() -> None:
    written = read(DEFAULT_DOCUMENT).value
    meant = msgspec.convert(read(LEAST_DOCUMENT).value, MigfitConfiguration)
    assert written == msgspec.json.decode(msgspec.json.encode(meant))
    assert without_revision(load(DEFAULT_DOCUMENT)) == Policy()


def test_every_field_reaches_the_policy() -> None:
    assert without_revision(load(FULL, own_namespace="migfit")) == Policy(
        mode=Mode.DRY_RUN,
        gpu_resource="example.com/gpu",
        headroom=Fraction(1, 4),
        min_compute=2,
        when_unknown_bytes=12 * 1024**3,
        when_full=(WhenFull.WAIT,),
        quota=QuotaRule.IGNORE,
        allow_special_profiles=True,
        include=Globs(("team-*",)),
        exclude=Globs(("team-x", "migfit")),
        schedulers=frozenset({"volcano"}),
        queues=Queues.REWRITE,
        autoscaled=False,
        inject=Inject(
            scheduler_name="migfit-scheduler",
            tolerations=(
                {
                    "key": "nvidia.com/gpu",
                    "operator": "Exists",
                    "effect": "NoExecute",
                    "tolerationSeconds": 60,
                },
                {"key": "team", "operator": "Equal", "value": "speech"},
            ),
            node_selector=(("pool", "mig"),),
            prefer_used_nodes=True,
        ),
        usable_mib={"NVIDIA-B200": {"1g.23gb": 20992, "1g.23gb+me": 20027}},
        pools=(
            Pool(
                name="burst",
                labels={"nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB"},
                taints=({"key": "nvidia.com/gpu", "value": "", "effect": "NoSchedule"},),
                slices={"nvidia.com/mig-1g.10gb.me": 1, "nvidia.com/mig-2g.20gb": 3},
            ),
        ),
        models=(
            Model(
                name="parakeet-1.1b",
                footprint_bytes=9_600_000_000,
                min_compute=1,
                images=Globs(("nvcr.io/nim/nvidia/parakeet-*",)),
            ),
        ),
        rules=(
            Rule(
                name="notebooks",
                match=Match(
                    namespaces=Globs(("ds-*",)),
                    labels=(("app", "lab"),),
                    images=Globs(("*/jupyter-*",)),
                    kinds=frozenset({"StatefulSet"}),
                ),
                footprint_bytes=6 * 1024**3,
                headroom=Fraction(0),
                min_compute=7,
                mode=Mode.DISABLED,
            ),
            Rule(name="rest", match=Match()),
        ),
        filter=False,
        spread_replicas=False,
        consolidation_lambda=3.0,
        observed_raise=True,
        stale_after_s=5400.0,
        reservation_ttl_s=10.0,
        backoff=Backoff(
            restarts=5, window_s=3600.0, hold_s=7200.0, pending_s=90.0, action=BackoffAction.REPORT
        ),
    )


def test_every_field_of_the_policy_can_be_set_apart_from_its_default() -> None:
    policy, default = load(FULL), Policy()
    same = [
        name
        for name in Policy.__dataclass_fields__
        if getattr(policy, name) == getattr(default, name)
    ]
    assert same == []


@pytest.mark.parametrize("exclude", ["[]", "[a, migfit]", "[a]"])
def test_our_own_namespace_is_excluded_whatever_the_document_says(exclude: str) -> None:
    policy = load(f"{LEAST_DOCUMENT}namespaces: {{exclude: {exclude}}}", own_namespace="migfit")
    assert policy.exclude.match("migfit")
    assert policy.exclude.patterns.count("migfit") == 1


@pytest.mark.parametrize(("text", "value"), [("Auto", None), ("true", True), ("false", False)])
def test_autoscaled_is_found_out_or_said(text: str, value: bool | None) -> None:
    assert load(f"{LEAST_DOCUMENT}autoscaled: {text}").autoscaled is value


@pytest.mark.parametrize("text", ["20%", "'20%'", "0.2", "'0.2'", "0.20", "2e-1"])
def test_headroom_is_exact_in_every_spelling(text: str) -> None:
    assert load(f"{LEAST_DOCUMENT}headroom: {text}").headroom == Fraction(1, 5)


@pytest.mark.parametrize("text", ["9.6G", "'9600M'", "9600000000", "9.6e9", "'9.6e9'"])
def test_a_quantity_is_exact_in_every_spelling(text: str) -> None:
    assert load(f"{LEAST_DOCUMENT}whenUnknown: {text}").when_unknown_bytes == 9_600_000_000


def test_json_is_as_good_as_yaml() -> None:
    document = read(FULL).value
    assert load(msgspec.json.encode(document)) == load(FULL)


@given(st.integers(0, 99), st.integers(0, 999), st.integers(0, 9999))
def test_a_duration_is_the_sum_of_its_parts(hours: int, minutes: int, rest: int) -> None:
    assert seconds(f"{hours}h{minutes}m{rest}s") == hours * 3600 + minutes * 60 + rest
    assert seconds(f"{minutes}m") == minutes * 60


def test_the_revision_is_of_what_is_said_and_not_of_how() -> None:
    revision = load(f"{LEAST_DOCUMENT}mode: DryRun\nheadroom: 1\n").revision
    assert (
        revision == load(f"# why\nheadroom: 1.0   # all\nmode: 'DryRun'\n{LEAST_DOCUMENT}").revision
    )
    assert revision != load(f"{LEAST_DOCUMENT}mode: DryRun\nheadroom: 2\n").revision
    assert len(revision) == 12
    assert set(revision) <= set("0123456789abcdef")


def test_a_good_offer_takes_effect() -> None:
    current = Current(LEAST_DOCUMENT, own_namespace="migfit")
    assert current.policy.headroom == Fraction(1, 5)
    assert current.offer(f"{LEAST_DOCUMENT}headroom: 100%") is None
    assert current.policy.headroom == 1
    assert current.policy.exclude.match("migfit")
    assert current.valid
    assert current.revision == current.policy.revision


def test_a_bad_offer_changes_nothing_but_validity() -> None:
    current = Current(f"{LEAST_DOCUMENT}headroom: 100%")
    before = current.policy
    error = current.offer(f"{LEAST_DOCUMENT}headroom: lots")
    assert error is not None
    assert "headroom" in str(error)
    assert current.policy is before
    assert not current.valid
    assert current.error is error


def test_after_a_bad_offer_the_document_in_force_is_valid_again() -> None:
    current = Current(LEAST_DOCUMENT)
    before = current.policy
    current.offer("")
    assert current.offer(f"# the same\n{LEAST_DOCUMENT}") is None
    assert current.valid
    assert current.policy is before


def test_there_is_no_start_with_a_bad_document() -> None:
    with pytest.raises(ConfigError):
        Current("mode: Enforce")


@given(
    st.text(max_size=80)
    | st.binary(max_size=80)
    | st.from_regex(r"[a-zA-Z]+: .{0,30}", fullmatch=True)
)
def test_no_offer_raises(text: Any) -> None:
    current = Current()
    before = current.policy
    assert isinstance(current.offer(text), ConfigError)
    assert current.policy is before
