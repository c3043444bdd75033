"""What is kept of decisions in flight, of pods whose names nobody has looked at yet."""

from extender.core.decide import decide
from extender.core.quota import Share
from extender.core.reason import Action
from tests.build import UID, changed, container, pod, state

LONG = "x" * 100_000


def test_of_a_decision_in_flight_no_name_is_kept_however_long() -> None:
    tree = changed(pod(container(LONG)), "metadata", "generateName", to=LONG)
    tree["metadata"]["ownerReferences"][0]["name"] = LONG
    cluster = state()
    decision = decide(tree, cluster.snapshot(), cluster.policy, request_id=UID)
    assert decision.action is Action.REWRITTEN
    assert LONG in repr(decision)

    cluster.reserve(decision)

    (promise,) = cluster.snapshot().in_flight.values()
    assert len(repr(promise)) < 2_000
    assert (promise.id, promise.claims, promise.nodes, promise.share) == (
        decision.id,
        decision.claims,
        decision.nodes,
        Share(decision.scope, rewritten=True),
    )
