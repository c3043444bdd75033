"""The configuration: read at the start or not at all, and later only replaced by a good one."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from structlog.testing import capture_logs

from extender.cluster.client import ApiClient, connect
from extender.config import Current
from extender.demo.cluster import Cluster
from extender.demo.store import Resource
from extender.server.configuration import ConfigMapSource, FileSource, Source
from extender.server.metrics import Metrics
from extender.server.settings import BAD_INPUT, UNREACHABLE, StartError
from tests.server.serving import CONFIG, HOST

GOOD, BETTER = CONFIG + "headroom: 30%\n", CONFIG + "headroom: 100%\n"
BROKEN = CONFIG + "headroom: lots\nmode: enforce\nmodels: [{name: a, gpuMemory: 9.6GB}]\n"
CONFIG_MAPS = Resource("v1", "configmaps")
KEY = ("migfit-system", "migfit-config")


async def until(true: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  what is waited for has no event
            await asyncio.sleep(0.005)


async def refusal(source: Source, code: int) -> list[str]:
    with pytest.raises(StartError) as refused:
        await source.first()
    assert refused.value.code == code
    return str(refused.value).splitlines()


class Following:
    """A source that is followed, and what came of it."""

    def __init__(self, source: Source, current: Current) -> None:
        self.current = current
        self.applied: list[Any] = []
        self.task = asyncio.create_task(source.follow(current, self.applied.append))

    @property
    def headroom(self) -> Fraction:
        return self.current.policy.headroom


async def changes_are_taken_and_broken_ones_are_not(
    source: Source, write: Callable[[str], object]
) -> Following:
    """The life of a configuration, wherever it is kept."""
    following = Following(source, await source.first())
    assert following.headroom == Fraction(3, 10)

    write(BETTER)
    await until(lambda: following.applied)
    assert following.headroom == following.applied[-1].headroom == 1
    good = following.current.policy

    with capture_logs() as logs:
        write(BROKEN)
        await until(lambda: not following.current.valid)
    assert following.current.policy is good
    assert len(following.applied) == 1
    (told,) = [log for log in logs if log["log_level"] == "error"]
    assert [problem.split(":")[0] for problem in told["problems"]] == [
        "headroom", "mode", "models[0].gpuMemory",
    ]  # fmt: skip

    write(BETTER + "# mended\n")
    await until(lambda: following.current.valid)
    assert following.current.policy is good  # it says the same
    assert len(following.applied) == 1

    write(GOOD)
    await until(lambda: len(following.applied) == 2)
    assert following.headroom == Fraction(3, 10)
    return following


# --- a file --------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(GOOD)
    return path


def put(file: Path, text: str) -> None:
    file.write_text(text)


def remove(file: Path) -> None:
    file.unlink()


async def test_a_file_is_followed(file: Path) -> None:
    following = await changes_are_taken_and_broken_ones_are_not(
        FileSource(file, "", poll_s=0.005), file.write_text
    )
    with capture_logs() as logs:
        remove(file)
        await until(lambda: logs)
        await asyncio.sleep(0.1)  # time for it to say so again, which it must not
    assert [log["event"] for log in logs] == ["configuration cannot be read"]
    assert following.headroom == Fraction(3, 10)
    put(file, BETTER)
    await until(lambda: following.headroom == 1)
    following.task.cancel()


async def test_our_own_namespace_is_never_served(file: Path) -> None:
    current = await FileSource(file, "migfit-system").first()

    assert current.policy.exclude.match("migfit-system")
    assert not current.policy.exclude.match("default")


@pytest.mark.parametrize("what", ["missing", "folder"])
async def test_a_file_that_cannot_be_read_ends_the_start(tmp_path: Path, what: str) -> None:
    path = tmp_path if what == "folder" else tmp_path / "nowhere.yaml"

    (line,) = await refusal(FileSource(path, ""), BAD_INPUT)

    assert line.startswith(f"--config {path}: ")


async def test_a_bad_file_ends_the_start_with_all_its_problems(file: Path) -> None:
    put(file, BROKEN)

    lines = await refusal(FileSource(file, ""), BAD_INPUT)

    assert lines[0].startswith(f"--config {file}: ")
    text = "\n".join(lines)
    assert all(path in text for path in ("headroom: ", "mode: ", "models[0].gpuMemory: "))
    assert len(lines) == 3


@pytest.mark.parametrize("content", ["", "\0", "{", "- a\n", "a: &a [*a]\n"])
async def test_a_file_that_is_no_configuration_ends_the_start(file: Path, content: str) -> None:
    put(file, content)

    assert await refusal(FileSource(file, ""), BAD_INPUT)


# --- a ConfigMap ---------------------------------------------------------------------------------


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with Cluster(tmp_path, namespaces=["migfit-system"], bookmark_s=0.05) as running:
        yield running


@pytest.fixture
async def client(cluster: Cluster) -> AsyncIterator[ApiClient]:
    async with connect(cluster.kubeconfig) as entered:
        yield entered


def write(cluster: Cluster, text: str, key: str = "config.yaml") -> None:
    meta = {"namespace": KEY[0], "name": KEY[1], "uid": "u"}
    item = {"metadata": meta, "data": {key: text}}
    if any(item["metadata"]["name"] == KEY[1] for item in cluster.store.objects(CONFIG_MAPS)):
        cluster.store.replace(CONFIG_MAPS, KEY, item)
    else:
        cluster.store.create(CONFIG_MAPS, item)


def config_map(client: ApiClient) -> ConfigMapSource:
    return ConfigMapSource(client, *KEY, "", Metrics(), retry_s=0.001)


async def test_a_config_map_is_followed_and_its_deletion_changes_nothing(
    cluster: Cluster, client: ApiClient
) -> None:
    write(cluster, GOOD)
    following = await changes_are_taken_and_broken_ones_are_not(
        config_map(client), lambda text: write(cluster, text)
    )

    with capture_logs() as logs:
        cluster.store.delete(CONFIG_MAPS, KEY)
        await until(lambda: [log for log in logs if "deleted" in log["event"]])
    assert following.headroom == Fraction(3, 10)
    assert following.current.valid

    write(cluster, BETTER)
    await until(lambda: following.headroom == 1)
    following.task.cancel()


async def test_without_the_config_map_there_is_no_start(client: ApiClient) -> None:
    (line,) = await refusal(config_map(client), BAD_INPUT)

    assert line.startswith("--configmap migfit-system/migfit-config: 404")
    assert "create it" in line


async def test_a_config_map_with_another_key_is_told_which_one_to_use(
    cluster: Cluster, client: ApiClient
) -> None:
    write(cluster, GOOD, key="config.yml")

    (line,) = await refusal(config_map(client), BAD_INPUT)

    assert "config.yaml" in line


async def test_a_bad_config_map_ends_the_start_with_all_its_problems(
    cluster: Cluster, client: ApiClient
) -> None:
    write(cluster, BROKEN)

    assert len(await refusal(config_map(client), BAD_INPUT)) == 3


def kubeconfig(folder: Path, url: str) -> Path:
    path = folder / "kubeconfig"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }
    path.write_text(yaml.safe_dump(config))
    return path


async def test_an_api_server_that_cannot_be_reached_is_tried_again_before_the_start_fails(
    tmp_path: Path,
) -> None:
    with socket.create_server((HOST, 0)) as taken:
        port = taken.getsockname()[1]
    async with connect(kubeconfig(tmp_path, f"http://{HOST}:{port}")) as client:
        with capture_logs() as logs:
            (line,) = await refusal(config_map(client), UNREACHABLE)

    assert "is the API server up?" in line
    assert len(logs) == 9


@pytest.mark.parametrize(
    "trouble",
    [
        lambda: web.Response(status=503, text="starting"),
        lambda: web.Response(status=429, text="busy"),
        lambda: web.Response(text="<html>a proxy</html>"),
    ],
    ids=["503", "429", "a proxy's page"],
)
async def test_an_api_server_that_is_still_starting_is_waited_for(
    tmp_path: Path, trouble: Callable[[], web.Response]
) -> None:
    asked = 0

    async def answer(_request: web.Request) -> web.Response:
        nonlocal asked
        asked += 1
        item: dict[str, Any] = {"metadata": {"name": KEY[1]}, "data": {"config.yaml": GOOD}}
        return trouble() if asked <= 3 else web.Response(text=json.dumps(item))

    app = web.Application()
    app.router.add_get("/api/v1/namespaces/{namespace}/configmaps/{name}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, HOST, 0).start()
        url = f"http://{HOST}:{runner.addresses[0][1]}"
        async with connect(kubeconfig(tmp_path, url)) as client:
            current = await config_map(client).first()
    finally:
        await runner.cleanup()

    assert asked == 4
    assert current.policy.headroom == Fraction(3, 10)
