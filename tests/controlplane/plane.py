"""A real control plane on loopback: etcd and kube-apiserver, and beside them what a test starts."""

from __future__ import annotations

import base64
import itertools
import json
import os
import random
import shutil
import socket
import ssl
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from tests.controlplane import commands
from tests.controlplane.client import ApiError, Client
from tests.controlplane.pki import Authority, write_key
from tests.controlplane.program import Program

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from tests.controlplane.build import Binaries
    from tests.controlplane.client import JSON


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may talk to the API server, and what with."""

    name: str
    kubeconfig: Path
    client: Client


class ControlPlane:
    """etcd and kube-apiserver with RBAC and an audit log; a context manager that stops them all.

    Attributes:
        url: of the API server, `https://127.0.0.1:PORT`.
        ca_file: PEM of the authority that signs every server of the plane.
        kubeconfig: of the admin, in the group system:masters.
        client: calls as the admin.
    """

    def __init__(
        self,
        binaries: Binaries,
        folder: Path,
        *,
        enable_admission: Iterable[str] = (),
        flags: Sequence[str] = (),
    ) -> None:
        """Prepares a plane in an empty folder; `flags` are added to the API server's."""
        self._binaries = binaries
        self._folder = folder
        self._environ = {"HOME": str(folder), "PATH": os.defpath}
        self._authority = Authority(folder)
        self._server = self._authority.server("server")
        self._users: dict[str, User] = {}
        self._core: dict[str, Program] = {}
        self._components: list[Program] = []
        self._etcd_url = f"http://127.0.0.1:{free_port()}"
        self._audit_log = folder / "audit.log"
        self._audit_begins = 0
        port = free_port()
        self.url = f"https://127.0.0.1:{port}"
        self.ca_file = self._authority.certificate
        admin = self.user("admin", ["system:masters"])
        self.kubeconfig = admin.kubeconfig
        self.client = admin.client
        account_key = write_key(folder / "service-accounts.key")
        policy = self._write("audit-policy.json", commands.AUDIT_POLICY)
        self._apiserver_flags = [
            *commands.serving(port, self._server),
            *commands.apiserver(
                self._etcd_url, self.url, self.ca_file, account_key, enable_admission
            ),
            *commands.audit(policy, self._audit_log),
            *flags,
        ]

    def __enter__(self) -> Self:
        try:
            peer_url = f"http://127.0.0.1:{free_port()}"
            data = self._folder / "etcd"
            # Not waited for: the API server does that itself, while it starts.
            self._core["etcd"] = self._program(
                "etcd", "etcd", commands.etcd(data, self._etcd_url, peer_url), self._etcd_url
            )
            self._start_apiserver()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends every program of the plane at once and drops etcd's data."""
        for program in (*self._components, *reversed(self._core.values())):
            program.kill()
        self._components.clear()
        self._core.clear()
        shutil.rmtree(self._folder / "etcd", ignore_errors=True)

    def stop_components(self) -> None:
        """Ends the schedulers and controller managers that were started."""
        while self._components:
            self._components.pop().stop()

    @contextmanager
    def without_apiserver(self, grace_s: float = 1.0) -> Iterator[None]:
        """Stops the API server and starts it again at the end; `grace_s=0` is a crash.

        It would not end by itself while somebody watches, so it is killed after `grace_s`.
        """
        self._core.pop("kube-apiserver").stop(grace_s)
        try:
            yield
        finally:
            self._start_apiserver()

    def restart_apiserver(self, grace_s: float = 1.0) -> None:
        """Stops and starts the API server: watches break.

        Until it has read its roles again it answers 403 to those who have rights by RBAC.
        """
        with self.without_apiserver(grace_s):
            pass

    def forget_history(self) -> None:
        """Compacts etcd and restarts the API server, whose caches would know the past.

        Then a watch from before the last write gets an ERROR event with code 410, and a continue
        token from before it the status 410.
        """
        etcd = Client(self._etcd_url)
        key = base64.b64encode(b"/").decode()
        header = etcd.request("POST", "/v3/kv/range", {"key": key}).body["header"]
        compaction = {"revision": header["revision"], "physical": True}
        etcd.request("POST", "/v3/kv/compaction", compaction)
        self.restart_apiserver()

    def start_scheduler(
        self,
        extenders: Sequence[JSON] = (),
        *,
        profiles: Sequence[JSON] | None = None,
        name: str = "default-scheduler",
        settings: Mapping[str, object] | None = None,
        flags: Sequence[str] = (),
        user: User | None = None,
    ) -> Program:
        """Starts a kube-scheduler, as system:kube-scheduler unless given; stop it by its handle.

        Args:
            extenders: of the KubeSchedulerConfiguration, as they are.
            profiles: the same; one profile with the schedulerName `name` unless given.
            name: also names the log file.
            settings: further fields of the KubeSchedulerConfiguration.
            flags: added to the command line.
            user: whose rights it has.
        """
        user = user or self.user("system:kube-scheduler")
        configuration = commands.scheduler_configuration(
            user.kubeconfig, profiles or [{"schedulerName": name}], extenders
        )
        file = self._write(f"{name}.json", configuration | dict(settings or {}))
        paths = "--authorization-always-allow-paths=/healthz,/livez,/readyz,/metrics"
        return self._start_component(
            name, "kube-scheduler", [f"--config={file}", paths, *flags], ready="/readyz"
        )

    def start_controller_manager(self, controllers: Sequence[str]) -> Program:
        """Starts a kube-controller-manager with these controllers, such as `job-controller`."""
        flags = [
            f"--kubeconfig={self.kubeconfig}",
            f"--controllers={','.join(controllers)}",
            "--leader-elect=false",
            "--kube-api-qps=500",
            "--kube-api-burst=1000",
        ]
        program = "kube-controller-manager"
        return self._start_component(program, program, flags, ready="/healthz")

    def user(self, name: str, groups: Sequence[str] = ()) -> User:
        """A user by client certificate, with the rights that RBAC gives name and groups.

        The roles `view`, `edit` and `admin` are empty: a controller would fill them.
        """
        key = json.dumps([name, *groups])
        if key not in self._users:
            file = f"user-{len(self._users)}"
            pair = self._authority.client(file, name, groups)
            tls = self._tls()
            tls.load_cert_chain(pair.certificate, pair.key)
            auth = {"client-certificate": str(pair.certificate), "client-key": str(pair.key)}
            self._users[key] = User(name, self._kubeconfig(file, auth), Client(self.url, tls))
        return self._users[key]

    def service_account(self, namespace: str, name: str) -> User:
        """A ServiceAccount that exists, by a token as its pods get one."""
        path = f"{self.client.path('ServiceAccount', name, namespace)}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = str(self.client.request("POST", path, body).body["status"]["token"])
        kubeconfig = self._kubeconfig(f"account-{namespace}-{name}", {"token": token})
        client = self.with_token(token)
        return User(f"system:serviceaccount:{namespace}:{name}", kubeconfig, client)

    def with_token(self, token: str) -> Client:
        """Calls as whoever a token stands for."""
        return Client(self.url, self._tls(), token)

    def kubectl(
        self, *args: str, stdin: str = "", user: User | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Runs kubectl, as the admin unless given; AssertionError with its output if it fails."""
        config = user.kubeconfig if user else self.kubeconfig
        done = subprocess.run(
            [self._binaries.path("kubectl"), *args],
            input=stdin,
            env={**self._environ, "KUBECONFIG": str(config)},
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(args)}: {done.stdout}{done.stderr}")
        return done

    def program(self, name: str) -> Path:
        """The file of one of the programs, such as `kubectl`."""
        return self._binaries.path(name)

    def forget_requests(self) -> None:
        """Later audit events only: those of the tests before this one would be read at each look."""
        if self._audit_log.exists():
            self._audit_begins = self._audit_log.read_bytes().rfind(b"\n") + 1

    def audit_events(
        self, verb: str = "", *, stage: str = "ResponseComplete", **object_ref: str
    ) -> list[JSON]:
        """Requests in the API server's audit log, oldest first.

        Pods with their bodies, others as metadata. An event may come a moment after the answer.

        Args:
            verb: `create`, `patch` …; any unless given.
            stage: finished ones unless given; a watch that goes on is at `ResponseStarted`.
            object_ref: fields of objectRef: `resource="pods"`, `namespace=`, `name=`.
        """
        with self._audit_log.open() as log:
            log.seek(self._audit_begins)
            whole = log.read().rpartition("\n")[0].splitlines()
        near = [line for line in whole if all(value in line for value in object_ref.values())]
        return [
            event
            for event in map(json.loads, near)
            if event["stage"] == stage
            and verb in ("", event["verb"])
            and object_ref.items() <= event.get("objectRef", {}).items()
        ]

    def _start_apiserver(self) -> None:
        name = "kube-apiserver"
        self._core[name] = self._program(name, name, self._apiserver_flags, self.url)
        self._wait_ready(self._core[name], "/readyz")

    def _start_component(
        self, name: str, binary: str, flags: Sequence[str], *, ready: str
    ) -> Program:
        port = free_port()
        flags = [*commands.serving(port, self._server), *flags]
        program = self._program(name, binary, flags, f"https://127.0.0.1:{port}")
        self._components.append(program)
        self._wait_ready(program, ready)
        return program

    def _program(self, name: str, binary: str, flags: Sequence[str], url: str) -> Program:
        argv: list[str | Path] = [self._binaries.path(binary), *flags]
        return Program(name, argv, self._folder, env=self._environ, url=url)

    def _wait_ready(self, program: Program, path: str) -> None:
        client = Client(program.url, self._tls())

        def ready() -> bool:
            try:
                return client.request("GET", path).status == 200
            except (OSError, ApiError):  # nothing listens yet, or not ready yet
                return False

        program.wait_ready(ready)

    def _tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca_file))

    def _kubeconfig(self, name: str, user: Mapping[str, str]) -> Path:
        document = commands.kubeconfig(self.url, self.ca_file, user)
        return self._write(f"{name}.kubeconfig", document)

    def _write(self, name: str, document: JSON) -> Path:
        file = self._folder / name
        file.write_text(json.dumps(document, indent=1))  # JSON is YAML
        return file


PORTS = range(20_000, 32_000)
"""Below those that the kernel gives outgoing connections, or one of those could take a port before the
server does, or connect to itself while the server restarts."""
WORKERS = 16
"""Test processes that share them without meeting."""


def _ports() -> Iterator[int]:
    """All of this process's, one after the other: none comes again while it may still be wanted."""
    mine = PORTS[int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % WORKERS :: WORKERS]
    begun = random.randrange(len(mine))
    return itertools.cycle((*mine[begun:], *mine[:begun]))


_OURS = _ports()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on, nor is about to."""
    while True:
        port = next(_OURS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
