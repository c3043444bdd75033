"""The client against real servers on loopback: plain, TLS, rude."""

import asyncio
import json
import os
import ssl
import stat
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from extender.cluster.access import log_in
from extender.cluster.client import ApiClient, Stream, connect
from extender.cluster.errors import ApiError, KubeconfigError, Unreachable, Unreadable
from tests.cluster.apiserver import Handler, kubeconfig, serving


@asynccontextmanager
async def client_of(handler: Handler, folder: Path) -> AsyncIterator[ApiClient]:
    async with serving(handler) as url, connect(kubeconfig(folder, url)) as client:
        yield client


class Authority:
    """A CA with a server certificate for loopback."""

    def __init__(self, folder: Path, name: str = "ca") -> None:
        self.ca = trustme.CA()
        self.ca_file = folder / f"{name}.crt"
        self.ca.cert_pem.write_to_path(str(self.ca_file))

    def server(self, name: str = "127.0.0.1") -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self.ca.issue_cert(name).configure_cert(context)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_OPTIONAL
        return context

    def client(self, folder: Path, name: str) -> tuple[str, str]:
        issued = self.ca.issue_cert(common_name=name)
        cert, key = folder / "client.crt", folder / "client.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        key.write_bytes(issued.private_key_pem.bytes())
        return str(cert), str(key)


async def echo(request: web.BaseRequest) -> web.StreamResponse:
    """Tell the client what it sent."""
    peer = request.get_extra_info("peercert") or {}
    subject = dict(pair[0] for pair in peer.get("subject", ()))
    return web.json_response(
        {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "body": (await request.text()),
            "content_type": request.headers.get("Content-Type"),
            "authorization": request.headers.get("Authorization"),
            "accept_encoding": request.headers.get("Accept-Encoding"),
            "client": subject.get("commonName"),
        }
    )


# ---- requests and refusals


async def test_parameters_and_body_arrive_as_they_were_given(tmp_path: Path) -> None:
    params = {"fieldSelector": "spec.nodeName!=,status.phase!=Failed", "continue": "a+b/c=="}
    async with client_of(echo, tmp_path) as client:
        got = json.loads(await client.get("/api/v1/pods", params))
        patched = json.loads(
            await client.request("PATCH", "/x", b'{"a": 1}', "application/merge-patch+json")
        )

    assert (got["method"], got["path"], got["query"]) == ("GET", "/api/v1/pods", params)
    assert got["authorization"] is None
    assert (patched["method"], patched["body"]) == ("PATCH", '{"a": 1}')
    assert patched["content_type"] == "application/merge-patch+json"


async def test_a_refusal_carries_status_reason_message_and_retry_after(tmp_path: Path) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        body = {"kind": "Status", "code": 429, "reason": "TooManyRequests", "message": "slow\ndown"}
        return web.json_response(body, status=429, headers={"Retry-After": "7"})

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/x")

    error = caught.value
    assert (error.status, error.reason, error.message) == (429, "TooManyRequests", "slow down")
    assert error.retry_after_s == 7
    assert str(error) == "429 TooManyRequests: slow down"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>secret</html>", ""),
        (b'{"kind":"Secret","message":"secret"}', ""),
        (b'{"kind":"Status","message":7}', ""),
        (b"[" * 70_000, ""),
        (json.dumps({"kind": "Status", "message": "x" * 9000}).encode(), "x" * 255 + "…"),
    ],
)
async def test_of_an_odd_refusal_only_the_status_is_kept(
    tmp_path: Path, body: bytes, message: str
) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return web.Response(status=502, body=body, headers={"Retry-After": "Wed, 21 Oct 2026"})

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError) as caught:
            await client.get("/x")

    assert (caught.value.status, caught.value.message) == (502, message)
    assert caught.value.retry_after_s is None
    assert caught.value.reason == "Bad Gateway"


async def test_a_redirect_is_not_followed(tmp_path: Path) -> None:
    async def elsewhere(request: web.BaseRequest) -> web.StreamResponse:
        if request.path == "/x":
            return web.Response(status=302, headers={"Location": "/y"})
        return web.Response(body=b"followed")

    async with client_of(elsewhere, tmp_path) as client:
        with pytest.raises(ApiError, match="302"):
            await client.get("/x")


