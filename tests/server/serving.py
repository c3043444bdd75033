"""`migfit serve` as a process beside an embedded cluster, and bytes on real sockets."""

import asyncio
import json
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import trustme

from extender.demo.admission import review
from extender.demo.cluster import Cluster

T = TypeVar("T")
JSON = dict[str, Any]

PATIENCE_S = 90.0
HOST = "127.0.0.1"
GPU, SLICE = "nvidia.com/gpu", "nvidia.com/mig-2g.20gb"
CONFIG = "apiVersion: migfit.io/v1alpha1\nkind: MigfitConfiguration\n"


def wait_until(true: Callable[[], T], what: str) -> T:
    """Ask until the answer is a true one."""
    end_s = time.monotonic() + PATIENCE_S
    while not (answer := true()):
        assert time.monotonic() < end_s, f"in {PATIENCE_S:g} s it did not come about that {what}"
        time.sleep(0.02)
    return answer


# --- HTTP by hand --------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: dict[str, str]
    """Names in lower case."""
    body: bytes

    @property
    def line(self) -> str:
        """The body, which is exactly one line."""
        text = self.body.decode()
        assert text.splitlines() == [text.rstrip("\n")], text
        assert text.strip()
        return text.strip()

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def request(method: str, path: str, body: bytes = b"", **headers: object) -> bytes:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    fields = {"Host": "localhost", "Content-Length": len(body), **given}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body


class Wire:
    """A connection."""

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        plain = socket.create_connection((HOST, port), timeout=PATIENCE_S)
        self.socket = tls.wrap_socket(plain, server_hostname="localhost") if tls else plain
        self._read = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        """Send; the other side may hang up before it has everything, over TLS as an `SSLError`."""
        with suppress(ConnectionError, ssl.SSLEOFError, ssl.SSLZeroReturnError):
            self.socket.sendall(data)

    def answer(self) -> Answer | None:
        """The next answer; None if the connection was closed without one."""
        while b"\r\n\r\n" not in self._read:
            if not self._more():
                assert self._read == b""
                return None
        head, _, self._read = self._read.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
        length = int(headers["content-length"])
        while len(self._read) < length:
            assert self._more()
        body, self._read = self._read[:length], self._read[length:]
        return Answer(int(first.split()[1]), headers, body)

    def _more(self) -> bool:
        try:
            piece = self.socket.recv(1 << 16)
        except ConnectionError:
            return False
        self._read += piece
        return bool(piece)

    def ask(self, method: str, path: str, body: bytes = b"", **headers: object) -> Answer:
        self.send(request(method, path, body, **headers))
        answer = self.answer()
        assert answer is not None
        return answer


# --- a cluster -----------------------------------------------------------------------------------

NODE: JSON = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {
        "name": "gpu-1",
        "labels": {
            "nvidia.com/gpu.product": "NVIDIA-A100-SXM4-80GB",
            "nvidia.com/mig.strategy": "mixed",
        },
    },
    "status": {
        "allocatable": {
            "cpu": "64",
            "memory": "512Gi",
            "pods": "110",
            GPU: "2",
            SLICE: "1000",
            "nvidia.com/mig-3g.40gb": "1000",
        }
    },
}


def gpu_pod(name: str = "asr", *, memory: str = "9.6G", **metadata: Any) -> JSON:
    """A pod that becomes a 2g.20gb on `NODE`; by 20 % more than 16.6 GB it is a 3g.40gb."""
    meta = {"name": name, "annotations": {"migfit.io/gpu-memory": memory}, **metadata}
    limits = {GPU: "1"}
    container = {"name": "main", "image": "x", "resources": {"limits": limits, "requests": limits}}
    spec = {"containers": [container], "schedulerName": "default-scheduler"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec}


def review_of(pod: JSON | None = None, *, dry_run: bool = False, **fields: Any) -> bytes:
    """The body of a request to /mutate."""
    made = review(pod or gpu_pod(), "default", dry_run=dry_run)
    made["request"].update(fields)
    return json.dumps(made).encode()


