"""The process: how it starts or says why not, changes while it runs, and ends."""

import base64
import json
import signal
import socket
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509

from extender.server.serve import serve
from extender.server.settings import BAD_INPUT, Settings, StartError
from tests.server.conftest import Start
from tests.server.serving import (
    CONFIG,
    HOST,
    Pair,
    Serving,
    gpu_pod,
    request,
    review_of,
    wait_until,
)
from tests.server.test_configuration import kubeconfig

# --- it does not start ---------------------------------------------------------------------------


@pytest.fixture
def settings(tmp_path: Path, pair: Pair) -> Settings:
    """Everything in order, but for a cluster nobody needs in order to start."""
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    return Settings(
        config=config,
        kubeconfig=kubeconfig(tmp_path, f"http://{HOST}:1"),
        tls_cert=pair.cert,
        tls_key=pair.key,
        webhook_port=-1,
        extender_port=-1,
        ops_port=-1,
        bind=HOST,
        lame_duck_s=0,
    )


async def refusal(settings: Settings, code: int) -> str:
    with pytest.raises(StartError) as refused:
        await serve(settings)
    assert refused.value.code == code
    message = str(refused.value)
    assert message.splitlines() == [message]
    return message


async def test_without_a_kubeconfig_there_is_no_way_to_the_cluster(settings: Settings) -> None:
    missing = replace(settings, kubeconfig=Path("/nowhere/kubeconfig"))

    assert "/nowhere/kubeconfig: no such file" in await refusal(missing, BAD_INPUT)


@pytest.mark.parametrize("text", ["", "{", "- a", "clusters: 7", "\0"])
async def test_a_kubeconfig_that_is_none_is_named(settings: Settings, text: str) -> None:
    assert settings.kubeconfig is not None
    settings.kubeconfig.write_text(text)

    assert str(settings.kubeconfig) in await refusal(settings, BAD_INPUT)


async def test_without_a_configuration_it_says_how_to_give_one(settings: Settings) -> None:
    message = await refusal(replace(settings, config=None), BAD_INPUT)

    assert "--config FILE or --configmap NAMESPACE/NAME" in message


async def test_of_two_configurations_neither_is_guessed(settings: Settings) -> None:
    await refusal(replace(settings, configmap=("a", "b")), BAD_INPUT)


async def test_a_configuration_that_is_bad_ends_the_start(settings: Settings) -> None:
    assert settings.config is not None
    settings.config.write_text(CONFIG + "mode: 7\n")

    assert "mode: " in await refusal(settings, BAD_INPUT)


async def test_a_certificate_without_its_key_ends_the_start(settings: Settings) -> None:
    assert "--tls-key" in await refusal(replace(settings, tls_key=None), BAD_INPUT)


