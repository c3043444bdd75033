"""An extender that writes down what a real kube-scheduler asks, and answers as a test says."""

from __future__ import annotations

import json
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.controlplane.client import JSON


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    content_type: str
    body: bytes

    @property
    def verb(self) -> str:
        """`filter` or `prioritize`."""
        return self.path.rpartition("/")[2]

    @property
    def args(self) -> JSON:
        """The ExtenderArgs."""
        found: JSON = json.loads(self.body)
        return found

    @property
    def pod(self) -> str:
        """Name of the pod it is about."""
        return str(self.args["Pod"]["metadata"]["name"])


def pass_all(asked: Asked) -> tuple[int, bytes]:
    """Turns no node down and prefers none."""
    if asked.verb == "prioritize":
        return 200, b"[]"
    args = asked.args
    return 200, json.dumps({"NodeNames": args["NodeNames"], "Nodes": args["Nodes"]}).encode()


@dataclass(slots=True)
class Recorder:
    """What was asked so far; `answer` gives status and body."""

    port: int
    answer: Callable[[Asked], tuple[int, bytes]] = pass_all
    requests: list[Asked] = field(default_factory=list)

    def configured(self, **fields: object) -> JSON:
        """This extender in a KubeSchedulerConfiguration."""
        return {
            "urlPrefix": f"http://127.0.0.1:{self.port}/scheduler",
            "filterVerb": "filter",
            "prioritizeVerb": "prioritize",
            "weight": 30,
            "httpTimeout": "2s",
            "nodeCacheCapable": True,
            "ignorable": True,
            "managedResources": [{"name": "nvidia.com/mig-2g.20gb"}, {"name": "nvidia.com/gpu"}],
            **fields,
        }

    def about(self, pod: str, verb: str = "") -> list[Asked]:
        """Requests about a pod, in order."""
        return [a for a in self.requests if a.pod == pod and verb in ("", a.verb)]


@contextmanager
def recording() -> Iterator[Recorder]:
    """A recorder that listens on loopback."""
    recorder = Recorder(0)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            kind = self.headers.get("Content-Type", "")
            asked = Asked(self.command, self.path, kind, body)
            recorder.requests.append(asked)
            status, answer = recorder.answer(asked)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: Any) -> None:
            """Nothing: the test looks at the requests."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    recorder.port = server.server_port
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield recorder
    finally:
        server.shutdown()
        server.server_close()
