"""Rounds of the real kube-scheduler: pods that wait for slices, and what helps or hinders it."""

import copy
import os
import signal
import ssl
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import yaml

from bench._cluster import JSON
from bench._plane import Bindings, Creator, start_scheduler
from bench._requests import SLICE, gpu_pod
from bench._servers import serving
from tests.controlplane.migfit import SYSTEM_NAMESPACE, Migfit, a100_labels
from tests.controlplane.objects import fake_node, new_namespace
from tests.controlplane.plane import ControlPlane
from tests.controlplane.program import Program

NAMESPACE = "default"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"
SLICES: dict[str, int | str] = {SLICE: 24}
"""Of each node: eight A100 in three slices each."""
ROOM = {"cpu": "256", "memory": "1Ti", "pods": "110"}
"""Enough that only slices are scarce: a pod asks for 8 cores and 24 GiB."""
WORKLOADS = 20
PACED_PER_S = 40
SAMPLE = Path(__file__).parents[1] / "deploy" / "scheduler" / "second-scheduler.yaml"
CYCLE = "scheduler_scheduling_algorithm_duration_seconds"
_BOUND_S = 600.0


@dataclass(frozen=True, slots=True)
class Extender:
    """An extender that is running: where, and its process."""

    port: int
    pid: int


Start = Callable[[], AbstractContextManager[Extender | None]]


@dataclass(frozen=True, slots=True)
class Contender:
    """What the scheduler is run with."""

    name: str
    verbs: tuple[str, ...]
    start: Start


def nobody() -> AbstractContextManager[Extender | None]:
    """No extender."""
    return nullcontext(None)


def process_of(serve: Callable[[int], None]) -> Start:
    """An extender made for the benchmark, in a process of its own."""

    @contextmanager
    def start() -> Iterator[Extender]:
        with serving(serve) as running:
            yield Extender(running.port, running.pid)

    return start


class Production:
    """`migfit serve`, configured with the defaults; no webhook calls it."""

    def __init__(self, plane: ControlPlane, folder: Path) -> None:
        self._plane, self._folder = plane, folder
        new_namespace(plane.client, name=SYSTEM_NAMESPACE)
        Migfit(plane, folder, None).configure()

    @contextmanager
    def start(self) -> Iterator[Extender]:
        """A fresh process, ready; on fresh ports, since a run is long and others use the machine."""
        migfit = Migfit(self._plane, self._folder, None)
        migfit.start(flags=("--webhook-port", "0"))
        program = migfit.program
        assert program is not None
        try:
            yield Extender(migfit.ports.extender, program.pid)
        finally:
            program.kill()


def fill_nodes(plane: ControlPlane, creator: Creator, count: int) -> None:
    """So many nodes, all idle, in place of those that are there."""
    plane.client.delete_all("Node")
    creator.create_all(
        "/api/v1/nodes",
        [
            fake_node(f"gpu-node-{number:04}", allocatable=SLICES | ROOM, labels=a100_labels())
            for number in range(count)
        ],
    )


def _pods(prefix: str, count: int) -> list[JSON]:
    """Replicas of twenty services as the webhook leaves them, with nothing mounted."""
    template = gpu_pod(SLICE)
    template["metadata"]["labels"]["migfit.io/rewritten"] = "true"
    template["metadata"]["annotations"]["migfit.io/need"] = "10987Mi"
    template["spec"]["volumes"] = []
    template["spec"]["containers"][0]["volumeMounts"] = []
    found = []
    for number in range(count):
        pod = copy.deepcopy(template)
        meta = pod["metadata"]
        meta |= {"name": f"{prefix}-{number:05}", "namespace": NAMESPACE}
        meta["ownerReferences"][0]["name"] += f"-{number % WORKLOADS}"
        found.append(pod)
    return found


def configured(verbs: Sequence[str], extender: Extender | None) -> list[JSON]:
    """The `extenders` of the sample under deploy/, with these verbs and this address."""
    if extender is None:
        return []
    (sample,) = yaml.safe_load(SAMPLE.read_text())["extenders"]
    kept = {
        key: value
        for key, value in sample.items()
        if not key.endswith("Verb") or key.removesuffix("Verb") in verbs
    }
    return [kept | {"urlPrefix": f"http://127.0.0.1:{extender.port}/scheduler"}]