@pytest.mark.parametrize(
    ("flag", "field"),
    [
        ("--webhook-port", "webhook_port"),
        ("--extender-port", "extender_port"),
        ("--ops-port", "ops_port"),
    ],
)
async def test_a_port_that_is_taken_is_named_by_its_flag(
    settings: Settings, flag: str, field: str
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
        fields: dict[str, Any] = {field: port}
        message = await refusal(replace(settings, **fields), BAD_INPUT)

    assert message == (
        f"{flag} {port}: cannot listen on {HOST}: Address already in use; "
        "choose another port or address"
    )


@pytest.mark.parametrize("bind", ["192.0.2.1", "no such host"])
async def test_an_address_that_is_not_ours_is_named(settings: Settings, bind: str) -> None:
    message = await refusal(replace(settings, bind=bind), BAD_INPUT)

    assert f"cannot listen on {bind}" in message


# --- it runs -------------------------------------------------------------------------------------


def test_until_the_first_lists_are_in_it_is_alive_unready_and_leaves_pods(
    start: Start, tmp_path: Path
) -> None:
    with socket.create_server((HOST, 0)) as silent:  # takes connections and never answers
        url = f"http://{HOST}:{silent.getsockname()[1]}"
        running = start("--extender-port", 0, kubeconfig=kubeconfig(tmp_path, url))

        assert running.ask("ops", "GET", "/healthz").status == 200
        unready = running.ask("ops", "GET", "/readyz")
        response = running.review(review_of())

        assert (unready.status, unready.line) == (
            503,
            "waiting for the first lists of the cluster",
        )
        assert response["allowed"] is True
        assert "StaleState" in response["auditAnnotations"]["decision"]
        assert running.metrics()["migfit_synced"] == 0
        assert "extender_port" not in running.logged("serving")[0]
        running.process.send_signal(signal.SIGINT)  # as Ctrl-C does
        assert running.ended() == 0


def resource_of(response: dict[str, Any]) -> str:
    """The MIG resource that a pod was given."""
    patch = json.loads(base64.b64decode(response["patch"]))
    (path,) = (step["path"] for step in patch if "limits/nvidia.com~1mig" in step["path"])
    return str(path).rpartition("mig-")[2]


def test_configuration_and_certificate_change_while_it_runs(start: Start, pair: Pair) -> None:
    running = start().wait_ready()
    pod = gpu_pod(memory="12G")

    def decided() -> str:
        return resource_of(running.review(review_of(pod)))

    def valid() -> float:
        return running.metrics()["migfit_config_valid"]

    with running.wire("webhook") as open_all_along:
        assert open_all_along.ask("POST", "/mutate", review_of()).status == 200
        assert (decided(), valid()) == ("2g.20gb", 1)
        first = shown(running)

        pair.issue()
        running.config.write_text(CONFIG + "headroom: 100%\n")
        wait_until(lambda: decided() == "3g.40gb", "the configuration is in force")
        wait_until(lambda: shown(running) != first, "the certificate is shown")

        running.config.write_text(CONFIG + "headroom: -1\n")
        wait_until(lambda: valid() == 0, "the configuration is refused")
        assert decided() == "3g.40gb"
        assert running.ready()

        running.config.write_text(CONFIG)
        wait_until(lambda: valid() == 1, "the configuration is good again")
        wait_until(lambda: decided() == "2g.20gb", "it is in force")

        assert open_all_along.ask("POST", "/mutate", review_of()).status == 200
    assert running.tracebacks() == []


def shown(running: Serving) -> int:
    """The serial number of the certificate that new connections see."""
    with running.wire("webhook") as wire:
        assert isinstance(wire.socket, ssl.SSLSocket)
        der = wire.socket.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


# --- it ends -------------------------------------------------------------------------------------


def test_told_to_stop_it_answers_a_little_longer_and_ends_well(start: Start) -> None:
    running = start("--lame-duck", 60).wait_ready()
    with running.wire("webhook") as idle, running.wire("webhook") as busy:
        assert idle.ask("POST", "/mutate", review_of()).headers.get("connection") != "close"
        body = review_of()
        busy.send(request("POST", "/mutate", body)[:-10])

        running.process.terminate()

        unready = wait_until(
            lambda: (a := running.ask("ops", "GET", "/readyz")).status == 503 and a, "it is unready"
        )
        assert unready
        assert unready.line == "shutting down"
        busy.send(request("POST", "/mutate", body)[-10:])
        answer = busy.answer()
        assert answer is not None
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        last = idle.ask("POST", "/mutate", review_of())
        assert (last.status, last.headers["connection"]) == (200, "close")
        assert running.review(review_of())["allowed"] is True  # also on a new connection

    running.process.terminate()  # a second one: no need to wait for the rest of the minute
    assert running.ended() == 0
    assert running.tracebacks() == []


def test_then_it_listens_no_more_and_ends_once_clients_have_let_their_connections_go(
    start: Start,
) -> None:
    running = start("--lame-duck", 0.2).wait_ready()
    port = running.port("webhook")

    def refused() -> bool:
        with socket.socket() as knock:
            return knock.connect_ex((HOST, port)) != 0

    with running.wire("webhook") as idle, running.wire("webhook") as other:
        for wire in (idle, other):
            assert wire.ask("POST", "/mutate", review_of()).status == 200
        running.process.terminate()
        wait_until(refused, "it listens no more")

        last = idle.ask("POST", "/mutate", review_of())

        assert (last.status, last.headers["connection"]) == (200, "close")
        assert running.process.poll() is None, "there is another connection"
    assert running.ended() == 0
    assert running.tracebacks() == []


def test_by_itself_it_ends_when_the_time_is_over(start: Start) -> None:
    running = start("--lame-duck", 0.2, "--webhook-port", 0, "--extender-port", 0)

    running.port("ops")

    assert running.stop() == 0
    assert running.logged("shutting down")[0]["lame_duck_s"] == 0.2
