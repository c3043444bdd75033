"""The status as a document: what is worth a write, what is hollow, and that any JSON can be read back."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.agent.peaks import Observed
from extender.agent.status import differs, heartbeat_s, hollow, observed, rfc3339

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["gpus", "slices", "holders", "peakMiB", "since", "uuid", "pod"]), inner
        )
    ),
    max_leaves=12,
)


def card(peak_mib: int | None = 9600, **fields: Any) -> dict[str, Any]:
    """A whole A100 that one pod holds."""
    holder: dict[str, Any] = {"namespace": "ml", "pod": "asr-0", "containers": ["main"]}
    if peak_mib is not None:
        holder |= {"peakMiB": peak_mib, "since": rfc3339(1000)}
    return {
        "index": 0,
        "uuid": "GPU-0",
        "product": "NVIDIA A100-SXM4-80GB",
        "memoryMiB": 81920,
        "mig": False,
        "usedMiB": 700,
        "holders": [holder],
        **fields,
    }


@pytest.mark.parametrize(
    ("peak_mib", "is_hollow"),
    [(None, False), (900, True), (32_153, True), (32_154, False), (70_000, False)],
)
def test_a_card_is_hollow_if_its_pods_peak_and_a_quarter_fit_a_slice(
    peak_mib: int | None, *, is_hollow: bool
) -> None:
    assert hollow(card(peak_mib)) is is_hollow  # 3g.40gb: 40192


def test_no_card_is_called_hollow_that_is_reserved_shared_unknown_or_free() -> None:
    [holder] = card()["holders"]

    assert not hollow(card(holders=[holder | {"preallocates": True}]))
    assert not hollow(card(holders=[holder, holder | {"pod": "asr-1"}]))
    assert not hollow(card(product="NVIDIA L4", memoryMiB=23034))
    assert not hollow(card(holders=[]))


def status(*gpus: dict[str, Any]) -> dict[str, Any]:
    return {"heartbeatTime": rfc3339(1000), "gpus": list(gpus), "conditions": []}


@pytest.mark.parametrize(
    ("change", "written"),
    [
        ({"usedMiB": 700 + 255}, False),
        ({"usedMiB": 700 + 256}, True),
        ({"holders": []}, True),
        ({"mig": True}, True),
        ({"health": "Lost"}, True),
    ],
)
def test_what_is_worth_a_write(change: dict[str, Any], *, written: bool) -> None:
    assert differs(status(card()), status(card(**change))) is written
    assert differs(status(card(**change)), status(card())) is written


def test_of_much_memory_only_a_twentieth_is_worth_a_write() -> None:
    old = status(card(usedMiB=60_000))

    assert not differs(old, status(card(usedMiB=62_999)))
    assert differs(old, status(card(usedMiB=63_000)))


def test_a_heartbeat_alone_is_no_news_and_neither_is_memory_that_cannot_be_read() -> None:
    silent = card()
    del silent["usedMiB"]

    assert not differs(status(card()), status(card()) | {"heartbeatTime": rfc3339(2000)})
    assert not differs(status(card()), status(silent))


def test_slow_growth_adds_up_to_a_write() -> None:
    """It is compared with what was written last, not with the sample before."""
    written = status(card(usedMiB=700))

    assert [differs(written, status(card(usedMiB=mib))) for mib in (800, 900, 1000)] == [
        False,
        False,
        True,
    ]


def test_peaks_are_read_back_from_a_status_slices_and_whole_cards_alike() -> None:
    cut = card(peak_mib=None, mig=True, holders=[])
    cut["slices"] = [{"uuid": "MIG-1", "holders": copy.deepcopy(card(30_000)["holders"])}]
    cut["slices"][0]["holders"][0]["preallocates"] = True

    assert observed(status(card(), cut)) == {
        ("GPU-0", "ml", "asr-0"): Observed(9600, 1000.0),
        ("MIG-1", "ml", "asr-0"): Observed(30_000, 1000.0, preallocates=True),
    }


@given(st.dictionaries(st.sampled_from(["gpus", "heartbeatTime"]), JSON))
def test_any_json_can_be_read_back(found: dict[str, Any]) -> None:
    for peak in observed(found).values():
        assert peak.peak_mib is not None
    assert heartbeat_s(found) is None or isinstance(heartbeat_s(found), float)