async def test_a_server_that_is_not_there_is_unreachable(tmp_path: Path) -> None:
    async with serving(echo) as url:
        file = kubeconfig(tmp_path, url)
    async with connect(file) as client:
        with pytest.raises(
            Unreachable, match=r"/x: Cannot connect to host 127.0.0.1:\d+ \[Connect call failed"
        ):
            await client.get("/x")
        with pytest.raises(Unreachable):
            async with client.stream("/x"):
                pytest.fail("there is nothing to stream")


async def test_a_body_cut_short_is_unreachable(tmp_path: Path) -> None:
    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        await response.write(b"half")
        assert request.transport is not None
        request.transport.abort()
        return response

    async with client_of(cut, tmp_path) as client:
        with pytest.raises(Unreachable):
            await client.get("/x")


async def test_noise_instead_of_http_is_unreachable(tmp_path: Path) -> None:
    async def noise(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request.transport, asyncio.Transport)
        request.transport.write(b"SSH-2.0-OpenSSH_9.6\r\n")
        request.transport.close()
        return web.Response()

    async with client_of(noise, tmp_path) as client:
        with pytest.raises(Unreachable):
            await client.get("/x")


async def test_the_server_version_is_told(tmp_path: Path) -> None:
    async def version(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"major": "1", "gitVersion": "v1.37.0"})

    async with client_of(version, tmp_path) as client:
        assert await client.server_version() == "v1.37.0"
    async with client_of(echo, tmp_path) as client:
        with pytest.raises(Unreadable, match="no API server"):
            await client.server_version()


# ---- streams


def chunks(*pieces: bytes, abort: bool = False) -> Handler:
    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(headers={"X-Told": "yes"})
        await response.prepare(request)
        for piece in pieces:
            await response.write(piece)
        if abort:
            assert request.transport is not None
            request.transport.abort()
        return response

    return answer


async def test_a_stream_gives_its_lines_however_long(tmp_path: Path) -> None:
    long = b"x" * 3_000_000
    async with (
        client_of(chunks(b"a\n\nb", b"c\n" + long, long + b"\nend\n"), tmp_path) as client,
        client.stream("/x") as stream,
    ):
        lines = [line async for line in stream]

        assert (stream.status, stream.headers["x-told"]) == (200, "yes")
    assert lines == [b"a", b"", b"bc", long + long, b"end"]


@pytest.mark.parametrize("abort", [True, False])
async def test_a_stream_that_ends_inside_a_line_is_unreachable(tmp_path: Path, abort: bool) -> None:
    async with (
        client_of(chunks(b"whole\n", b"half", abort=abort), tmp_path) as client,
        client.stream("/x") as stream,
    ):
        assert await anext(stream) == b"whole"
        with pytest.raises(Unreachable):
            await anext(stream)


async def test_a_line_without_end_is_given_up(tmp_path: Path) -> None:
    async with (
        client_of(chunks(*[b"x" * 1000] * 100), tmp_path) as client,
        client.stream("/x", line_bytes=50_000) as stream,
    ):
        with pytest.raises(Unreadable, match="more than 50000 bytes"):
            await anext(stream)


async def test_a_stream_that_is_refused_says_so_on_entry(tmp_path: Path) -> None:
    async def refuse(_: web.BaseRequest) -> web.StreamResponse:
        return web.json_response({"kind": "Status", "reason": "Expired"}, status=410)

    async with client_of(refuse, tmp_path) as client:
        with pytest.raises(ApiError, match="410 Expired"):
            async with client.stream("/x"):
                pytest.fail("refused")


@given(st.lists(st.binary(max_size=4).map(lambda raw: raw.replace(b"x", b"\n")), max_size=12))
def test_lines_do_not_depend_on_how_the_bytes_are_cut(pieces: list[bytes]) -> None:
    stream = Stream.__new__(Stream)
    stream._line_bytes = 1000
    stream._lines = deque()
    stream._begun, stream._begun_bytes = [], 0
    for piece in pieces:
        stream._split(piece)

    *whole, rest = b"".join(pieces).split(b"\n")
    assert list(stream._lines) == whole
    assert b"".join(stream._begun) == rest


