from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from click.testing import CliRunner, Result

from extender.admission.review import Reviewer
from extender.cli import main
from extender.cli.explain import LOCAL_FIELDS
from extender.cluster.inventory import inventory
from extender.config import LEAST_DOCUMENT, load
from extender.core.decision import Decision
from extender.core.defaulting import defaulted
from extender.core.render import audit_fields
from tests.cli.random_pods import CONFIG, JSON, cluster, pods

if TYPE_CHECKING:
    from pathlib import Path

TEMPLATE: JSON = {
    "metadata": {"annotations": {"migfit.io/gpu-memory": "9.6G"}},
    "spec": {
        "containers": [{"name": "main", "resources": {"limits": {"nvidia.com/gpu": 1}}}],
        "tolerations": [{"operator": "Exists"}],
    },
}
POD: JSON = {
    "kind": "Pod",
    **TEMPLATE,
    "metadata": {"name": "asr", "namespace": "speech", **TEMPLATE["metadata"]},
}


@pytest.fixture
def nodes(tmp_path: Path) -> Path:
    path = tmp_path / "cluster.json"
    path.write_text(json.dumps({"kind": "List", "items": cluster()}))
    return path


def explain(*words: object, stdin: str | None = None) -> Result:
    return CliRunner().invoke(
        main, ["explain", *map(str, words)], input=stdin, prog_name="migfit", catch_exceptions=False
    )


def explained(nodes: Path, *manifests: JSON, options: tuple[object, ...] = ()) -> list[JSON]:
    text = yaml.safe_dump_all(manifests)
    result = explain("-f", "-", "--cluster", nodes, "-o", "json", *options, stdin=text)
    assert result.exit_code == 0, result.stderr
    found: list[JSON] = json.loads(result.stdout)
    return found


def workload(kind: str, *path: str) -> JSON:
    spec: Any = {"template": TEMPLATE}
    for member in reversed(path):
        spec = {member: {"spec": spec}}
    return {"kind": kind, "metadata": {"name": "asr", "namespace": "speech"}, "spec": spec}


@pytest.mark.parametrize(
    ("manifest", "reason"),
    [
        (POD, "Fits"),
        (workload("Deployment"), "Fits"),
        (workload("ReplicaSet"), "Fits"),
        (workload("StatefulSet"), "Fits"),
        (workload("Job"), "Fits"),
        (workload("CronJob", "jobTemplate"), "Fits"),
        (workload("DaemonSet"), "DaemonSet"),
    ],
    ids=lambda value: value["kind"] if isinstance(value, dict) else "",
)
def test_the_pods_of_every_workload_are_found(nodes: Path, manifest: JSON, reason: str) -> None:
    [found] = explained(nodes, manifest)

    assert found["reason"] == reason
    assert found["workload"] == {"kind": manifest["kind"], "name": "asr"}
    assert found["namespace"] == "speech"


def test_lists_and_several_documents_are_looked_into_and_other_kinds_passed_over(
    nodes: Path,
) -> None:
    service = {"kind": "Service", "metadata": {"name": "asr"}}
    listed = {"kind": "List", "items": [service, workload("Job"), {"kind": "List", "items": [POD]}]}

    found = explained(nodes, service, listed, workload("StatefulSet"))

    assert [each["workload"]["kind"] for each in found] == ["Job", "Pod", "StatefulSet"]


def test_raw_lists_of_the_api_do_not_say_the_kind_of_their_items(tmp_path: Path) -> None:
    bare = [{key: value for key, value in item.items() if key != "kind"} for item in cluster()[:1]]
    path = tmp_path / "nodes.json"
    path.write_text(json.dumps({"kind": "NodeList", "items": bare}))
    pod = {key: value for key, value in POD.items() if key != "kind"}

    [found] = explained(path, {"kind": "PodList", "items": [pod]})

    assert found["reason"] == "Fits"


def test_a_manifest_is_defaulted_as_the_api_server_would(nodes: Path) -> None:
    written_out: JSON = json.loads(json.dumps(POD))
    written_out["spec"]["schedulerName"] = "default-scheduler"
    written_out["spec"]["containers"][0]["resources"] = {
        "limits": {"nvidia.com/gpu": "1"},
        "requests": {"nvidia.com/gpu": "1"},
    }

    short, long = explained(nodes, POD, written_out)

    assert short == long


