"""The status as a document: what is worth a write, and what is hollow."""

from __future__ import annotations

from typing import Any

import pytest

from extender.agent.status import differs, health, hollow, rfc3339


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
        ({"xids": [{"code": 48, "time": rfc3339(1000)}]}, True),
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


def test_health_is_put_in_words_with_the_xids_of_a_card_or_of_a_slice() -> None:
    xids = [{"code": 48, "time": rfc3339(1000)}, {"code": 94, "time": rfc3339(1001)}]

    assert health(card(health="XidError", xids=xids)) == "XidError (XID 48, 94)"
    assert health(card(health="Healthy", xids=[])) == "Healthy"
    assert health({"uuid": "MIG-1", "xids": xids[1:]}) == "XID 94"
    assert health({"uuid": "MIG-1"}) == ""
