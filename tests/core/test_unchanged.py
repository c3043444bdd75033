from hypothesis import given
from hypothesis import strategies as st

from extender.core import pod as podlib
from extender.core.decide import decide
from extender.core.pod import Pod
from extender.core.policy import Inject, Policy, WhenFull
from extender.core.reason import Action
from extender.core.render import annotation
from extender.core.rewrite import apply, patch_for
from extender.core.unchanged import as_it_came, could_start_whole
from tests.build import GPU, JSON, changed, container, mig, node, pod, state
from tests.draw import clusters, crowds, pods

WAIT = Policy(when_full=(WhenFull.WAIT,))
TOLERATION = {"key": "migfit.io/slices", "operator": "Exists"}
INJECT = Inject(
    scheduler_name="migfit", node_selector=(("pool", "mig"),), tolerations=(TOLERATION,)
)
SLICE = mig("2g.20gb")
ELSEWHERE = {"key": "zone", "operator": "In", "values": ["a"]}
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


def terms(*expressions: JSON) -> JSON:
    """Required node affinity with one term for each expression."""
    found = [{"matchExpressions": [each]} for each in expressions]
    return {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": found}}}


def rewritten(tree: JSON, policy: Policy, *nodes: JSON) -> Pod:
    """The pod after its rewrite, which has to take place."""
    decision = decide(tree, state(*nodes, policy=policy).snapshot(), policy, request_id="1")
    assert decision.action is Action.REWRITTEN, decision.message
    rendered = annotation(decision)
    return apply(patch_for(decision, tree, inject=policy.inject, annotation=rendered), tree)


@given(pods(), clusters(), crowds(), st.booleans(), st.booleans())
def test_a_rewritten_pod_is_seen_as_it_was_before_whatever_was_injected(
    tree: JSON, nodes: list[JSON], others: list[JSON], guarded: bool, inject: bool
) -> None:
    policy = Policy(
        when_full=(WhenFull.WAIT,), filter=not guarded, inject=INJECT if inject else Inject()
    )
    labelled = [changed(each, "metadata", "labels", "pool", to="mig") for each in nodes]
    cluster = state(*labelled, pods=others, policy=policy)
    decision = decide(tree, cluster.snapshot(), policy)
    patch = patch_for(decision, tree, inject=policy.inject, annotation=annotation(decision))

    found = as_it_came(apply(patch, tree), policy)

    if decision.action is Action.REWRITTEN:
        index = cluster.capacity.index
        assert index.reach(podlib.spec(found)) == index.reach(podlib.spec(tree))
        ask = [podlib.extended_ask(podlib.containers(p), GPU) for p in (found, tree)]
        assert ask[0] == ask[1]
        assert podlib.plain_ask(found, podlib.containers(found), GPU) == podlib.plain_ask(
            tree, podlib.containers(tree), GPU
        )


def test_it_could_start_whole_where_a_gpu_is_free() -> None:
    found = rewritten(pod(), WAIT)

    assert could_start_whole(found, state(node(whole=1)).snapshot(), WAIT)
    assert not could_start_whole(found, state(node(whole=0)).snapshot(), WAIT)


def test_a_gpu_that_others_wait_for_is_not_free() -> None:
    found = rewritten(pod(), WAIT)
    other = pod(container(gpu="1"))
    other["metadata"] |= {"name": "other", "uid": "other"}
    other["status"] = {"phase": "Pending"}

    cluster = state(node(whole=1), pods=[other])

    assert not could_start_whole(found, cluster.snapshot(), WAIT)


def test_it_is_looked_for_where_the_pod_may_go_by_itself_not_where_it_was_sent() -> None:
    policy = Policy(when_full=(WhenFull.WAIT,), filter=False, inject=INJECT)
    slices = node("mig", whole=0, labels={"pool": "mig"})
    found = rewritten(pod(), policy, slices)
    assert found["spec"]["nodeSelector"] == {"pool": "mig"}

    cluster = state(slices, node("whole", slices={}, whole=1), policy=policy)

    assert could_start_whole(found, cluster.snapshot(), policy)


def test_a_guard_is_taken_out_and_what_the_pod_demands_itself_stays() -> None:
    policy = Policy(when_full=(WhenFull.WAIT,), filter=False)
    tree = pod(affinity=terms(ELSEWHERE))
    here = node(labels={"zone": "a"})
    found = rewritten(tree, policy, here, node("b", labels={f"{SLICE}.memory": "19000"}))
    assert found["spec"]["affinity"] != tree["spec"]["affinity"]

    own = as_it_came(found, policy)

    assert own["spec"]["affinity"] == tree["spec"]["affinity"]
    assert not could_start_whole(found, state(node("c", labels={"zone": "b"})).snapshot(), policy)
