"""What is remembered of a template changes no answer, knows its bounds, and is forgotten in time."""

import base64
import copy
import random
from dataclasses import replace
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extender.admission import replicas as module
from extender.admission.replicas import LARGEST_BYTES, MOST_PATCHES, Replicas, Template
from extender.admission.review import Reviewed, Reviewer
from extender.cluster.objects import LimitRangeObject, NamespaceObject, NodeObject, PodObject
from extender.cluster.seen_pods import PodPeak
from extender.cluster.state import State
from extender.core.decide import decide
from extender.core.policy import Inject, Mode, Policy
from extender.core.reason import Reason
from extender.core.rewrite import (
    DECISION_ANNOTATION,
    MOST_ANNOTATION_BYTES,
    NEED_ANNOTATION,
    Patch,
    apply,
    patch_for,
)
from tests.build import (
    JSON,
    annotated,
    bound,
    decided,
    mig,
    namespace,
    node,
    pod,
    review,
    state,
    without,
)
from tests.draw import clusters, crowds, mangled, pods, policies

LETTERS = "bcdfghjklmnpqrstvwxz2456789"


def replica(tree: JSON, number: int) -> JSON:
    """The pod as the API server hands it to webhooks: with what tells one replica from the next."""
    made = copy.deepcopy(tree)
    name = f"kube-api-access-{''.join(random.Random(number).choices(LETTERS, k=5))}"
    spec = made["spec"]
    spec["volumes"] = [{"name": name, "projected": {"defaultMode": 420}}]
    for each in (*spec["containers"], *spec.get("initContainers", ())):
        each["volumeMounts"] = [{"name": name, "mountPath": "/var/run/secrets/token"}]
    made["metadata"]["managedFields"] = [
        {"manager": "kube-controller-manager", "time": f"2024-05-01T10:00:{number % 60:02}Z"}
    ]
    return made


class Asked:
    """A reviewer that remembers, on a state in which nothing is ever reserved."""

    def __init__(self, cluster: State | None = None, replicas: Replicas | None = None) -> None:
        self.state = cluster or state()
        self.replicas = Replicas() if replicas is None else replicas
        self.reviewer = self._reviewer(self.replicas)

    def _reviewer(self, replicas: Replicas) -> Reviewer:
        return Reviewer(
            snapshot=self.state.snapshot,
            policy=lambda: self.state.policy,
            reserve=lambda _decision: None,
            clock=lambda: 0.0,
            replicas=replicas,
        )

    def review(self, tree: JSON, uid: str = "uid-1") -> Reviewed:
        return self.reviewer.review(review(tree, uid=uid))

    def check(self, tree: JSON, uid: str) -> None:
        """The answer is what it would be without memory, and what `core` makes of the whole pod."""
        found = self.review(tree, uid)
        assert found.answer == self._reviewer(Replicas()).review(review(tree, uid=uid)).answer
        decision = decide(
            tree, self.state.snapshot(), self.state.policy, namespace="speech", request_id=uid
        )
        assert found.decision == decision
        assert (found.decision.nodes, found.decision.scope) == (decision.nodes, decision.scope)
        told = tree["metadata"]["annotations"].get("migfit.io/decision")
        sent = operations(found)
        if sent or told is None:
            given = orjson.loads(found.answer)["response"]["auditAnnotations"]["decision"]
            inject = self.state.policy.inject
            whole = patch_for(decision, tree, inject=inject, annotation=given)
            assert apply(sent, tree) == apply(whole, tree)


def operations(reviewed: Reviewed) -> Patch:
    patch = orjson.loads(reviewed.answer)["response"].get("patch")
    found: Patch = [] if patch is None else orjson.loads(base64.b64decode(patch))
    return found


def hold(cluster: State, name: str, resource: str) -> None:
    """Let a pod hold one of it."""
    cluster.pods.upsert(msgspec.convert(bound(name, "gpu-a", {resource: 1}), PodObject))


def label_namespace(cluster: State, **labels: str) -> None:
    cluster.tenants.namespaces.upsert(msgspec.convert(namespace(**labels), NamespaceObject))


# --- it changes no answer --------------------------------------------------------------------------


@given(
    st.lists(pods(), min_size=1, max_size=3),
    clusters(),
    crowds(),
    st.lists(policies(), min_size=1, max_size=3),
    st.sampled_from(["", "dry-run", "ignore", "loud"]),
    clusters(),
)
def test_pods_are_answered_as_if_nothing_were_remembered(
    trees: list[JSON],
    nodes: list[JSON],
    crowd: list[JSON],
    configured: list[Policy],
    mode: str,
    later: list[JSON],
) -> None:
    asked = Asked(state(*nodes, pods=crowd, policy=configured[0]))
    for turn, policy in enumerate(configured):
        asked.state.set_policy(policy)
        for number in range(5):
            if number == 3:
                label_namespace(asked.state, mode=mode)
            if number == 4:
                asked.state.fill(nodes=msgspec.convert(later, list[NodeObject]))
            for position, tree in enumerate(trees):
                asked.check(replica(tree, number), f"uid-{turn}-{number}-{position}")
    assert len(asked.replicas)


