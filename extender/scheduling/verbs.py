"""ExtenderArgs in, filter and prioritize results out. Reads, ranks, answers; changes nothing.

The wire (kube-scheduler `extender/v1`): Go names without tags, so keys are sent capitalised and unset
ones as null; integers only; a null list of nodes would turn every node down.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson

from extender.core.capacity import Capacity
from extender.core.pod import (
    Container,
    Pod,
    annotations,
    containers,
    labels,
    metadata,
    objects,
    text,
    workload,
)
from extender.core.policy import Policy
from extender.core.quantity import QuantityError, mib_up, whole
from extender.core.rewrite import NEED_ANNOTATION, REWRITTEN_LABEL
from extender.core.score import Ranking

RECONFIGURING = "GPU layout is being changed"
SLICE_TOO_SMALL = "slice has too little usable memory"


class BadArgs(ValueError):  # noqa: N818  it is an answer, not a failure
    """The body is no ExtenderArgs; the message says what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Args:
    """What kube-scheduler asks about."""

    pod: Pod
    names: list[Any]
    """Strings, from a kube-scheduler."""
    nodes: Any
    """The NodeList of a scheduler with `nodeCacheCapable: false`; else None."""

    def distinct(self) -> set[Any]:
        """The names as a set.

        Raises:
            BadArgs: something among them can be no name.
        """
        try:
            return set(self.names)
        except TypeError:
            raise BadArgs("NodeNames holds something else than names") from None


@dataclass(frozen=True, slots=True)
class Filtered:
    """What filter says."""

    answer: bytes
    leaves_no_node: bool
    """Every node was turned down."""


def read_args(body: bytes) -> Args:
    """Decode ExtenderArgs.

    Raises:
        BadArgs: it is none.
    """
    try:
        args = _decoded(body)
        pod = orjson.loads(bytes(args.pod))
        nodes = orjson.loads(bytes(args.nodes)) if args.node_names is None else None
    except msgspec.ValidationError:
        message = "body is not ExtenderArgs: a JSON object with Pod and NodeNames"
        raise BadArgs(message) from None
    except (ValueError, RecursionError) as error:
        raise BadArgs(f"body is not JSON: {error}") from None
    if not isinstance(pod, dict):
        raise BadArgs("ExtenderArgs has no Pod")
    if isinstance(args.node_names, list):
        return Args(pod, args.node_names, None)
    if not isinstance(nodes, dict):
        raise BadArgs("ExtenderArgs has neither NodeNames nor Nodes")
    found = objects(nodes.get("items"))
    return Args(pod, [text(metadata(node).get("name")) for node in found], nodes)


_NULL = msgspec.Raw(b"null")


class _Args(msgspec.Struct, rename="pascal"):
    """Of thousands of names each is read once, and into nothing else: orjson takes 2.6 MB for 5,000."""

    pod: msgspec.Raw = _NULL
    nodes: msgspec.Raw = _NULL
    node_names: Any = None


_args = msgspec.json.Decoder(_Args)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _decoded(body: bytes) -> _Args:
    """With its keys as kube-scheduler writes them, or in any other case, as Go would take them."""
    args = _args.decode(body)
    if args.pod is not _NULL and (args.node_names is not None or args.nodes is not _NULL):
        return args
    folded = {key.lower(): value for key, value in _members.decode(body).items()}
    names = msgspec.json.decode(folded.get("nodenames", _NULL))
    return _Args(folded.get("pod", _NULL), folded.get("nodes", _NULL), names)


@dataclass(frozen=True, slots=True)
class Scheduling:
    """The two verbs, on the cluster as it is at the moment of asking."""

    capacity: Callable[[], Capacity]
    ranking: Callable[[], Ranking]
    policy: Callable[[], Policy]

    def filter(self, body: bytes) -> bytes:
        """Turn down, for a rewritten pod, what no eviction could mend; pass every other node."""
        return self.filtered(body).answer

    def filtered(self, body: bytes) -> Filtered:
        """The same, and whether no node is left."""
        args = read_args(body)
        refused = self._refused(args)
        kept = [name for name in args.names if name not in refused] if refused else args.names
        answer: dict[str, Any] = {
            "NodeNames": kept,
            "FailedNodes": {},
            "FailedAndUnresolvableNodes": refused,
            "Error": "",
        }
        if args.nodes is not None:
            items = objects(args.nodes.get("items"))
            passed = [n for n in items if text(metadata(n).get("name")) not in refused]
            answer["Nodes"] = {**args.nodes, "items": passed}
        try:
            return Filtered(orjson.dumps(answer), leaves_no_node=bool(refused) and not kept)
        except orjson.JSONEncodeError as error:
            raise BadArgs(f"nodes cannot be sent back: {error}") from None

    def _refused(self, args: Args) -> dict[str, str]:
        if not self.policy().filter or labels(args.pod).get(REWRITTEN_LABEL) != "true":
            return {}
        asked = _mig_asked(containers(args.pod))
        if not asked:
            return {}
        capacity, need_mib = self.capacity(), _need_mib(args.pod)
        # The need is that of the pod's largest container, which asks for the largest slice.
        small = 0 if need_mib is None else capacity.too_small(asked, need_mib)
        changing = capacity.index.reconfiguring
        if not small | changing:
            return {}
        names = args.distinct()
        if (small | changing).bit_count() > len(names):
            only = capacity.index.named(names)
            small, changing = small & only, changing & only
        why = {node.name: SLICE_TOO_SMALL for node in capacity.index.members(small)}
        why |= {node.name: RECONFIGURING for node in capacity.index.members(changing)}
        return {name: why[name] for name in why.keys() & names}

    def prioritize(self, body: bytes) -> bytes:
        """Score the nodes for a pod that asks for a GPU or a slice; nothing for any other."""
        args = read_args(body)
        policy = self.policy()
        held = containers(args.pod)
        asked = _mig_asked(held)
        if any(c.count(policy.gpu_resource) > 0 for c in held):
            asked.add(policy.gpu_resource)
        if not asked:
            return b"[]"
        namespace = text(metadata(args.pod).get("namespace"))
        best = self.ranking().scores(
            args.distinct(),
            asked,
            f"{namespace}/{workload(args.pod)}",
            spread=policy.spread_replicas,
        )
        return orjson.dumps([{"Host": host, "Score": score} for host, score in best])


def _mig_asked(held: list[Container]) -> set[str]:
    return {name for container in held for name in container.mig_counts()}


def _need_mib(pod: Mapping[str, Any]) -> int | None:
    try:
        return mib_up(whole(annotations(pod)[NEED_ANNOTATION]))
    except (KeyError, QuantityError):
        return None
