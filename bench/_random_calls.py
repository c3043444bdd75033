"""Requests made by throwing dice: near enough to good ones to get far, and seldom good."""

import random
from collections.abc import Callable
from typing import Any

import orjson

from bench._requests import SLICE, extender_args, gpu_pod, review

JSON = dict[str, Any]

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 2**63, 1e300, "", "1", "x", "🙂\u2028\n\x00", "x" * 5000),
    *([], {}, [None], [[]], {"": None}, {"a": {"b": [1]}}, "true", "2g.20gb", "9.6G", "30%"),
    *("9.6", "1e999", "-5Gi", "Always", "nvidia.com/gpu", SLICE, {"limits": {SLICE: "1"}}),
    *({"nvidia.com/gpu": "1", SLICE: "1"}, {"name": "asr"}, ["node-1"], "UPDATE", "DELETE"),
)
JUNK = tuple(map(orjson.dumps, _VALUES))
"""As JSON, so that each use is a copy."""

ANNOTATIONS = (
    *("migfit.io/gpu-memory", "migfit.io/model", "migfit.io/headroom", "migfit.io/min-compute"),
    *("migfit.io/min-bandwidth", "migfit.io/profile", "migfit.io/decision", "migfit.io/need"),
    *("gpu-memory.migfit.io/asr", "kubernetes.io/config.mirror", "kueue.x-k8s.io/queue-name"),
)


class Calls:
    """Bodies for one kind of question, the same ones for the same seed."""

    def __init__(self, seed: int, bases: tuple[bytes, ...]) -> None:
        self._dice = random.Random(seed)
        self._bases = bases

    def body(self) -> bytes:
        """The next one."""
        dice = self._dice
        tree = orjson.loads(dice.choice(self._bases))
        for _ in range(dice.randrange(4)):
            self._spoil(tree)
        body = orjson.dumps(tree)
        return body if dice.randrange(8) else self._torn(body)

    def _spoil(self, tree: Any) -> None:
        """Put something else in place of one member, however deep."""
        dice, at = self._dice, tree
        while True:
            keys: list[Any] = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                return
            if dice.randrange(5):  # mostly deep inside
                keys = [key for key in keys if isinstance(at[key], dict | list)] or keys
            key = dice.choice(keys)
            inside = at[key]
            if not isinstance(inside, dict | list) or not dice.randrange(6):
                break
            at = inside
        if isinstance(at, dict) and not dice.randrange(4):
            key = dice.choice(ANNOTATIONS)
        at[key] = orjson.loads(dice.choice(JUNK))

    def _torn(self, body: bytes) -> bytes:
        """Cut, doubled, or with one byte another."""
        at = self._dice.randrange(len(body) + 1)
        return self._dice.choice(
            (
                body[:at],
                body[at:],
                body + body,
                body[:at] + self._dice.randbytes(1) + body[at + 1 :],
            )
        )


def reviews(seed: int) -> Callable[[], bytes]:
    """Creations, and updates of rewritten pods."""
    whole, sliced = gpu_pod(), gpu_pod(SLICE)
    sliced["metadata"]["labels"]["migfit.io/rewritten"] = "true"
    both = orjson.loads(orjson.dumps(sliced))
    for part in both["spec"]["containers"][0]["resources"].values():
        part["nvidia.com/gpu"] = "1"
    update = {"operation": "UPDATE", "oldObject": sliced}
    bases = [_review(whole), _review(whole), _review(both, **update), _review(both)]
    return Calls(seed, tuple(bases)).body


def _review(pod: JSON, **fields: Any) -> bytes:
    """With a uid that is the same in every run."""
    tree = orjson.loads(review(pod))
    tree["request"] |= {"uid": "0b1f6a2e-6b0f-4a52-8f2c-1f9f4f6d5e0b", **fields}
    return orjson.dumps(tree)


def questions(seed: int) -> Callable[[], bytes]:
    """What a scheduler asks, with names or with nodes."""
    names = extender_args(20)
    nodes = orjson.loads(names)
    items = [{"metadata": {"name": name}} for name in nodes.pop("NodeNames")]
    return Calls(seed, (names, orjson.dumps({**nodes, "Nodes": {"items": items}}))).body
