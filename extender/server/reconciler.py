"""The reconciler: what became of pods after they were created, told and where it must be mended.

Every replica watches; only the one that holds the Lease tells, writes and deletes. Nothing here is on
the way of a request, and nothing that fails here ends the process.
"""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog

from extender.cluster.client import ApiClient
from extender.cluster.errors import ApiError, ClusterError
from extender.cluster.holds import Hold, Holds, HoldStore, Key, marked_deleted, rfc3339
from extender.cluster.leadership import Leadership
from extender.cluster.missed import Missed, since
from extender.cluster.reconcile import Doomed, can_be_held, known, new_holds, to_delete
from extender.cluster.rewritten import SELECTOR, Rewritten, Trouble, Watched
from extender.cluster.state import State
from extender.cluster.statuses import RewrittenPod
from extender.cluster.watch import Resource
from extender.core.finding import Finding, Found, Whose, audit_fields
from extender.core.policy import Policy
from extender.core.snapshot import Snapshot
from extender.server.events import Events
from extender.server.metrics import Metrics

log = structlog.get_logger(__name__)

REWRITTEN = Resource("rewritten-pods", "/api/v1/pods", RewrittenPod, SELECTOR)

ROUND_S = 1.0
MOST_MISSED = 50
"""Told in one round, each with an Event: an hour's outage must not flood the API server."""
PATIENCE_S = 10.0
"""A replica is not ready before it has read the holds, but for no longer than this: then it answers
that it cannot decide."""
_UNFIT = frozenset(
    {
        HTTPStatus.BAD_REQUEST,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
        HTTPStatus.UNPROCESSABLE_ENTITY,
    }
)
"""Answers to what we want to write, and not to when."""
_API_OF = {"Deployment": "apps/v1", "CronJob": "batch/v1", "Pod": "v1"}

Tell = Callable[[Mapping[str, Any]], None]


