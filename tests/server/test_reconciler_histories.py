"""Whatever happens to pods, holds and replicas: what the reconciler never does."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from extender.cluster.errors import ApiError
from extender.cluster.reconcile import SETTLE_S
from tests.cluster.rewritten_pods import failed, rewritten, status, waiting
from tests.server.reconciling import HOLDS, WINDOW_S, World, crashed

if TYPE_CHECKING:
    from tests.build import JSON

OWNERS = ("Deployment", "StatefulSet", "Job", "Pod")
PODS = tuple(f"{owner.lower()}-{n}" for owner in OWNERS for n in range(3))
PASS_S = {"soon": 1.0, "later": 5.0, "settled": 11.0, "minute": 61.0, "window": WINDOW_S + 1}
ANSWERS = {"forbidden": 403, "gone": 404, "busy": 429, "broken": 500}
"""To the next deletion."""
happenings = st.lists(
    st.tuples(st.sampled_from(["crash", "crash", "run", "wait", "fail"]), st.sampled_from(PODS))
    | st.tuples(
        st.sampled_from([*PASS_S, "restart", "lift", "spoil", "refuse", *ANSWERS]), st.just("")
    ),
    max_size=40,
)


class History:
    """A world in which anything happens, and what was deleted in it when."""

    def __init__(self) -> None:
        self.world = World()
        self.written_at_s: dict[str, float] = {}
        self.deleted_at_s: dict[str, float] = {}

    @property
    def entries(self) -> dict[str, str]:
        data: dict[str, str] = self.world.shelf.objects.get(HOLDS, {}).get("data", {})
        return data

    async def happen(self, what: str, name: str) -> None:
        """Something happens, and the reconciler has its round."""
        if name:
            self._to_a_pod(what, name)
        elif what not in PASS_S:
            await self._to_us(what)
        done, before = len(self.world.shelf.deletions), dict(self.world.pods)
        with suppress(ApiError):
            await self.world.rounds(1, PASS_S.get(what, 0.5))
        self._note()
        for path, preconditions in self.world.shelf.deletions[done:]:
            tree = before[path.rpartition("/")[2]]
            assert preconditions["resourceVersion"] == tree["metadata"]["resourceVersion"]
            self._judge(tree)

    def _to_a_pod(self, what: str, name: str) -> None:
        owner = next(each for each in OWNERS if name.startswith(each.lower()))
        known = self.world.pods.get(name, {}).get("status", {}).get("containerStatuses") or [{}]
        restarts = known[0].get("restartCount", 0)
        running = [status(restarts)]
        made: dict[str, JSON] = {
            "crash": crashed(restarts + 1, name, owner),
            "run": rewritten(name, owner, containerStatuses=running),
            "wait": waiting(name, owner),
            "fail": failed(name, owner),
        }
        self.world.see(made[what])

    async def _to_us(self, what: str) -> None:
        if what == "restart":
            await self.world.replica.leadership.release()
            self.world.start()
        elif what == "refuse":
            self.world.shelf.refuse_deletions += 1
        elif what in ANSWERS:
            self.world.refuse_to_delete(ANSWERS[what], times=1)
        elif HOLDS in self.world.shelf.objects:
            if what == "lift":
                self.entries.clear()
            else:
                self.entries["bad"] = "{"
            self.world.watch_holds()

    def _note(self) -> None:
        for entry in self.entries:
            self.written_at_s.setdefault(entry, self.world.clock.now_s)
        self.written_at_s = {e: at_s for e, at_s in self.written_at_s.items() if e in self.entries}

    def _judge(self, tree: JSON) -> None:
        """A pod was deleted: it must come back whole by itself, and nothing may be lost with it."""
        now_s = self.world.clock.now_s
        (owner,) = tree["metadata"]["ownerReferences"]
        assert owner["kind"] in ("ReplicaSet", "StatefulSet")
        states = [each["state"] for each in tree["status"].get("containerStatuses") or []]
        assert not any("running" in each for each in states)
        kind = {"ReplicaSet": "Deployment"}.get(owner["kind"], owner["kind"])
        entry = f"speech.{kind}.asr"
        assert now_s - self.written_at_s[entry] >= SETTLE_S - 1
        if entry in self.deleted_at_s:
            assert now_s - self.deleted_at_s[entry] >= WINDOW_S - 1
        self.deleted_at_s[entry] = now_s


@given(happenings)
async def test_only_such_pods_are_deleted_as_come_back_whole_by_themselves_and_do_not_run(
    every: list[tuple[str, str]],
) -> None:
    history = History()

    for what, name in every:
        await history.happen(what, name)