class Embedded:
    """The demo's cluster on a thread of its own."""

    def __init__(self, folder: Path, nodes: Iterable[JSON] = (NODE,)) -> None:
        folder.mkdir(exist_ok=True)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.cluster: Cluster = self._do(self._start(folder, list(nodes)))
        self.kubeconfig = self.cluster.kubeconfig

    async def _start(self, folder: Path, nodes: list[JSON]) -> Cluster:
        return await Cluster(folder, nodes=nodes, bookmark_s=0.5).__aenter__()

    def _do(self, job: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(job, self._loop).result(PATIENCE_S)

    def stop(self) -> None:
        self._do(self.cluster.__aexit__(None, None, None))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(PATIENCE_S)
        self._loop.close()


class Pair:
    """A certificate and its key in files."""

    def __init__(self, folder: Path, authority: trustme.CA) -> None:
        folder.mkdir(exist_ok=True)
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.authority = authority
        self.tls = ssl.create_default_context()
        authority.configure_trust(self.tls)
        self.issue()

    def issue(self, kind: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        """Write a new pair."""
        issued = self.authority.issue_cert("localhost", HOST, key_type=kind)
        issued.private_key_pem.write_to_path(self.key)
        issued.cert_chain_pems[0].write_to_path(self.cert)


# --- the process ---------------------------------------------------------------------------------


class Serving:
    """`migfit serve`, ended when the test is over.

    Args:
        folder: for the configuration.
        kubeconfig: the cluster's.
        pair: the webhook's certificate.
        flags: more of the command line; they come last.
        reading: whether anybody reads its stdout.
        command: in place of `migfit serve`.
        environ: more of the environment.
    """

    def __init__(
        self,
        folder: Path,
        kubeconfig: Path,
        pair: Pair,
        *flags: object,
        reading: bool = True,
        command: tuple[str, ...] = ("-m", "extender.cli", "serve"),
        environ: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(exist_ok=True)
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.tls = pair.tls
        self._log: list[JSON] = []
        self._audit: list[str] = []
        words = {
            "--config": self.config,
            "--kubeconfig": kubeconfig,
            "--tls-cert": pair.cert,
            "--tls-key": pair.key,
            "--webhook-port": -1,
            "--extender-port": -1,
            "--ops-port": -1,
            "--bind": HOST,
            "--lame-duck": 0,
        }
        told = [str(word) for flag in words.items() for word in flag]
        self.process = subprocess.Popen(
            [sys.executable, *command, *told, *map(str, flags)],
            env={**os.environ, **(environ or {})},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self._readers = [threading.Thread(target=self._read_log, daemon=True)]
        if reading:
            self._readers.append(threading.Thread(target=self._read_audit, daemon=True))
        for reader in self._readers:
            reader.start()

    def _read_log(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            whole = line.startswith(b"{")
            self._log.append(json.loads(line) if whole else {"event": "", "exception": str(line)})

    def _read_audit(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._audit.append(line.decode())

    def stop(self) -> int:
        """Stop it by SIGTERM; its exit status."""
        self.process.terminate()
        return self.ended()

    def ended(self) -> int:
        """Its exit status, once it has ended by itself."""
        status = self.process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return status

    def clean_up(self) -> None:
        """Whatever state it is in."""
        self.process.kill()
        self.ended()
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()

    # --- what it says ---

    def logged(self, event: str) -> list[JSON]:
        return [line for line in self._log if line["event"] == event]

    def tracebacks(self) -> list[JSON]:
        return [line for line in self._log if "exception" in line]

    def audit_texts(self) -> list[str]:
        """Lines of stdout so far."""
        return list(self._audit)

    def audit_of(self, uid: str) -> list[JSON]:
        """Audit lines of a review so far."""
        return [line for line in map(json.loads, self._audit) if line["id"] == uid]

    # --- asking it ---

    def port(self, name: str) -> int:
        """Port by name: webhook, extender, ops."""

        def serving() -> list[JSON]:
            assert self.process.poll() is None, self._log
            return self.logged("serving")

        return int(wait_until(serving, "it serves")[0][f"{name}_port"])

    def wire(self, name: str) -> Wire:
        """A new connection to a port, with TLS where it is served."""
        return Wire(self.port(name), self.tls if name == "webhook" else None)

    def ask(self, name: str, method: str, path: str, body: bytes = b"") -> Answer:
        with self.wire(name) as wire:
            return wire.ask(method, path, body, Connection="close")

    def review(self, body: bytes) -> JSON:
        """The response to a review."""
        answer = self.ask("webhook", "POST", "/mutate", body)
        assert answer.status == 200
        response: JSON = answer.json["response"]
        return response

    def ready(self) -> bool:
        return self.ask("ops", "GET", "/readyz").status == 200

    def wait_ready(self) -> Self:
        wait_until(self.ready, "it is ready")
        return self

    def metrics(self) -> dict[str, float]:
        """Every sample: `name{labels}` -> value."""
        lines = self.ask("ops", "GET", "/metrics").body.decode().splitlines()
        samples = [line.rpartition(" ") for line in lines if not line.startswith("#")]
        return {name: float(value) for name, _, value in samples}

    def peak_kib(self) -> int:
        """The most memory it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0])
