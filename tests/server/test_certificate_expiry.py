"""The certificate that is shown: how long it lasts, and that nobody is sent to an expired one."""

from __future__ import annotations

import math
import os
import ssl
import time
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from extender.cli.serve import serve
from extender.server.certificates import Issued, Schedule, begin
from extender.server.settings import BAD_INPUT, Settings, StartError
from extender.server.tls import Certificate, Live, certificate
from tests.server.serving import HOST, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.server.conftest import Start
    from tests.server.serving import Pair

NOW_S = 1_800_000_000.0
NAMES = ("localhost", HOST)
DAY = Schedule(authority_s=3 * 86_400, leaf_s=86_400, backdate_s=0)


def write(issued: Issued, pair: Pair) -> None:
    pair.key.write_bytes(issued.leaf.key_pem)
    pair.cert.write_bytes(issued.leaf.pem)


def test_what_is_left_of_files_goes_down_with_the_clock_and_below_nought(pair: Pair) -> None:
    write(begin(NAMES, NOW_S, DAY), pair)
    now_s = [NOW_S]
    shown = Certificate(pair.cert, pair.key, clock=lambda: now_s[0])

    assert shown.left_s() == 86_400
    now_s[0] += 86_399
    assert (shown.left_s(), shown.unready()) == (1, None)
    now_s[0] += 2
    assert shown.left_s() == -1
    assert shown.unready() == (
        f"the webhook's certificate expired at 2027-01-16T08:00:00+00:00; renew --tls-cert {pair.cert}"
    )

    write(begin(NAMES, now_s[0], DAY), pair)
    assert shown.reload()
    assert shown.unready() is None


def test_the_end_of_the_leaf_counts_and_not_that_of_its_chain(pair: Pair) -> None:
    issued = begin(NAMES, NOW_S, DAY)
    write(issued, pair)
    pair.cert.write_bytes(issued.leaf.pem + issued.bundle)

    assert Certificate(pair.cert, pair.key, clock=lambda: NOW_S).left_s() == 86_400


def test_what_cannot_be_used_leaves_what_is_shown_and_its_end() -> None:
    issued, other = (begin(NAMES, NOW_S, DAY) for _ in range(2))
    live = Live(lambda: NOW_S)
    live.load(issued.leaf.pem, issued.leaf.key_pem)

    for cert, key in [
        (other.leaf.pem, issued.leaf.key_pem),
        (b"", other.leaf.key_pem),
        (other.leaf.pem, b""),
    ]:
        with pytest.raises(OSError, match=r"_ssl\.c"):
            live.load(cert, key)

    assert live.left_s() == 86_400
    assert presented(live) == ssl.PEM_cert_to_DER_cert(issued.leaf.pem.decode())


def presented(live: Live) -> bytes:
    """What a caller gets, by a handshake in memory."""
    trusting = ssl.create_default_context()
    trusting.check_hostname, trusting.verify_mode = False, ssl.CERT_NONE
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server)
    server = live.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return client.getpeercert(binary_form=True) or b""


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_key_never_stays_on_a_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: bool
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "none" if in_memory else tmp_path))
    if not in_memory:  # as on other systems than Linux
        monkeypatch.delattr(os, "memfd_create")
    issued = begin(NAMES, NOW_S, DAY)
    live = Live(lambda: NOW_S)

    live.load(issued.leaf.pem, issued.leaf.key_pem)

    assert presented(live) == ssl.PEM_cert_to_DER_cert(issued.leaf.pem.decode())
    assert list(tmp_path.iterdir()) == []


def test_files_that_have_expired_are_unready_until_they_are_renewed(
    start: Start, pair: Pair
) -> None:
    now_s = time.time()
    write(begin(NAMES, now_s - 2 * 86_400, DAY), pair)
    running = start()
    wait_until(lambda: running.logged("synced"), "the lists are in")

    answer = running.ask("ops", "GET", "/readyz")
    assert answer.status == 503
    assert "the webhook's certificate expired at " in answer.line
    assert running.metrics()["migfit_certificate_expiry_seconds"] < -86_000
    assert running.ask("ops", "GET", "/healthz").status == 200

    write(begin(NAMES, now_s, DAY), pair)
    running.wait_ready()
    assert 86_000 < running.metrics()["migfit_certificate_expiry_seconds"] <= 86_400


def test_without_a_webhook_there_is_no_certificate_that_could_expire(start: Start) -> None:
    running = start("--webhook-port", 0).wait_ready()

    left_s = running.metrics()["migfit_certificate_expiry_seconds"]
    assert math.isnan(left_s)  # no alert on a threshold fires


@pytest.mark.parametrize(
    ("flag", "value", "says"),
    [
        ("--tls-name", "no host", "'no host' is neither a host name nor an IP address"),
        ("--tls-name", "1.2.3.4:8443", "is neither a host name nor an IP address"),
        ("--service", "migfit.svc", "'migfit.svc' is not the name of a Service"),
        ("--tls-secret", "migfit-webhook-tls", "is not NAMESPACE/NAME"),
    ],
)
def test_a_flag_that_names_nothing_possible_is_refused(flag: str, value: str, says: str) -> None:
    told = CliRunner().invoke(serve, [flag, value])

    assert told.exit_code == BAD_INPUT
    assert says in told.output


def test_names_that_are_possible_are_taken() -> None:
    names = ["Host.example", "*.example", "10.0.0.1", "::1", "a"]
    flags = [word for name in names for word in ("--tls-name", name)]

    assert serve.make_context("serve", flags).params["tls_names"] == tuple(names)


def test_files_and_a_secret_are_not_both_taken(pair: Pair) -> None:
    settings = Settings(tls_cert=pair.cert, tls_key=pair.key, tls_secret=("a", "b"))

    with pytest.raises(StartError, match="--tls-cert and --tls-secret are both given") as refused:
        certificate(settings)

    assert refused.value.code == BAD_INPUT
    certificate(replace(settings, tls_secret=None))
