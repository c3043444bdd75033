"""YAML -> `Scenario`: from a file or out of the package, with every mistake named by its path."""

import re
from collections import Counter
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import msgspec
import yaml

from extender.config.document import Document, read
from extender.config.load import load as load_config
from extender.config.problem import ConfigError, Problem, below
from extender.core.catalogue import place
from extender.core.policy import Policy
from extender.core.quantity import QuantityError, footprint_bytes, milli, whole
from extender.demo.hardware import WHOLE, product_named
from extender.demo.scenario import GpuLayout, Node, Pod, Scenario

BUILT_IN = files("extender.demo") / "scenarios"
DEFAULT = "hollow-gpu"

MOST_GPUS = 512
MOST_PODS = 2000

_DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")


def load(name: str) -> Scenario:
    """A scenario by file name, or a built-in one by its own name.

    Raises:
        ConfigError: it is not there, or something in it is wrong; one problem per mistake.
    """
    path = Path(name)
    built_in = BUILT_IN / f"{name}.yaml"
    try:
        if not path.exists() and path.name == name and built_in.is_file():
            return parse(built_in.read_bytes())
        return parse(path.read_bytes())
    except OSError as error:
        known = ", ".join(built_in_names())
        message = f"{error.strerror}; give a file, or one of {known}"
        raise ConfigError([Problem("", message)]) from error


def config_text(scenario: Scenario) -> str:
    """The MigfitConfiguration for the server, as YAML."""
    head = {"apiVersion": "migfit.io/v1alpha1", "kind": "MigfitConfiguration"}
    return yaml.safe_dump({**head, **scenario.config}, sort_keys=False)


def policy_of(scenario: Scenario) -> Policy:
    """What the server makes of `config`.

    Raises:
        ConfigError: the server would refuse it.
    """
    return load_config(config_text(scenario))


def built_in_names() -> list[str]:
    """The scenarios that come with the package, the default first."""
    found = sorted(f.name.removesuffix(".yaml") for f in BUILT_IN.iterdir())
    return sorted(found, key=lambda name: name != DEFAULT)


def parse(text: str | bytes) -> Scenario:
    """A scenario from YAML.

    Raises:
        ConfigError: one problem per mistake, each with its path and line.
    """
    document = read(text)
    if document.problems:
        raise ConfigError(document.problems)
    if document.value is None:
        fields = ", ".join(field.encode_name for field in msgspec.structs.fields(Scenario))
        raise ConfigError([Problem("", f"the document is empty: write {fields}")])
    try:
        scenario = msgspec.convert(document.value, Scenario)
    except msgspec.ValidationError as error:
        message, _, where = str(error).partition(" - at `$")
        path = where.rstrip("`").removeprefix(".")
        raise ConfigError([_at(document, path, message.replace("`", ""))]) from error
    problems = [_at(document, path, message) for path, message in _mistakes(scenario)]
    if problems:
        raise ConfigError(problems)
    return scenario


def _at(document: Document, path: str, message: str) -> Problem:
    return Problem(path, message, document.lines.get(path))


def _mistakes(scenario: Scenario) -> Iterator[tuple[str, str]]:
    """Path and message of everything the types do not catch."""
    for position, node in enumerate(scenario.nodes):
        yield from _node_mistakes(f"nodes[{position}]", node)
    for position, pod in enumerate(scenario.pods):
        yield from _pod_mistakes(f"pods[{position}]", pod)
    for position, layout in enumerate(scenario.layouts):
        yield from _run_mistakes(f"layouts[{position}].nodes", layout.nodes, scenario.nodes)
    yield from _name_mistakes("nodes", [node.name for node in scenario.nodes])
    yield from _name_mistakes("pods", [pod.name for pod in scenario.pods])
    yield from _number_mistakes(scenario.pods)
    if sum(len(node.gpus) for node in scenario.nodes) > MOST_GPUS:
        yield "nodes", f"more than {MOST_GPUS} GPUs: the picture would not be one"
    if sum(pod.count for pod in scenario.pods) > MOST_PODS:
        yield "pods", f"more than {MOST_PODS} pods: the demo would take minutes"
    try:
        policy_of(scenario)
    except ConfigError as error:
        for problem in error.problems:
            yield f"config.{problem.path}".rstrip("."), problem.message


def _run_mistakes(
    path: str, layouts: dict[str, list[GpuLayout]], nodes: list[Node]
) -> Iterator[tuple[str, str]]:
    by_name = {node.name: node for node in nodes}
    for name, gpus in layouts.items():
        where = below(path, name)
        if (node := by_name.get(name)) is None:
            yield where, f"no such node: write one of {', '.join(by_name)}"
        elif len(gpus) != len(node.gpus):
            yield where, f"{len(gpus)} GPUs, but the node has {len(node.gpus)}: give one entry each"
        else:
            yield from _layout_mistakes(where, node.product, gpus)


def _node_mistakes(path: str, node: Node) -> Iterator[tuple[str, str]]:
    product = product_named(node.product)
    if product is None:
        yield (
            f"{path}.product",
            (f'"{node.product}" is no product we know, or several: `migfit catalogue` lists them'),
        )
    else:
        yield from _layout_mistakes(f"{path}.gpus", node.product, node.gpus)
    yield from _quantity_mistakes(path, {"cpu": node.cpu, "memory": node.memory})


def _layout_mistakes(
    path: str, product_name: str, gpus: list[GpuLayout]
) -> Iterator[tuple[str, str]]:
    product = product_named(product_name)
    if product is None:
        return  # said already
    for index, gpu in enumerate(gpus):
        if gpu == WHOLE:
            continue
        unknown = [name for name in gpu if product.profile(name) is None]
        if unknown:
            known = ", ".join(p.name for p in product.profiles)
            yield f"{path}[{index}]", f'"{unknown[0]}" is no profile of {product.name}: {known}'
        elif place(product, Counter(gpu)) is None:
            yield f"{path}[{index}]", f"{' + '.join(gpu)} do not fit on one {product.name}"


def _pod_mistakes(path: str, pod: Pod) -> Iterator[tuple[str, str]]:
    try:
        footprint_bytes(pod.footprint)
    except QuantityError as error:
        yield f"{path}.footprint", str(error)
    if not _DNS_LABEL.fullmatch(pod.namespace):
        yield f"{path}.namespace", f'"{pod.namespace}": use small letters, digits and -'
    yield from _quantity_mistakes(path, {"cpu": pod.cpu, "memory": pod.memory})


def _quantity_mistakes(path: str, quantities: dict[str, str]) -> Iterator[tuple[str, str]]:
    for name, text in quantities.items():
        try:
            (milli if name == "cpu" else whole)(text)
        except QuantityError as error:
            yield f"{path}.{name}", str(error)


def _name_mistakes(path: str, names: list[str]) -> Iterator[tuple[str, str]]:
    for position, name in enumerate(names):
        if not _DNS_LABEL.fullmatch(name):
            yield f"{path}[{position}].name", f'"{name}": use small letters, digits and -'
        elif name in names[:position]:
            yield f"{path}[{position}].name", f'"{name}" is taken: give each its own name'


def _number_mistakes(pods: list[Pod]) -> Iterator[tuple[str, str]]:
    """`asr` twice and a pod called `asr-1` would be two pods of one name."""
    counts = {pod.name: pod.count for pod in pods}
    for position, pod in enumerate(pods):
        stem, _, number = pod.name.rpartition("-")
        if number.isdigit() and counts.get(stem, 1) > 1 and int(number) <= counts[stem]:
            message = f'"{pod.name}" is taken by one of the {counts[stem]} {stem}: use another name'
            yield f"pods[{position}].name", message