def test_json_is_an_array_with_the_fields_of_the_audit_line_that_are_not_of_a_request(
    nodes: Path,
) -> None:
    nothing = Decision(action="", reason="", message="")  # type: ignore[arg-type]
    line = audit_fields(nothing, dry_run=False, user="", age_s=0, duration_s=0)

    [found] = explained(nodes, POD)

    assert LOCAL_FIELDS == ("time", "id", "user", "durationMs")
    assert set(found) == (set(line) | {"time"}) - set(LOCAL_FIELDS)


def test_yaml_says_the_same_as_json(nodes: Path) -> None:
    text = json.dumps(POD)

    result = explain("-f", "-", "--cluster", nodes, "-o", "yaml", stdin=text)

    assert yaml.safe_load(result.stdout) == explained(nodes, POD)


def test_the_table_tells_what_becomes_of_the_pod_and_why(nodes: Path) -> None:
    result = explain("-f", "-", "--cluster", nodes, stdin=json.dumps(POD))

    assert result.stdout == (
        """\
Pod speech/asr: rewritten, Fits
  need 10987Mi fits mig-2g.20gb, 19968Mi usable
  The smallest profile that holds the need has a free slice; the pod asks for it now.

  CONTAINER   ASKS FOR         GETS                     FOOTPRINT   SAID BY
  main        nvidia.com/gpu   nvidia.com/mig-2g.20gb   9.6G        annotation

  need 10987Mi, headroom included
  CANDIDATE                   USABLE    FREE   VERDICT
  nvidia.com/mig-1g.10gb      9728Mi      10   too-small
  nvidia.com/mig-1g.10gb.me   9984Mi       1   special
  nvidia.com/mig-2g.20gb      19968Mi      2   chosen
  nvidia.com/mig-3g.40gb      40192Mi      1   fits
"""
    )


def test_a_pod_that_is_left_is_told_what_to_do(nodes: Path) -> None:
    plain: JSON = {**POD, "metadata": {"name": "asr"}}

    result = explain("-f", "-", "--cluster", nodes, "-n", "speech", stdin=json.dumps(plain))

    assert result.exit_code == 0
    assert result.stdout.startswith("Pod speech/asr: left, NoFootprint\n")
    assert "What to do: Annotate `migfit.io/gpu-memory: 9.6G`" in result.stdout


def test_bytes_on_stdin_that_are_no_text_get_one_line(nodes: Path) -> None:
    program = [sys.executable, "-m", "extender.cli", "explain", "-f-", f"--cluster={nodes}"]

    done = subprocess.run(
        program,
        input=b"\xff\xfe",
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
    )

    assert (done.returncode, done.stdout) == (2, b"")
    [line] = done.stderr.decode().splitlines()
    assert line.endswith(
        "explain: stdin cannot be read: it is not UTF-8 text; give a readable file, or - for stdin"
    )


@pytest.mark.parametrize(
    ("manifest", "why"),
    [
        ("", "stdin is no list of Kubernetes objects"),
        ("hello", "stdin is no list of Kubernetes objects"),
        ("a: b", "stdin is no list of Kubernetes objects"),
        ('{"kind": "List", "items": [3]}', "stdin is no list of Kubernetes objects"),
        (
            "a: [",
            "stdin is neither JSON nor YAML: line 2: did not find expected node content; give",
        ),
        ("[" * 100_000, "nests deeper than 200 levels"),
        ("a: &a [*a]", "Circular reference"),
        (
            '{"kind": "Pod"',
            "stdin is neither JSON nor YAML: line 2: did not find expected ',' or '}'",
        ),
        ('{"a": ' * 100_000, "nests deeper than 200 levels"),
        ('{"a": [[[5]]]}', "stdin is no list of Kubernetes objects"),
        ("kind: Service", "holds no pod: give a Pod, or one of Deployment,"),
        (
            "{kind: Pod, metadata: {annotations: {migfit.io/min-compute: 2}}}",
            "annotations, migfit.io/min-compute: 2 is no text; write it in quotes",
        ),
        (
            "kind: Pod\nmetadata: {labels: {debug: yes}}",
            "labels, debug: True is no text; write it in quotes",
        ),
    ],
)
def test_a_bad_manifest_gets_one_line(nodes: Path, manifest: str, why: str) -> None:
    result = explain("-f", "-", "--cluster", nodes, stdin=manifest)

    assert result.exit_code == 2
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith("migfit explain: ")
    assert why in line


