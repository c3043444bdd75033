"""Who we are to the API server: certificates, tokens, plugins, proxies, against real servers."""

import json
import os
import ssl
import stat
import sys
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from structlog.testing import capture_logs

from extender.cluster.access import log_in
from extender.cluster.client import connect
from extender.cluster.errors import ApiError, KubeconfigError, Unreachable
from tests.cluster.apiserver import echo, kubeconfig, serving


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