@dataclass(frozen=True, slots=True)
class Backlog:
    """How waiting pods were bound: the moments, in order, and what was done at which of them."""

    at_s: Sequence[float]
    acted_s: float
    mended_s: float
    cycle_ms: float
    """Mean time in which the scheduler found a pod its node, extenders included; binding is apart."""

    @property
    def per_s(self) -> float:
        """Pods per second from the first bound to the last."""
        return (len(self.at_s) - 1) / (self.at_s[-1] - self.at_s[0])

    def between(self, begin_s: float, end_s: float) -> float:
        """Pods per second in that time."""
        return sum(begin_s < at <= end_s for at in self.at_s) / max(1e-9, end_s - begin_s)

    def longest_gap_s(self, after_s: float) -> float:
        """The longest time without a pod bound, from then on."""
        later = [after_s, *(at for at in self.at_s if at > after_s)]
        return max((b - a for a, b in pairwise(later)), default=0.0)


Act = Callable[[Extender], float]
"""Does something to an extender when half of the pods are bound; gives when it was mended."""


def stop_for(seconds: float) -> Act:
    """SIGSTOP, and SIGCONT after so long."""

    def act(extender: Extender) -> float:
        os.kill(extender.pid, signal.SIGSTOP)
        try:
            time.sleep(seconds)  # how long it hangs is the fault
        finally:
            os.kill(extender.pid, signal.SIGCONT)
        return time.perf_counter()

    return act


def kill(extender: Extender) -> float:
    """SIGKILL, and nobody mends it."""
    os.kill(extender.pid, signal.SIGKILL)
    return float("inf")


class Rounds:
    """One plane, one size of cluster, any number of rounds."""

    def __init__(self, plane: ControlPlane, creator: Creator, pods: int) -> None:
        self._plane = plane
        self._creator = creator
        self._pods = pods

    def backlog(
        self, contender: Contender, paced_s: float, act: Act | None = None
    ) -> tuple[Backlog, list[float]]:
        """Let the scheduler bind pods that wait already, then some that come now and then.

        Returns:
            The first, and for each of the others the seconds from its creation until it was bound.
        """
        self._creator.create_all(PODS, _pods("waiting", self._pods))
        with contender.start() as extender:
            bindings = Bindings(self._plane, NAMESPACE)
            scheduler = start_scheduler(self._plane, configured(contender.verbs, extender))
            try:
                acted_s = mended_s = float("inf")
                if act is not None and extender is not None:
                    _enough(bindings, self._pods // 2)
                    acted_s = time.perf_counter()
                    mended_s = act(extender)
                _enough(bindings, self._pods)
                cycle_ms = 1000 * _mean_s(scheduler, self._plane, CYCLE)
                found = Backlog(sorted(bindings.at_s.values()), acted_s, mended_s, cycle_ms)
                return found, self._paced(bindings, paced_s)
            finally:
                scheduler.stop()
                bindings.close()
                self._plane.client.delete_all("Pod", NAMESPACE)

    def _paced(self, bindings: Bindings, for_s: float) -> list[float]:
        created_s = {}
        begun_s = time.perf_counter()
        pods = _pods("coming", int(for_s * PACED_PER_S))
        for number, pod in enumerate(pods):
            # Pods come at a pace, however long each takes.
            time.sleep(max(0.0, begun_s + number / PACED_PER_S - time.perf_counter()))
            created_s[pod["metadata"]["name"]] = time.perf_counter()
            self._creator.create(PODS, pod)
        _enough(bindings, self._pods + len(pods))
        return [bindings.at_s[name] - at_s for name, at_s in created_s.items()]


def _mean_s(scheduler: Program, plane: ControlPlane, metric: str) -> float:
    """The mean of a histogram without labels, from the scheduler's metrics."""
    tls = ssl.create_default_context(cafile=str(plane.ca_file))
    with urllib.request.urlopen(f"{scheduler.url}/metrics", context=tls, timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    told = dict(line.rsplit(" ", 1) for line in lines if line.startswith(metric))
    return float(told[f"{metric}_sum"]) / float(told[f"{metric}_count"])


def _enough(bindings: Bindings, count: int) -> None:
    if not bindings.wait(lambda at_s: len(at_s) >= count, _BOUND_S):
        raise SystemExit(f"only {len(bindings.at_s)} of {count} pods were bound in {_BOUND_S:g} s")