@given(mangled(pods()), st.integers(0, 2**32 - 1))
def test_so_is_whatever_else_somebody_sends(tree: JSON, seed: int) -> None:
    asked = Asked()
    for number in range(3):
        body = review(tree, uid=f"uid-{seed}-{number}")
        fresh = Asked(asked.state).reviewer.review(body)
        assert asked.reviewer.review(body).answer == fresh.answer


def test_a_pod_nested_deeper_than_any_is_answered_and_remembered() -> None:
    asked, tree = Asked(), pod()
    tree["spec"]["affinity"] = "DEEP"
    body = review(tree).replace(b'"DEEP"', b'{"a":' * 500 + b"{}" + b"}" * 500)
    for _ in range(3):
        assert asked.reviewer.review(body).decision.reason is Reason.FITS
    assert len(asked.replicas) == 1


# --- what is decided anew --------------------------------------------------------------------------


def test_replicas_share_one_template_whatever_their_token_volume_is_called() -> None:
    asked = Asked()
    for number in range(10):
        assert asked.review(replica(pod(), number)).decision.reason is Reason.FITS
    assert len(asked.replicas) == 1


def test_a_remembered_pod_meets_the_cluster_as_it_is() -> None:
    asked = Asked(state(node(slices={"2g.20gb": 1, "3g.40gb": 1}, whole=0)))

    def reason() -> Reason:
        return asked.review(replica(pod(), 1)).decision.reason

    assert [reason(), reason()] == [Reason.FITS, Reason.FITS]
    hold(asked.state, "first", mig("2g.20gb"))
    assert reason() is Reason.FITS_LARGER
    hold(asked.state, "second", mig("3g.40gb"))
    assert reason() is Reason.WAITS


def test_nodes_that_come_and_go_count_for_a_remembered_pod_at_once() -> None:
    asked = Asked(state(node("small", slices={"1g.10gb": 7}, whole=0)))

    def reason() -> Reason:
        return asked.review(replica(pod(), 1)).decision.reason

    assert [reason(), reason(), reason()] == [Reason.TOO_LARGE] * 3
    asked.state.nodes.upsert(msgspec.convert(node("larger", slices={"2g.20gb": 1}), NodeObject))
    assert reason() is Reason.FITS
    asked.state.nodes.remove(msgspec.convert(node("larger"), NodeObject))
    assert reason() is Reason.TOO_LARGE


def test_a_limit_range_holds_for_a_remembered_pod_at_once() -> None:
    asked = Asked()
    for number in range(3):
        assert asked.review(replica(pod(), number)).decision.profile == "2g.20gb"
    limit = {
        "metadata": {"name": "no-middle", "namespace": "speech"},
        "spec": {"limits": [{"type": "Container", "max": {mig("2g.20gb"): "0"}}]},
    }
    asked.state.tenants.limits.upsert(msgspec.convert(limit, LimitRangeObject))
    assert asked.review(replica(pod(), 4)).decision.profile == "3g.40gb"


def test_what_it_was_seen_to_need_holds_for_a_remembered_pod_at_once() -> None:
    asked = Asked(state(policy=Policy(observed_raise=True)))
    for number in range(3):
        assert asked.review(replica(pod(), number)).decision.profile == "2g.20gb"
    asked.state.seen_pods.put("uid-9", "speech/Deployment/asr", "speech", "asr-9")
    peak = PodPeak("speech", "asr-9", "asr", mib=20_000, preallocates=False)
    asked.state.seen_pods.tell("gpu-a", [peak])
    assert asked.review(replica(pod(), 4)).decision.profile == "3g.40gb"


def test_a_label_on_its_namespace_holds_for_a_remembered_pod_at_once() -> None:
    asked = Asked()
    label_namespace(asked.state)
    for number in range(3):
        assert asked.review(replica(pod(), number)).decision.reason is Reason.FITS
    label_namespace(asked.state, mode="ignore")
    assert asked.review(replica(pod(), 4)).decision.reason is Reason.IGNORED


def test_a_new_configuration_holds_for_a_remembered_pod_at_once() -> None:
    asked = Asked()
    for number in range(3):
        asked.review(replica(pod(), number))
    asked.state.set_policy(Policy(mode=Mode.DRY_RUN))
    assert asked.review(replica(pod(), 4)).decision.reason is Reason.DRY_RUN


def test_a_pod_of_the_same_template_in_another_namespace_is_another_pod() -> None:
    asked, tree = Asked(), without(pod(), "metadata", "namespace")
    for home in ("speech", "speech", "speech", "kube-system", "kube-system"):
        found = asked.reviewer.review(review(tree, namespace=home)).decision
        assert (found.namespace, found.reason is Reason.FITS) == (home, home == "speech")


