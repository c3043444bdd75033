"""The real kube-scheduler in place of a policy of the simulator: it is asked for every pod.

The simulator keeps the time, the load and the choice of the GPU inside a node; pods and nodes are
objects of a real API server, and the node is the one that the scheduler binds the pod to.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager

from bench._cluster import JSON
from bench._packing_policies import DEFAULT, OURS, STOCK, WEIGHT, Policy, View
from bench._packing_stream import CPU_ONLY
from bench._plane import Bindings, Creator, start_scheduler
from bench._scheduling import NAMESPACE, PODS, Production, Start, configured, nobody
from tests.controlplane.plane import ControlPlane

BOUND_S = 60.0
"""Longer than a scheduler takes that has a node for the pod: the simulator knows one."""
PACKING = "packing"
"""Name of the profile for pods with GPUs."""
CHOSEN = 1
"""What the node that the scheduler bound the pod to gets, and all others do not."""
MA_CPU_MIG = STOCK[1]


class BoundElsewhereError(RuntimeError):
    """The scheduler bound a pod where the simulator has no room for it."""


class Scheduler(Policy):
    """A running kube-scheduler, and what the simulator does carried out on its API server."""

    def __init__(
        self, view: View, creator: Creator, bindings: Bindings, scheduler_name: str
    ) -> None:
        super().__init__(view)
        self._creator, self._bindings, self._name = creator, bindings, scheduler_name
        self._resources = [kind.resource for kind in view.cluster.kinds]
        self._places = [place.name for place in view.cluster.places]
        self._created = 0
        self._running: dict[tuple[int, int, int], list[str]] = {}
        """(node, kind, cores) -> its pods: nothing else tells one from another."""

    def points(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        return self._bind(kind, cores, nodes, self._name)

    def plain(self, kind: int, cores: int, nodes: Sequence[int]) -> list[int]:
        return self._bind(kind, cores, nodes, "default-scheduler")

    def _bind(self, kind: int, cores: int, nodes: Sequence[int], scheduler: str) -> list[int]:
        self._created += 1
        name = f"pod-{self._created:06}"
        resource = "" if kind == CPU_ONLY else self._resources[kind]
        self._creator.create(PODS, _pod(name, resource, cores, scheduler))
        if not self._bindings.wait(lambda at_s: name in at_s, BOUND_S):
            raise SystemExit(f"{name} was not bound in {BOUND_S:g} s")
        bound = self._places.index(self._bindings.node[name])
        if bound not in nodes:
            raise BoundElsewhereError(f"{name} was bound to {self._places[bound]}")
        self._running.setdefault((bound, kind, cores), []).append(name)
        return [CHOSEN * (node == bound) for node in nodes]

    def changed(self, node: int, kind: int, cores: int, sign: int) -> None:
        if sign < 0:
            self._creator.delete(f"{PODS}/{self._running[node, kind, cores].pop()}")


def _pod(name: str, resource: str, cores: int, scheduler: str) -> JSON:
    asked = {"cpu": str(cores)} | ({resource: "1"} if resource else {})
    container = {"name": "main", "image": "registry.invalid/model:1"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "labels": {"migfit.io/rewritten": "true"},
            "annotations": {"migfit.io/need": "4000Mi"},
        },
        "spec": {
            "schedulerName": scheduler,
            "containers": [{**container, "resources": {"limits": asked, "requests": asked}}],
        },
    }


def _most_allocated(resources: Sequence[str]) -> JSON:
    """A profile that packs by these resources, as people write it."""
    strategy = {
        "type": "MostAllocated",
        "resources": [{"name": name, "weight": 1} for name in resources],
    }
    fit = {"name": "NodeResourcesFit", "args": {"scoringStrategy": strategy}}
    return {"schedulerName": PACKING, "pluginConfig": [fit]}


@contextmanager
def scheduling(
    plane: ControlPlane,
    production: Production,
    policy: str,
    resources: Sequence[str],
    weight: int = WEIGHT,
) -> Iterator[Callable[[View], Scheduler]]:
    """A scheduler that is set up as the policy of that name says; it begins with the view's nodes.

    Args:
        plane: without nodes and pods.
        production: our extender.
        policy: one of `REAL`.
        resources: MIG resources of the cluster.
        weight: of our extender.
    """
    start: Start = production.start if policy == OURS else nobody
    packed = _most_allocated(["cpu", *resources])
    profiles = [{"schedulerName": "default-scheduler"}, *([packed] if policy == MA_CPU_MIG else [])]
    with start() as extender, closing(Creator(plane)) as creator:
        bindings = Bindings(plane, NAMESPACE)
        extenders = [
            each | {"weight": weight} for each in configured(("filter", "prioritize"), extender)
        ]
        scheduler = start_scheduler(plane, extenders, profiles=profiles)

        def begin(view: View) -> Scheduler:
            manifests = [dict(place.manifest) for place in view.cluster.places]
            creator.create_all("/api/v1/nodes", manifests)
            return Scheduler(view, creator, bindings, str(profiles[-1]["schedulerName"]))

        try:
            yield begin
        finally:
            scheduler.stop()
            bindings.close()
            plane.client.delete_all("Pod", NAMESPACE)
            plane.client.delete_all("Node")


REAL = (DEFAULT, MA_CPU_MIG, OURS)
"""Policies that a real scheduler can be set up for."""