@pytest.mark.parametrize(
    ("contents", "why"),
    [
        (None, "cannot be read: No such file or directory; give a readable file, or - for stdin"),
        (b"\xff\xfe", "cannot be read: it is not UTF-8 text"),
        (b"kind: Pod", "holds no Node: give the output of `kubectl get nodes,pods,"),
        (b"a: [", "line 2: did not find expected node content; give the output of `kubectl get"),
        (b"", "is no list of Kubernetes objects: give the output of `kubectl get nodes,pods,"),
        (b"kind: Node\nmetadata: {name: 5}", "give what kubectl printed, unchanged"),
    ],
)
def test_a_bad_cluster_file_gets_one_line(tmp_path: Path, contents: bytes | None, why: str) -> None:
    path = tmp_path / "cluster"
    if contents is not None:
        path.write_bytes(contents)

    result = explain("-f", "-", "--cluster", path, stdin=json.dumps(POD))

    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert line.startswith("migfit explain: ")
    assert why in line


def test_stdin_is_read_for_one_thing_only(nodes: Path) -> None:
    result = explain("-f", "-", "--cluster", "-", stdin=json.dumps(POD))

    assert result.exit_code == 2
    assert result.stderr == (
        "migfit explain: stdin can be read once: give a file in place of all - but one\n"
    )


def test_the_cluster_can_come_from_stdin(nodes: Path, tmp_path: Path) -> None:
    pod = tmp_path / "pod.yaml"
    pod.write_text(yaml.safe_dump(POD))

    result = explain("-f", pod, "--cluster", "-", stdin=nodes.read_text())

    assert result.exit_code == 0
    assert "rewritten, Fits" in result.stdout


def test_a_given_configuration_is_decided_by(nodes: Path, tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text("apiVersion: migfit.io/v1alpha1\nkind: MigfitConfiguration\nheadroom: 150%\n")

    [found] = explained(nodes, POD, options=("--config", path))

    assert found["profile"] == "3g.40gb"


def test_every_problem_of_a_bad_configuration_is_a_line_with_its_path(
    nodes: Path, tmp_path: Path
) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(
        "apiVersion: migfit.io/v1alpha1\nkind: MigfitConfiguration\nheadroom: much\nmode: On\n"
    )

    result = explain("-f", "-", "--cluster", nodes, "--config", path, stdin=json.dumps(POD))

    assert result.exit_code == 2
    lines = result.stderr.splitlines()
    assert [line.partition(f"migfit explain: {path}: ")[2].partition(":")[0] for line in lines] == [
        "headroom",
        "mode",
    ]


def test_a_cluster_out_of_reach_is_exit_code_3(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "c",
                "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
                # Port 1 of loopback: nobody listens there, so the answer is at once.
                "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:1"}}],
                "users": [{"name": "u", "user": {"token": "t"}}],
            }
        )
    )

    result = explain("-f", "-", "--kubeconfig", kubeconfig, stdin=json.dumps(POD))

    assert result.exit_code == 3
    [line] = result.stderr.splitlines()
    assert line.startswith("migfit explain: cannot ask the cluster: GET /api/v1/")
    assert line.endswith("; mend that, or give a file with --cluster")


def test_a_kubeconfig_that_is_not_there_is_wrong_use(tmp_path: Path) -> None:
    result = explain("-f", "-", "--kubeconfig", tmp_path / "none", stdin=json.dumps(POD))

    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_names_cannot_steer_the_terminal(nodes: Path, output: str) -> None:
    pod: JSON = json.loads(json.dumps(POD))
    pod["spec"]["containers"][0]["name"] = "\x1b[31m\x9b2Jred\ud800"

    result = explain("-f", "-", "--cluster", nodes, "-o", output, stdin=json.dumps(pod))

    assert result.exit_code == 0
    assert "red" in result.stdout
    assert not {"\x1b", "\x9b"} & set(result.stdout)


