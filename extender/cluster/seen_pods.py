"""Which workload used how much: what agents tell of pods, brought together with the pods we know."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from extender.core.observed import Peak

Pod = tuple[str, str]
"""(namespace, name)."""


@dataclass(frozen=True, slots=True)
class PodPeak:
    """The most that one container of a pod was seen to use."""

    namespace: str
    pod: str
    container: str
    mib: int
    preallocates: bool


class SeenPods:
    """Peaks by workload. Is told of pods with GPUs, and by agents of what they use."""

    def __init__(self) -> None:
        self._workload: dict[str, tuple[str, Pod]] = {}
        """uid -> workload, pod."""
        self._pods: dict[str, dict[Pod, int]] = {}
        """Workload -> its pods, each with how many uids go by that name."""
        self._peaks: dict[Pod, dict[str, tuple[PodPeak, ...]]] = {}
        """Pod -> node -> what was seen there."""
        self._on: dict[str, set[Pod]] = {}
        """Node -> pods that its agent tells of."""

    def put(self, uid: str, workload: str, namespace: str, name: str) -> None:
        """A pod that holds GPUs or slices is there."""
        self.drop(uid)
        pod = (namespace, name)
        self._workload[uid] = (workload, pod)
        pods = self._pods.setdefault(workload, {})
        pods[pod] = pods.get(pod, 0) + 1

    def drop(self, uid: str) -> None:
        """It is gone, or holds nothing any more."""
        if uid not in self._workload:
            return
        workload, pod = self._workload.pop(uid)
        pods = self._pods[workload]
        pods[pod] -= 1
        if not pods[pod]:
            del pods[pod]
        if not pods:
            del self._pods[workload]

    def tell(self, node: str, peaks: Iterable[PodPeak]) -> None:
        """All that an agent tells now, in place of what it told before."""
        for pod in self._on.pop(node, ()):
            del self._peaks[pod][node]
            if not self._peaks[pod]:
                del self._peaks[pod]
        for peak in peaks:
            pod = (peak.namespace, peak.pod)
            of_pod = self._peaks.setdefault(pod, {})
            of_pod[node] = (*of_pod.get(node, ()), peak)
            self._on.setdefault(node, set()).add(pod)

    def of(self, workload: str) -> Mapping[str, Peak]:
        """Container -> peak over all pods of a workload `namespace/Kind/name` that were seen."""
        found: dict[str, list[PodPeak]] = {}
        for pod in self._pods.get(workload, ()):
            for peaks in self._peaks.get(pod, {}).values():
                for peak in peaks:
                    found.setdefault(peak.container, []).append(peak)
        return {
            container: Peak(
                mib=max(peak.mib for peak in peaks),
                pods=len({peak.pod for peak in peaks}),
                preallocates=any(peak.preallocates for peak in peaks),
            )
            for container, peaks in found.items()
        }
