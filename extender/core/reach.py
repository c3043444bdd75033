"""Which nodes a pod may land on: selectors, required affinity, taints, cordon.

A set of nodes is a bit mask, an `int` with one bit per slot, so that a question about 5,000 nodes is
a few machine operations on 625 bytes. Only label keys that some pod ever asked for are indexed.
The rules are kube-scheduler's (plugins NodeAffinity, TaintToleration, NodeUnschedulable); a test
compares them with the real one.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from extender.core.node import Node, Taint
from extender.core.pod import mapping, objects, text

UNSCHEDULABLE_TAINT = Taint("node.kubernetes.io/unschedulable", "", "NoSchedule")

Nodes = int
"""A set of nodes: bit i stands for the node in slot i."""


def slots(nodes: Nodes) -> Iterator[int]:
    """The slots in a set, lowest first."""
    while nodes:
        lowest = nodes & -nodes
        yield lowest.bit_length() - 1
        nodes ^= lowest


class NodeIndex:
    """All nodes, by slot, with a mask for each property that a pod can ask for.

    A change costs what changed on the one node; a question costs its own terms, not the cluster.
    """

    def __init__(self) -> None:
        self.nodes: list[Node | None] = []
        self.slot_of: dict[str, int] = {}
        self.all: Nodes = 0
        self.cordoned: Nodes = 0
        self.autoscaled: Nodes = 0
        self.reconfiguring: Nodes = 0
        self.version = 0
        """Grows with every change; what was computed for an older version is stale."""
        self._free_slots: list[int] = []
        self._tainted: dict[Taint, Nodes] = {}
        self._labelled: dict[str, dict[str, Nodes]] = {}
        self._key_use: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.slot_of)

    def get(self, name: str) -> Node | None:
        """The node of that name."""
        slot = self.slot_of.get(name)
        return None if slot is None else self.nodes[slot]

    def members(self, nodes: Nodes) -> Iterator[Node]:
        """The nodes of a set."""
        for slot in slots(nodes):
            node = self.nodes[slot]
            if node is not None:
                yield node

    def named(self, names: Iterable[str]) -> Nodes:
        """The set of the nodes that have these names; other names are passed over."""
        bits = bytearray(len(self.nodes) // 8 + 1)
        for name in names:
            slot = self.slot_of.get(name)
            if slot is not None:
                bits[slot >> 3] |= 1 << (slot & 7)
        return int.from_bytes(bits, "little")

    def put(self, node: Node) -> int:
        """Add a node or take its newer version; its slot."""
        slot = self.slot_of.get(node.name)
        if slot is None:
            if self._free_slots:
                slot = self._free_slots.pop()
            else:
                slot = len(self.nodes)
                self.nodes.append(None)
            self.slot_of[node.name] = slot
        else:
            self._clear(slot)
        self.nodes[slot] = node
        self._set(slot, node)
        self.version += 1
        return slot

    def drop(self, name: str) -> int | None:
        """Forget a node; the slot it had, which the next new node may take."""
        slot = self.slot_of.pop(name, None)
        if slot is not None:
            self._clear(slot)
            self.nodes[slot] = None
            self._free_slots.append(slot)
            self.version += 1
        return slot

    def _set(self, slot: int, node: Node) -> None:
        bit = 1 << slot
        self.all |= bit
        if node.cordoned:
            self.cordoned |= bit
        if node.autoscaled:
            self.autoscaled |= bit
        if node.reconfiguring:
            self.reconfiguring |= bit
        for taint in node.taints:
            self._tainted[taint] = self._tainted.get(taint, 0) | bit
        for key, value in node.labels.items():
            self._key_use[key] = self._key_use.get(key, 0) + 1
            if (values := self._labelled.get(key)) is not None:
                values[value] = values.get(value, 0) | bit

    def _clear(self, slot: int) -> None:
        node = self.nodes[slot]
        if node is None:
            return
        bit = 1 << slot
        self.all &= ~bit
        self.cordoned &= ~bit
        self.autoscaled &= ~bit
        self.reconfiguring &= ~bit
        for taint in node.taints:
            _take_out(self._tainted, taint, bit)
        for key, value in node.labels.items():
            self._key_use[key] -= 1
            if not self._key_use[key]:
                del self._key_use[key]
                self._labelled.pop(key, None)
            elif (values := self._labelled.get(key)) is not None:
                _take_out(values, value, bit)

    def _values(self, key: str) -> Mapping[str, Nodes]:
        """Value -> nodes for a label key; indexed when first asked for, kept up to date then."""
        if (values := self._labelled.get(key)) is not None:
            return values
        if key not in self._key_use:
            return {}
        values = {}
        for slot, node in enumerate(self.nodes):
            if node is not None and (value := node.labels.get(key)) is not None:
                values[value] = values.get(value, 0) | (1 << slot)
        self._labelled[key] = values
        return values

    def with_label(self, key: str, value: str) -> Nodes:
        """Nodes that carry exactly this label."""
        return self._values(key).get(value, 0)

    def with_key(self, key: str) -> Nodes:
        """Nodes that carry the label key, whatever its value."""
        found = 0
        for nodes in self._values(key).values():
            found |= nodes
        return found

    def reach(
        self,
        pod_spec: Mapping[str, Any],
        *,
        selector: Sequence[tuple[str, str]] = (),
        tolerations: Sequence[Mapping[str, Any]] = (),
    ) -> Nodes:
        """Nodes the pod may land on, fullness apart.

        Args:
            pod_spec: the pod's spec.
            selector: node labels to ask for besides its own, as after injection.
            tolerations: tolerations to count besides its own, as after injection.
        """
        found = self.all
        tolerated = [*objects(pod_spec.get("tolerations")), *tolerations]
        if self.cordoned and not tolerates(tolerated, UNSCHEDULABLE_TAINT):
            found &= ~self.cordoned
        for taint, nodes in self._tainted.items():
            if found & nodes and not tolerates(tolerated, taint):
                found &= ~nodes
        for key, value in (*mapping(pod_spec.get("nodeSelector")).items(), *selector):
            found &= self.with_label(key, text(value))
        required = mapping(mapping(pod_spec.get("affinity")).get("nodeAffinity")).get(
            "requiredDuringSchedulingIgnoredDuringExecution"
        )
        if isinstance(required, dict):
            found &= self._any_term(objects(required.get("nodeSelectorTerms")))
        return found

    def _any_term(self, terms: Sequence[Mapping[str, Any]]) -> Nodes:
        found = 0
        for term in terms:
            found |= self._term(term)
        return found

    def _term(self, term: Mapping[str, Any]) -> Nodes:
        expressions = objects(term.get("matchExpressions"))
        fields = objects(term.get("matchFields"))
        if not expressions and not fields:
            return 0  # an empty term matches nothing
        found = self.all
        for expression in expressions:
            found &= self._expression(expression)
        for field_expression in fields:
            found &= self._field(field_expression)
        return found

    def _expression(self, expression: Mapping[str, Any]) -> Nodes:
        key = text(expression.get("key"))
        given = expression.get("values")
        values = [text(v) for v in given] if isinstance(given, list) else []
        match expression.get("operator"):
            case "In":
                return self._in(key, values)
            case "NotIn" if values:
                return self.all & ~self._in(key, values)
            case "Exists":
                return self.with_key(key)
            case "DoesNotExist":
                return self.all & ~self.with_key(key)
            case "Gt" | "Lt" as operator if len(values) == 1:
                return self._compared(key, values[0], greater=operator == "Gt")
            case _:
                return 0  # the API server will refuse the pod

    def _in(self, key: str, values: Sequence[str]) -> Nodes:
        found = 0
        for value in values:
            found |= self.with_label(key, value)
        return found

    def _compared(self, key: str, bound: str, *, greater: bool) -> Nodes:
        limit = _int64(bound)
        found = 0
        if limit is not None:
            for value, nodes in self._values(key).items():
                number = _int64(value)
                if number is not None and (number > limit if greater else number < limit):
                    found |= nodes
        return found

    def _field(self, expression: Mapping[str, Any]) -> Nodes:
        """`metadata.name` is the only field, with In or NotIn and one value."""
        given = expression.get("values")
        if (
            expression.get("key") != "metadata.name"
            or not isinstance(given, list)
            or len(given) != 1
        ):
            return 0
        slot = self.slot_of.get(text(given[0]))
        nodes = 0 if slot is None else 1 << slot
        match expression.get("operator"):
            case "In":
                return nodes
            case "NotIn":
                return self.all & ~nodes
            case _:
                return 0


def tolerates(tolerations: Sequence[Mapping[str, Any]], taint: Taint) -> bool:
    """Whether any of the tolerations covers the taint (`v1.Toleration.ToleratesTaint`)."""
    for toleration in tolerations:
        effect = text(toleration.get("effect"))
        key = text(toleration.get("key"))
        if (effect and effect != taint.effect) or (key and key != taint.key):
            continue
        operator = toleration.get("operator")
        if operator == "Exists":
            return True
        if operator in (None, "", "Equal") and key and text(toleration.get("value")) == taint.value:
            return True
    return False


def _take_out(table: dict[Any, Nodes], key: object, bit: int) -> None:
    left = table.get(key, 0) & ~bit
    if left:
        table[key] = left
    else:
        table.pop(key, None)


_INT64_DIGITS = 19


def _int64(value: str) -> int | None:
    """What Go's `strconv.ParseInt(value, 10, 64)` accepts."""
    digits = value[1:] if value[:1] in ("+", "-") else value
    if not digits.isascii() or not digits.isdigit():
        return None
    significant = digits.lstrip("0")
    if len(significant) > _INT64_DIGITS:
        return None
    number = int(significant or "0") * (-1 if value[0] == "-" else 1)
    return number if -(1 << 63) <= number < 1 << 63 else None
