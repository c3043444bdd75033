"""The command lines and files that a control plane on loopback needs, as plain values."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from tests.controlplane.client import JSON
    from tests.controlplane.pki import Pair

    Flags = list[str]

# ServiceAccount wants a controller to make the account `default` in each namespace.
# TaintNodesByCondition taints each new node not-ready until a controller takes that away.
WITHOUT_ADMISSION = ("ServiceAccount", "TaintNodesByCondition")

AUDIT_POLICY: JSON = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        # What the API server does by itself would be most of the log.
        {"level": "None", "users": ["system:apiserver"]},
        {"level": "None", "nonResourceURLs": ["*"]},
        {"level": "RequestResponse", "resources": [{"group": "", "resources": ["pods"]}]},
        {"level": "Metadata"},
    ],
}


def etcd(data: Path, client_url: str, peer_url: str) -> Flags:
    """Flags of a single etcd that never waits for the disk: its data does not outlive the test."""
    return [
        f"--data-dir={data}",
        "--name=test",
        f"--listen-client-urls={client_url}",
        f"--advertise-client-urls={client_url}",
        f"--listen-peer-urls={peer_url}",
        f"--initial-advertise-peer-urls={peer_url}",
        f"--initial-cluster=test={peer_url}",
        "--unsafe-no-fsync",
        "--log-level=warn",
    ]


def serving(port: int, server: Pair) -> Flags:
    """Flags that kube-apiserver, kube-scheduler and kube-controller-manager share."""
    return [
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        f"--tls-cert-file={server.certificate}",
        f"--tls-private-key-file={server.key}",
    ]


def apiserver(
    etcd_url: str, url: str, ca_file: Path, account_key: Path, enable_admission: Iterable[str]
) -> Flags:
    """Flags of an API server with RBAC; it needs no network card and no controllers."""
    enabled = sorted(enable_admission)
    disabled = [name for name in WITHOUT_ADMISSION if name not in enabled]
    return [
        f"--etcd-servers={etcd_url}",
        "--advertise-address=127.0.0.1",
        "--endpoint-reconciler-type=none",
        # It calls a Service's endpoints, for want of somebody who routes the Service's address.
        "--enable-aggregator-routing=true",
        f"--client-ca-file={ca_file}",
        f"--service-account-issuer={url}",
        f"--service-account-key-file={account_key}",
        f"--service-account-signing-key-file={account_key}",
        "--service-cluster-ip-range=10.0.0.0/24",
        "--authorization-mode=RBAC",
        "--allow-privileged=true",
        f"--disable-admission-plugins={','.join(disabled)}",
        f"--enable-admission-plugins={','.join(enabled)}",
    ]


def audit(policy: Path, log: Path) -> Flags:
    """Flags that make the API server write one JSON line per request, in one file, at once."""
    return [
        f"--audit-policy-file={policy}",
        f"--audit-log-path={log}",
        "--audit-log-mode=blocking",
        "--audit-log-maxsize=10000",  # MB
    ]


def scheduler_configuration(
    kubeconfig: Path, profiles: Sequence[JSON], extenders: Sequence[JSON]
) -> JSON:
    """A KubeSchedulerConfiguration that sees every node and retries soon."""
    return {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "leaderElection": {"leaderElect": False},
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 500, "burst": 1000},
        "percentageOfNodesToScore": 100,
        "podInitialBackoffSeconds": 1,
        "podMaxBackoffSeconds": 2,
        "profiles": list(profiles),
        "extenders": list(extenders),
    }


def kubeconfig(url: str, ca_file: Path, user: Mapping[str, str]) -> JSON:
    """A kubeconfig with one context; `user` is its `users[0].user`."""
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": "plane", "cluster": {"server": url, "certificate-authority": str(ca_file)}}
        ],
        "users": [{"name": "user", "user": dict(user)}],
        "contexts": [{"name": "plane", "context": {"cluster": "plane", "user": "user"}}],
        "current-context": "plane",
    }
