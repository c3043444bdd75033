"""What was seen of a workload: it may raise what is declared, if so configured, and never lowers it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.core.decide import decide
from extender.core.observed import NoPeaks, Peak
from extender.core.policy import Policy
from extender.core.quantity import MIB
from extender.core.reason import Action, Reason
from tests.build import annotated, node, pod, state

if TYPE_CHECKING:
    from collections.abc import Mapping

    from extender.core.decision import Decision

RAISES, STANDS = Policy(observed_raise=True), Policy()
SLICES = {"1g.10gb": 4, "2g.20gb": 4, "3g.40gb": 4}


class Seen:
    """Peaks of the workload of `pod()`, and of no other."""

    def __init__(self, **peaks: Peak) -> None:
        self._peaks = peaks

    def of(self, workload: str) -> Mapping[str, Peak]:
        return self._peaks if workload == "speech/Deployment/asr" else {}


def decided(policy: Policy, footprint: object = "9.6G", **peaks: Peak) -> Decision:
    snapshot = state(node(slices=SLICES), policy=policy).snapshot()
    seen = replace(snapshot, observed=Seen(**peaks))
    return decide(pod(footprint=footprint), seen, policy, namespace="speech")


def test_an_observed_peak_and_a_quarter_raise_the_declaration() -> None:
    found = decided(RAISES, asr=Peak(24_000, pods=3))

    [change] = found.changes
    assert (change.footprint_bytes, change.footprint_source) == (30_000 * MIB, "observed")
    assert found.need_mib == 36_000
    assert found.profile == "3g.40gb"


def test_by_default_the_declaration_stands() -> None:
    found = decided(STANDS, asr=Peak(24_000, pods=3))

    assert found.changes == decided(STANDS).changes
    assert found.changes[0].footprint_source == "annotation"


def test_what_is_reserved_ahead_is_no_need() -> None:
    assert decided(RAISES, asr=Peak(74_000, pods=1, preallocates=True)) == decided(RAISES)


def test_other_containers_and_other_workloads_raise_nothing() -> None:
    assert decided(RAISES, side=Peak(24_000, pods=1)) == decided(RAISES)
    assert Seen(asr=Peak(1, 1)).of("speech/Deployment/tts") == {}


def test_a_pod_that_declares_nothing_is_not_sized_by_what_was_seen() -> None:
    found = decided(RAISES, footprint=None, asr=Peak(5000, pods=9))

    assert (found.action, found.reason) == (Action.LEFT, Reason.NO_FOOTPRINT)


def test_a_profile_that_the_pod_names_is_checked_against_the_raised_need() -> None:
    snapshot = state(node(slices=SLICES), policy=RAISES).snapshot()
    seen = replace(snapshot, observed=Seen(asr=Peak(24_000, pods=1)))
    named = annotated(pod(), profile="2g.20gb")

    assert decide(named, seen, RAISES, namespace="speech").reason is Reason.PROFILE_TOO_SMALL


@given(
    declared_mib=st.integers(1, 60_000),
    peak_mib=st.integers(0, 80_000),
    preallocates=st.booleans(),
    raises=st.booleans(),
)
def test_observation_never_lowers_a_footprint(
    declared_mib: int, peak_mib: int, *, preallocates: bool, raises: bool
) -> None:
    policy = RAISES if raises else STANDS
    seen = Peak(peak_mib, 1, preallocates=preallocates)
    [change] = decided(policy, f"{declared_mib}Mi", asr=seen).changes

    assert change.footprint_bytes is not None
    assert change.footprint_bytes >= declared_mib * MIB
    if not raises or preallocates or peak_mib * 5 <= declared_mib * 4:
        assert change.footprint_bytes == declared_mib * MIB
    else:
        assert change.footprint_bytes * 4 >= peak_mib * MIB * 5


@pytest.mark.parametrize(("peak_mib", "footprint"), [(1, 1.25), (3, 3.75), (0, 0)])
def test_the_margin_is_a_quarter_to_the_byte(peak_mib: int, footprint: float) -> None:
    assert Peak(peak_mib, 1).footprint_bytes() == int(footprint * MIB)


def test_without_agents_nothing_is_observed() -> None:
    assert NoPeaks().of("speech/Deployment/asr") == {}