class Reconciler:
    """One in every process.

    Args:
        client: an entered one.
        namespace: ours: where Lease and holds are kept.
        state: the cluster as known.
        metrics: are fed.
        tell: takes an audit line.
        clock: seconds, monotonic.
        wall: seconds since the epoch.
    """

    def __init__(
        self,
        client: ApiClient,
        namespace: str,
        state: State,
        metrics: Metrics,
        tell: Tell,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client, self._state, self._metrics = client, state, metrics
        self._tell_audit, self._clock, self._wall = tell, clock, wall
        self._events = Events(client, metrics)
        self.leadership = Leadership(client, namespace, clock=clock, wall=wall)
        self.holds = Holds(wall, clock)
        self.store = HoldStore(client, namespace, self.holds)
        self.rewritten = Rewritten(clock, wall)
        self.missed = Missed()
        self._begun_s = clock()
        self._deleting: dict[Key, str] = {}
        """The pod, by uid, whose deletion was written down last and has not been done so far."""
        self._written_at_s: dict[Key, float] = {}
        """When we wrote the last one down, by our own clock; for a window."""
        self._since = ""
        self._said = ""
        state.held = state.holds = self.holds
        state.device_pods = self.missed
        metrics.observe_reconciler(held=lambda: len(self.holds), leads=lambda: self.leadership.held)

    @property
    def knows(self) -> bool:
        """Whether the holds were read; after a while we are ready without, and leave all pods."""
        return self.holds.synced or self._clock() - self._begun_s >= PATIENCE_S

    async def run(self) -> None:
        """A round every `ROUND_S`, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            try:
                await self.round()
                self._said = ""
            except ClusterError as error:
                if str(error) != self._said:
                    self._said = str(error)
                    log.warning("reconciler cannot do its work", error=self._said)
            except Exception:  # a defect here must not end the process: reviews go on
                log.exception("reconciler failed; it tries again")

    async def round(self) -> None:
        """Look at everything once, and do what is due.

        Raises:
            ClusterError: something could not be written; it is tried again in the next round.
        """
        if not (self.rewritten.pods.synced and self.holds.synced):
            return
        await self._look()
        snapshot, policy = self._state.snapshot(), self._state.policy
        if snapshot.stale:
            return
        troubles = self.rewritten.troubles(policy)
        for trouble in known(troubles, self.holds):
            self.rewritten.blame(trouble)
        leads = self.leadership.held
        self._show_unmet(leads=leads)
        if not leads:
            self._deleting.clear()  # whoever leads now may delete another pod instead
            self._since = ""
            return
        self._deleting = {key: uid for key, uid in self._deleting.items() if uid in self.rewritten}
        doomed = self._doomed(snapshot, policy)
        self._tell_missed()
        self._tell_unmet()
        found = new_holds(self._nameable(troubles), self.holds, policy, self._wall())
        refused = await _refused(self._hold(found))
        for each in doomed:
            refused = await _refused(self._recreate(each)) or refused
        if refused is not None:
            raise refused

    def _doomed(self, snapshot: Snapshot, policy: Policy) -> list[Doomed]:
        now_s, window_s = self._clock(), policy.backoff.window_s
        since_s = {key: now_s - at_s for key, at_s in self._written_at_s.items()}
        for key in [key for key, ago_s in since_s.items() if ago_s >= window_s]:
            del self._written_at_s[key]
        found = to_delete(
            self.rewritten,
            self.holds,
            snapshot,
            policy,
            wall_s=self._wall(),
            since_s=since_s,
            begun=self._deleting.values(),
        )
        return list(found)

    async def _look(self) -> None:
        """Look at pods a few at a time, and let answers to pods on their way come in between."""
        while not (snapshot := self._state.snapshot()).stale:
            if not self.missed.judge(snapshot, self._state.policy):
                break
            await asyncio.sleep(0)
        for watched in self.rewritten.to_look_at():
            if not (snapshot := self._state.snapshot()).stale:
                self.rewritten.look(watched, snapshot, self._state.policy)
                await asyncio.sleep(0)

    # --- telling ---------------------------------------------------------------------------------

    def _tell_missed(self) -> None:
        if not self._since:
            self._since = since(self.leadership.since, self.leadership.mark)
        for missed in self.missed.take(self._since, MOST_MISSED):
            self._metrics.missed.inc()
            message = "nobody decided on it: the webhook was out of reach when it was created"
            self._tell(Finding(Found.MISSED, missed.pod, message), missed.pod.uid)
        if self.missed.judged_until:
            self.leadership.mark = max(self.leadership.mark, self.missed.judged_until)

    def _show_unmet(self, *, leads: bool) -> None:
        slices: dict[str, int] = {}
        for watched in self.rewritten.unmet() if leads else ():
            for profile, (_, count) in zip(watched.profiles, watched.slices, strict=True):
                slices[profile] = slices.get(profile, 0) + count
        self._metrics.unmet.clear()
        for profile, count in slices.items():
            self._metrics.unmet.labels(profile).set(count)

    def _tell_unmet(self) -> None:
        for watched in self.rewritten.unmet():
            if not watched.told:
                watched.told = True
                message = f"waits for {', '.join(watched.profiles)}: none is free in its reach"
                finding = Finding(
                    Found.UNMET, watched.pod, message, profiles=tuple(watched.profiles)
                )
                self._tell(finding, watched.pod.uid)

    def _tell(self, finding: Finding, occasion: str) -> None:
        """Audit line and Event; the metric is counted by the caller."""
        revision = self._state.policy.revision
        self._tell_audit(audit_fields(finding, config_revision=revision))
        regarding = (
            _workload_of(finding.pod) if finding.found is Found.HELD else _itself(finding.pod)
        )
        action = "Recreate" if finding.deleted else "Reconcile"
        self._events.warn(regarding, occasion, str(finding.reason), finding.message, action)

    # --- mending ---------------------------------------------------------------------------------

    def _nameable(self, troubles: Sequence[Trouble]) -> list[Trouble]:
        """Those whose workload can be held back; of the others the log tells, and that is all."""
        others = [trouble for trouble in troubles if not can_be_held(trouble)]
        if others:
            pod = others[0].watched.pod
            log.warning(
                "not held back: the owner's kind or name is longer than any can be",
                pods=len(others),
                namespace=pod.namespace,
                pod=pod.name,
            )
        for trouble in others:
            self.rewritten.blame(trouble)
        return [trouble for trouble in troubles if can_be_held(trouble)]

    async def _hold(self, found: list[tuple[Trouble, Hold]]) -> None:
        """Write holds down, one by one where one of them spoils them all."""
        try:
            await self._write(found)
        except ApiError as error:
            if error.status not in _UNFIT or len(found) == 1:
                raise
        else:
            return
        refused = None
        for each in found:
            refused = await _refused(self._write([each])) or refused
        if refused is not None:
            raise refused

    async def _write(self, found: list[tuple[Trouble, Hold]]) -> None:
        if not found or not self.leadership.held:
            return
        holds = [hold for _, hold in found]
        if not await self.store.write(holds, self.leadership.identity):
            return  # somebody has changed them; the next round sees what
        for trouble, hold in found:
            if hold.key not in self.holds:
                continue  # of very many at once not all have room
            self.rewritten.blame(trouble)
            self._metrics.holds.labels(str(hold.cause)).inc()
            self._tell(_held(trouble.watched, hold, hold.why), _occasion(hold.since_s))
            log.info("workload held back", namespace=hold.namespace, workload=hold.key[1])

    async def _recreate(self, doomed: Doomed) -> None:
        """Delete one pod, if it is still the one we know, in the version in which it did not run.

        That it is done is written down first: whoever takes over does not do it again. Meanwhile the
        pod may run again, and somebody may lift the hold.
        """
        watched, hold = doomed.watched, doomed.hold
        pod, now_s = watched.pod, self._wall()
        if not doomed.as_seen() or self.holds.get_hold(hold.key) != hold:
            return
        if not await self.store.write([marked_deleted(hold, now_s)], self.leadership.identity):
            return
        self._deleting[hold.key] = pod.uid
        self._written_at_s[hold.key] = self._clock()
        if not (self.leadership.held and doomed.as_seen() and hold.key in self.holds):
            return
        preconditions = {"uid": pod.uid, "resourceVersion": doomed.version}
        body = {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": preconditions}
        path = f"/api/v1/namespaces/{pod.namespace}/pods/{pod.name}"
        try:
            await self._client.request("DELETE", path, json.dumps(body).encode())
        except ApiError as error:
            if error.status == HTTPStatus.CONFLICT:
                return  # it has changed: the next round sees whether it still does not run
            if error.status in (HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND):
                del self._deleting[hold.key]
            if error.status == HTTPStatus.FORBIDDEN and hold.key in self.holds:
                await self.store.write([hold], self.leadership.identity)  # nothing was deleted
            if error.status != HTTPStatus.NOT_FOUND:
                raise
            return
        del self._deleting[hold.key]
        self._metrics.recreated.inc()
        message = f"pod {pod.name} deleted, to come back whole: {hold.why}"
        self._tell(_held(watched, hold, message, deleted=True), f"{_occasion(now_s)}.deleted")
        log.info("pod deleted", namespace=pod.namespace, pod=pod.name)


async def _refused(step: Awaitable[None]) -> ApiError | None:
    """Take a step: what the API server refuses about one workload must not hold up the others."""
    try:
        await step
    except ApiError as error:
        return error
    return None


def _held(watched: Watched, hold: Hold, message: str, *, deleted: bool = False) -> Finding:
    until = rfc3339(hold.until_s)
    return Finding(
        Found.HELD,
        watched.pod,
        message if deleted else f"runs whole until {until}: {message}",
        cause=hold.cause,
        profiles=tuple(watched.profiles),
        until=until,
        deleted=deleted,
    )


def _occasion(time_s: float) -> str:
    return f"{int(time_s):x}"


def _itself(pod: Whose) -> dict[str, str]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": pod.namespace,
        "name": pod.name,
        "uid": pod.uid,
    }


def _workload_of(pod: Whose) -> dict[str, str]:
    """The workload, with its uid where the pod tells it: of a Deployment it tells the ReplicaSet's."""
    workload, controller = pod.workload, pod.controller
    regarding = {"namespace": pod.namespace, "kind": workload.kind, "name": workload.name}
    if (workload.kind, workload.name) == (controller.kind, controller.name):
        return regarding | {"apiVersion": controller.api_version, "uid": controller.uid}
    if workload.kind == "Pod":
        return _itself(pod)
    return regarding | {"apiVersion": _API_OF.get(workload.kind, controller.api_version)}