# ---- who we are


async def test_tls_is_checked_and_a_client_certificate_shown(tmp_path: Path) -> None:
    ca, other = Authority(tmp_path), Authority(tmp_path, "other")
    cert, key = ca.client(tmp_path, "migfit")
    user = {"client-certificate": cert, "client-key": key}
    async with serving(echo, ca.server()) as url:
        file = kubeconfig(tmp_path, url, user, {"certificate-authority": str(ca.ca_file)})
        async with connect(file) as client:
            assert json.loads(await client.get("/x"))["client"] == "migfit"
        file = kubeconfig(tmp_path, url, user, {"certificate-authority": str(other.ca_file)})
        async with connect(file) as client:
            with pytest.raises(Unreachable, match="certificate"):
                await client.get("/x")


async def test_the_name_in_the_certificate_may_differ_from_the_url(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cluster = {"certificate-authority": str(ca.ca_file), "tls-server-name": "kubernetes.local"}
    async with serving(echo, ca.server("kubernetes.local")) as url:
        async with connect(kubeconfig(tmp_path, url, {}, cluster)) as client:
            assert json.loads(await client.get("/x"))["path"] == "/x"
        del cluster["tls-server-name"]
        async with connect(kubeconfig(tmp_path, url, {}, cluster)) as client:
            with pytest.raises(Unreachable, match="certificate"):
                await client.get("/x")


async def test_rotated_certificates_are_used_after_a_401(tmp_path: Path) -> None:
    ca = Authority(tmp_path)
    cert, key = ca.client(tmp_path, "old")
    user = {"client-certificate": cert, "client-key": key}

    async def only_new(request: web.BaseRequest) -> web.StreamResponse:
        known = (("commonName", "new"),) in request.get_extra_info("peercert")["subject"]
        return await echo(request) if known else web.Response(status=401)

    async with serving(only_new, ca.server()) as url:
        file = kubeconfig(tmp_path, url, user, {"certificate-authority": str(ca.ca_file)})
        async with connect(file) as client:
            with pytest.raises(ApiError, match="401"):
                await client.get("/x")
            ca.client(tmp_path, "new")
            os.utime(cert, ns=(0, 0))
            client._access._tried_at -= 60

            assert json.loads(await client.get("/x"))["client"] == "new"


class Token:
    """A server that knows one token at a time."""

    def __init__(self, known: str) -> None:
        self.known = known
        self.asked: list[str | None] = []

    async def __call__(self, request: web.BaseRequest) -> web.StreamResponse:
        self.asked.append(request.headers.get("Authorization"))
        known = self.asked[-1] == f"Bearer {self.known}"
        return web.Response(status=200 if known else 401, body=b"ok")


async def test_a_token_file_is_read_again_every_minute(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one\n")
    server = Token("one")
    async with (
        serving(server) as url,
        connect(kubeconfig(tmp_path, url, {"tokenFile": str(token)})) as client,
    ):
        await client.get("/x")
        token.write_text("two\n")
        await client.get("/x")
        client._access._loaded_at -= 61
        client._access._tried_at -= 61
        server.known = "two"
        await client.get("/x")

    assert server.asked == ["Bearer one", "Bearer one", "Bearer two"]


async def test_after_a_401_credentials_are_read_again_but_not_for_every_refusal(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    server = Token("two")
    async with (
        serving(server) as url,
        connect(kubeconfig(tmp_path, url, {"tokenFile": str(token)})) as client,
    ):
        client._access._tried_at -= 11
        token.write_text("two")
        assert await client.get("/x") == b"ok"
        server.known = "three"
        for _ in range(3):
            with pytest.raises(ApiError, match="401"):
                await client.get("/x")

    assert len(server.asked) == 2 + 3


async def test_old_credentials_serve_on_when_new_ones_cannot_be_read(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("one")
    async with (
        serving(Token("one")) as url,
        connect(kubeconfig(tmp_path, url, {"tokenFile": str(token)})) as client,
    ):
        token.unlink()
        client._access._loaded_at -= 61
        client._access._tried_at -= 61
        with capture_logs() as logs:
            assert await client.get("/x") == b"ok"
            assert await client.get("/x") == b"ok"

    assert [entry["event"] for entry in logs] == ["credentials-not-renewed"]


def plugin(folder: Path, **status: str) -> dict[str, object]:
    """An exec plugin that gives token-1, token-2, …"""
    count, script = folder / "count", folder / "plugin"
    count.write_text("0")
    script.write_text(
        f"#!{sys.executable}\n"
        "import json, pathlib\n"
        f"count = pathlib.Path({str(count)!r})\n"
        "number = int(count.read_text()) + 1\n"
        "count.write_text(str(number))\n"
        f"status = {status!r} | {{'token': f'token-{{number}}'}}\n"
        "print(json.dumps({'apiVersion': 'client.authentication.k8s.io/v1',"
        " 'kind': 'ExecCredential', 'status': status}))\n"
    )
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": str(script)}}


@pytest.mark.filterwarnings("ignore:.*utcnow:DeprecationWarning")  # the library's, from 3.12 on
@pytest.mark.parametrize(
    ("expiry", "after_a_minute"),
    [
        ({}, 1),
        ({"expirationTimestamp": "2099-01-01T00:00:00Z"}, 1),
        ({"expirationTimestamp": "2020-01-01T00:00:00Z"}, 2),
    ],
)
async def test_an_exec_plugin_runs_again_when_its_token_runs_out_or_is_refused(
    tmp_path: Path, expiry: dict[str, str], after_a_minute: int
) -> None:
    server = Token("token-1")
    async with (
        serving(server) as url,
        connect(kubeconfig(tmp_path, url, plugin(tmp_path, **expiry))) as client,
    ):
        await client.get("/x")
        client._access._loaded_at -= 61
        client._access._tried_at -= 61
        server.known = f"token-{after_a_minute}"
        await client.get("/x")
        client._access._tried_at -= 61
        server.known = f"token-{after_a_minute + 1}"
        await client.get("/x")

    assert server.asked[:2] == ["Bearer token-1", f"Bearer token-{after_a_minute}"]
    assert server.asked[-1] == f"Bearer {server.known}"


async def test_in_a_pod_the_service_account_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = Authority(tmp_path)
    (tmp_path / "token").write_text("pod-token")
    (tmp_path / "namespace").write_text("migfit-system\n")
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with serving(echo, ca.server()) as url:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", url.rpartition(":")[2])
        async with connect(None, service_account=tmp_path) as client:
            got = json.loads(await client.get("/x"))

            assert (client.server, client.namespace) == (url, "migfit-system")
            (tmp_path / "token").write_text("rotated")
            client._access._loaded_at -= 61
            client._access._tried_at -= 61
            assert json.loads(await client.get("/x"))["authorization"] == "Bearer rotated"

    assert got["authorization"] == "Bearer pod-token"
    assert got["accept_encoding"] == "identity"


async def test_outside_a_pod_the_default_kubeconfig_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.setenv("KUBECONFIG", f"/nowhere:{kubeconfig(tmp_path, 'http://127.0.0.1:1')}")

    access = await log_in(None)

    assert (access.url, access.namespace) == ("http://127.0.0.1:1", None)
    monkeypatch.setenv("KUBECONFIG", "/nowhere")
    with pytest.raises(KubeconfigError, match="/nowhere: no such file, and this is no pod"):
        await log_in(None)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", "current-context: x", "a: b\n\tc", "contexts: 7\ncurrent-context: c"],
)
async def test_a_broken_kubeconfig_is_named(tmp_path: Path, text: str) -> None:
    file = tmp_path / "broken"
    file.write_text(text)

    with pytest.raises(KubeconfigError, match=r"kubeconfig .*/broken: \w+"):
        await log_in(file)


async def test_a_proxy_of_the_environment_is_taken_unless_excepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def proxy_for(url: str) -> str | None:
        return (await log_in(kubeconfig(tmp_path, url))).proxy

    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    assert await proxy_for("https://k.example:6443") == "http://proxy:3128"
    assert await proxy_for("https://127.0.0.1:6443") is None


async def test_a_netrc_file_does_not_get_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    async with (
        serving(echo) as url,
        connect(kubeconfig(tmp_path, url, {"token": "t"})) as client,
    ):
        assert json.loads(await client.get("/x"))["authorization"] == "Bearer t"