def test_the_patch_of_a_remembered_pod_tells_its_own_decision() -> None:
    asked = Asked()
    for number in range(4):
        after = apply(operations(asked.review(replica(pod(), number), f"uid-{number}")), pod())
        told = orjson.loads(after["metadata"]["annotations"]["migfit.io/decision"])
        assert told["id"] == f"uid-{number}"


def test_a_remembered_pod_is_handed_to_the_other_scheduler_only_while_that_lives() -> None:
    asked = Asked(state(policy=Policy(inject=Inject(scheduler_name="migfit"))))
    handed = []
    for number, alive in enumerate((True, True, True, False, True, False)):
        asked.state.scheduler_alive = lambda alive=alive: alive  # type: ignore[misc]
        after = apply(operations(asked.review(replica(pod(), number))), pod())
        handed.append(after["spec"]["schedulerName"] == "migfit")
    assert handed == [True, True, True, False, True, False]


def test_a_patch_is_tried_on_the_first_pod_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[Patch] = []
    monkeypatch.setattr(module, "apply", lambda patch, _pod: tried.append(patch))
    asked = Asked()
    for number in range(5):
        asked.review(replica(pod(), number))
    assert len(tried) == 2, "once for the pod that came first, once for the second, which is kept"


def test_all_that_a_patch_depends_on_makes_another_patch() -> None:
    """Twice over, so that each is asked for when all others are remembered."""
    said = {**annotated(pod(), note="")["metadata"]["annotations"], NEED_ANNOTATION: "10987Mi"}
    taken = sum(map(len, (*said, *said.values(), DECISION_ANNOTATION)))
    tree = annotated(
        pod(), note="x" * (MOST_ANNOTATION_BYTES - taken - 20)
    )  # a long text is too long
    fits = decided(pod())
    (change,) = fits.changes
    larger = replace(fits, changes=(change._replace(to=mig("3g.40gb")),))
    guarded = replace(fits, guards=(("nvidia.com/mig-2g.20gb.memory", 10986),))
    template = Template(tree)
    for _ in range(2):
        for decision in (fits, larger, guarded, replace(fits, need_mib=1)):
            for text, prefer in (("short", ()), ("long" * 20, ()), (None, ()), ("short", ("a",))):
                how: dict[str, Any] = {"inject": Inject(), "annotation": text, "prefer": prefer}
                found = template.patch(decision, **how)
                assert found == patch_for(decision, tree, **how)


# --- its bounds ------------------------------------------------------------------------------------


def numbered(number: int) -> JSON:
    return annotated(pod(), note=f"{number:05}")


def test_of_pods_that_come_once_nothing_is_kept() -> None:
    asked = Asked()
    for number in range(50):
        asked.review(numbered(number))
    assert not len(asked.replicas)
    asked.review(numbered(7))
    assert len(asked.replicas) == 1


def test_the_oldest_templates_make_room_for_new_ones() -> None:
    asked = Asked(replicas=Replicas(most=3))
    for number in (*range(5), *range(5)):
        asked.review(numbered(number))
        assert len(asked.replicas) <= 3
    assert len(asked.replicas) == 3


def test_templates_are_bounded_in_bytes() -> None:
    size = len(orjson.dumps(numbered(0)))
    asked = Asked(replicas=Replicas(most_bytes=3 * size))
    for number in (*range(5), *range(5)):
        asked.review(numbered(number))
    assert len(asked.replicas) == 3


def test_so_are_the_names_of_namespaces_which_nobody_has_checked() -> None:
    asked = Asked(replicas=Replicas(most_bytes=30_000))
    for number in (*range(5), *range(5)):
        name = f"{number}" * 10_000
        assert asked.reviewer.review(review(pod(), namespace=name)).decision.namespace == name
    assert 0 < len(asked.replicas) < 3
    for _ in range(3):
        asked.reviewer.review(review(numbered(7), namespace="x" * LARGEST_BYTES))
    assert 0 < len(asked.replicas) < 3


def test_a_pod_that_is_very_large_is_not_remembered_and_pushes_nothing_out() -> None:
    asked, huge = Asked(), annotated(pod(), note="x" * LARGEST_BYTES)
    for tree in (pod(), pod(), huge, huge, huge):
        assert asked.review(tree).decision.reason is Reason.FITS
    assert len(asked.replicas) == 1


def test_a_template_forgets_its_patches_before_they_grow_many() -> None:
    asked = Asked()
    for number in range(100):
        found = asked.review(replica(pod(), 0), uid="u" * (number + 1))
        assert len(operations(found)) > 1
    (template,) = asked.replicas._templates.values()
    assert 0 < len(template._patches) <= MOST_PATCHES
