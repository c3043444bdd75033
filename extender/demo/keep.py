"""`--keep`: the last run stays up; every pod that somebody sends is shown as the others were."""

import asyncio
import json
import shlex
from collections.abc import AsyncGenerator

from extender.demo.outcome import PodOutcome
from extender.demo.stage import Stage, declared_footprint, manifest
from extender.demo.store import PODS, Event, Key, Verb, key_of


def invitation(stage: Stage) -> str:
    """How to send the cluster one more pod: commands that work as they stand."""
    smallest = min(stage.scenario.pods, key=lambda pod: pod.footprint_bytes)
    pod = manifest(smallest, "")
    meta = {k: v for k, v in pod["metadata"].items() if v}
    pod["metadata"] = {"generateName": f"{smallest.name}-", **meta}
    pods = f"{stage.cluster.api.url}/api/v1/namespaces/{smallest.namespace}/pods"
    curl = f"curl -sS --cacert {shlex.quote(str(stage.cluster.certificate.ca))}"
    body = shlex.quote(json.dumps(pod, separators=(",", ":")))
    return (
        "The cluster is up. Send it a pod (the Warning: header is what kubectl would print):\n\n"
        f"  {curl} -i -H 'Content-Type: application/json' \\\n    -d {body} \\\n    {pods}\n\n"
        "See its pods, delete one:\n\n"
        f"  {curl} {pods}\n"
        f"  {curl} -X DELETE {pods}/{smallest.name}\n\n"
        f"kubeconfig: {stage.cluster.kubeconfig}\n"
        "Ctrl-C ends it.\n"
    )


async def arrivals(stage: Stage) -> AsyncGenerator[PodOutcome | None, None]:
    """Each pod that comes from now on, once it has been tried; None when one has gone.

    Raises:
        ServerFailedError: the server ended.
    """
    events: asyncio.Queue[Event] = asyncio.Queue()
    stage.cluster.store.subscribe(events.put_nowait)
    try:
        while True:
            event = await events.get()
            if event.resource != PODS:
                continue
            key = key_of(event.object)
            if event.verb is Verb.DELETED:
                _forget(stage, key)
                yield None
            elif event.verb is Verb.ADDED:
                yield await stage.note(key, key[1], declared_footprint(event.object))
    finally:
        stage.cluster.store.unsubscribe(events.put_nowait)


def _forget(stage: Stage, key: Key) -> None:
    stage.outcomes[:] = [pod for pod in stage.outcomes if (pod.namespace, pod.name) != key]
