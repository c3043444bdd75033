"""`migfit doctor` as a command: formats, exit codes, wrong use; what it finds is tested elsewhere."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from extender.cli import main
from extender.core.doctor.finding import Id
from tests.cluster.apiserver import kubeconfig
from tests.deploy.manifests import SCHEDULERS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.build import JSON


def listed(*items: JSON) -> JSON:
    return {"metadata": {"resourceVersion": "1"}, "items": list(items)}


EMPTY = listed()
"""A cluster with nothing in it."""


class Answers(BaseHTTPRequestHandler):
    """An API server that answers the same for ever: by path, else an empty list."""

    by_path: Mapping[str, JSON] = {}

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        body = json.dumps(self.by_path.get(path, EMPTY)).encode()
        self.send_response(
            404
            if path not in self.by_path and path.rpartition("/")[2].startswith("migfit")
            else 200
        )
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def answering(tmp_path: Path, by_path: Mapping[str, JSON]) -> Iterator[Path]:
    """The kubeconfig of such a server."""
    known = {"/version": {"gitVersion": "v1.36.3"}, **by_path}
    handler = type("Known", (Answers,), {"by_path": known})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield kubeconfig(tmp_path, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def doctor(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        main, ["doctor", *map(str, words)], input=stdin, prog_name="migfit", catch_exceptions=False
    )


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Path]:
    with answering(tmp_path, {}) as found:
        yield found


def test_what_is_found_is_printed_as_a_table_with_what_why_and_what_to_do(empty: Path) -> None:
    result = doctor("--kubeconfig", empty)

    assert result.exit_code == 1
    assert result.stderr == ""
    blocks = result.stdout.strip().split("\n\n")
    assert blocks[0].splitlines()[0] == "error  WebhookMissing  MutatingWebhookConfiguration migfit"
    assert blocks[-1] == "2 errors, 1 warning, 0 info"
    for block in blocks[:-1]:
        head, what, why, remedy = block.splitlines()
        assert head.split()[1] in set(Id)
        assert what.startswith("  ")
        assert why.startswith("  ")
        assert remedy.startswith("  What to do: ")


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_the_same_is_printed_as_data(empty: Path, output: str) -> None:
    result = doctor("--kubeconfig", empty, "-o", output)

    found: Any = yaml.safe_load(result.stdout)
    assert result.exit_code == 1
    assert [each["id"] for each in found] == ["WebhookMissing", "ConfigMissing", "NoGpuNodes"]
    assert all(
        list(each) == ["id", "severity", "objects", "what", "why", "remedy"] for each in found
    )


def test_a_scheduler_configuration_is_taken_from_a_file_or_stdin(empty: Path) -> None:
    text = (SCHEDULERS / "default-scheduler.yaml").read_text().replace("/scheduler\n", "/\n")

    result = doctor("--kubeconfig", empty, "--scheduler-config", "-", "-o", "json", stdin=text)

    [found] = [each for each in json.loads(result.stdout) if each["id"] == "ExtenderMissing"]
    assert found["objects"] == ["stdin"]


@pytest.mark.parametrize("text", ["kind: ConfigMap", "- nothing", "a: [", ""])
def test_a_file_that_is_no_scheduler_configuration_is_wrong_use(empty: Path, text: str) -> None:
    result = doctor("--kubeconfig", empty, "--scheduler-config", "-", stdin=text)

    assert result.exit_code == 2
    assert result.stderr.startswith("migfit doctor: stdin ")


def test_a_kubeconfig_that_is_none_is_wrong_use(tmp_path: Path) -> None:
    result = doctor("--kubeconfig", tmp_path / "absent")

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


def test_a_cluster_out_of_reach_is_exit_code_3_and_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        result = doctor("--kubeconfig", kubeconfig(tmp_path, url))

    assert result.exit_code == 3
    [line] = result.stderr.splitlines()
    assert line.startswith("migfit doctor: cannot ask the cluster: ")
    assert line.endswith("; mend that, or give another --kubeconfig")


def test_an_api_server_that_answers_nonsense_is_a_finding_not_a_traceback(tmp_path: Path) -> None:
    paths = ["/api/v1/nodes", "/api/v1/pods", "/api/v1/namespaces", "/apis/apps/v1/daemonsets"]
    nonsense: dict[str, Any] = {path: ["a"] for path in paths}
    with answering(tmp_path, nonsense) as found:
        result = doctor("--kubeconfig", found, "-o", "json")

    unread = [each for each in json.loads(result.stdout) if each["id"] == "Unreadable"]
    assert [each["objects"] for each in unread] == [
        ["daemonsets"],
        ["namespaces"],
        ["nodes"],
        ["pods"],
    ]