def test_as_a_program_it_prints_no_colour_into_a_pipe(nodes: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "extender.cli", "explain", "-f", "-", "--cluster", nodes],
        input=json.dumps(POD),
        capture_output=True,
        text=True,
        check=True,
    )

    assert "rewritten, Fits" in done.stdout
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_explain_and_the_webhook_decide_alike_on_a_thousand_random_pods(
    nodes: Path, tmp_path: Path
) -> None:
    every = pods(1000)
    config = tmp_path / "config.yaml"
    config.write_text(CONFIG)
    policy = load(CONFIG)
    state = inventory(cluster(), policy, lambda: 0.0)
    reviewer = Reviewer(
        snapshot=state.snapshot, policy=lambda: policy, reserve=lambda _: None, clock=lambda: 0.0
    )

    text = json.dumps({"kind": "List", "items": every})
    result = explain("-f", "-", "--cluster", nodes, "--config", config, "-o", "json", stdin=text)
    told = json.loads(result.stdout)
    decided = [
        {key: value for key, value in audit.items() if key not in LOCAL_FIELDS}
        for audit in (reviewer.review(_review(pod)).audit() for pod in every)
    ]

    assert told == decided
    reasons = {each["reason"] for each in told}
    assert len(reasons) >= 25, reasons


def _review(pod: JSON) -> bytes:
    request = {
        "uid": pod["metadata"]["name"],
        "kind": {"group": "", "version": "v1", "kind": "Pod"},
        "operation": "CREATE",
        "namespace": pod["metadata"].get("namespace", "default"),
        "object": defaulted(pod),
    }
    return json.dumps(
        {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "request": request}
    ).encode()


def seen(peak_mib: int, **fields: Any) -> list[JSON]:
    """A bound pod of the Deployment `asr`, and what its node's agent tells of it."""
    running: JSON = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "asr-5f6b-x",
            "namespace": "speech",
            "uid": "1",
            "labels": {"pod-template-hash": "5f6b"},
            "ownerReferences": [{"kind": "ReplicaSet", "name": "asr-5f6b", "controller": True}],
        },
        "spec": {**TEMPLATE["spec"], "nodeName": "gpu-0"},
    }
    holder = {"namespace": "speech", "pod": "asr-5f6b-x", "containers": ["main"], **fields}
    gpu = {"mig": False, "slices": [], "holders": [{**holder, "peakMiB": peak_mib}]}
    told = {
        "kind": "GpuNode",
        "metadata": {"name": "gpu-0"},
        "status": {"heartbeatTime": "2026-01-01T00:00:00Z", "gpus": [gpu]},
    }
    return [running, told]


def pictured(tmp_path: Path, items: list[JSON], *options: object) -> str:
    path = tmp_path / "seen.json"
    path.write_text(json.dumps({"kind": "List", "items": [*cluster(), *items]}))
    text = yaml.safe_dump(workload("Deployment"))
    result = explain("-f", "-", "--cluster", path, *options, stdin=text)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_what_was_seen_of_the_workload_stands_beside_what_is_declared(tmp_path: Path) -> None:
    assert "SEEN TO USE" not in pictured(tmp_path, [])
    assert "annotation   9604Mi in 1 pod\n" in pictured(tmp_path, seen(9604))

    reserved = pictured(tmp_path, seen(74_000, preallocates=True))
    assert "74000Mi in 1 pod, reserved ahead: no need" in reserved


def test_what_was_seen_raises_the_footprint_where_the_configuration_says_so(tmp_path: Path) -> None:
    raising = tmp_path / "raising.yaml"
    raising.write_text(f"{LEAST_DOCUMENT}\nobserved: {{raise: true}}\n")

    found = pictured(tmp_path, seen(12_000), "--config", raising)

    assert "15000Mi" in found
    assert "observed" in found
    assert "9.6G" in pictured(tmp_path, seen(12_000))
