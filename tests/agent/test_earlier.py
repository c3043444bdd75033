"""What a run leaves to the one after it, read back out of whatever JSON stands there."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from extender.agent.earlier import Earlier, earlier
from extender.agent.faults import Fault
from extender.agent.peaks import Observed
from extender.agent.status import rfc3339

FIELDS = ("gpus", "slices", "holders", "peakMiB", "since", "uuid", "pod", "xids", "code", "time")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.just(rfc3339(1000)),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=5)
    ),
    max_leaves=12,
)


def holders(peak_mib: int, **fields: Any) -> list[dict[str, Any]]:
    return [
        {
            "namespace": "ml",
            "pod": "asr-0",
            "containers": ["main"],
            "peakMiB": peak_mib,
            "since": rfc3339(1000),
            **fields,
        }
    ]


def xids(*codes: int) -> list[dict[str, Any]]:
    return [{"code": code, "time": rfc3339(2000 + code)} for code in codes]


def test_peaks_and_xids_are_read_back_of_slices_and_whole_cards_alike() -> None:
    whole = {"uuid": "GPU-0", "holders": holders(9600), "xids": xids(48)}
    piece = {"uuid": "MIG-1", "holders": holders(30_000, preallocates=True), "xids": xids(94)}
    cut = {"uuid": "GPU-1", "xids": xids(63, 94), "slices": [piece]}

    found = earlier({"heartbeatTime": rfc3339(3000), "gpus": [whole, cut]})

    assert found == Earlier(
        heartbeat_s=3000.0,
        peaks={
            ("GPU-0", "ml", "asr-0"): Observed(9600, 1000.0),
            ("MIG-1", "ml", "asr-0"): Observed(30_000, 1000.0, preallocates=True),
        },
        faults=(
            Fault(48, "GPU-0", "GPU-0", 2048.0),
            Fault(63, "GPU-1", "GPU-1", 2063.0),
            Fault(94, "GPU-1", "GPU-1", 2094.0),
            Fault(94, "GPU-1", "MIG-1", 2094.0),
        ),
    )


def test_a_holder_that_was_not_watched_and_an_empty_status_leave_nothing() -> None:
    [unseen] = holders(1)
    del unseen["peakMiB"]

    nothing = Earlier(heartbeat_s=None, peaks={}, faults=())
    assert earlier({"gpus": [{"uuid": "GPU-0", "holders": [unseen]}]}) == nothing
    assert earlier({}) == nothing


@given(st.dictionaries(st.sampled_from(["gpus", "heartbeatTime"]), JSON))
def test_any_json_can_be_read_back(found: dict[str, Any]) -> None:
    told = earlier(found)

    assert all(isinstance(peak.peak_mib, int) for peak in told.peaks.values())
    assert all(isinstance(fault.code, int) for fault in told.faults)
    assert told.heartbeat_s is None or isinstance(told.heartbeat_s, float)
