"""`migfit serve` on the command line: flags and their environment twins, and how a start fails."""

import socket
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
import trustme
from click.testing import CliRunner, Result

from extender.cli import COMMANDS, main
from extender.cli.serve import serve
from extender.server.settings import BAD_INPUT, UNREACHABLE, Settings, StartError
from tests.server.serving import CONFIG, HOST, Pair
from tests.server.test_configuration import BROKEN, kubeconfig

OPTIONS = [option for option in serve.params if isinstance(option, click.Option)]

VALUES: dict[str, tuple[str, Any]] = {
    "--config": ("c.yaml", Path("c.yaml")),
    "--configmap": ("ns/name", ("ns", "name")),
    "--kubeconfig": ("k", Path("k")),
    "--tls-cert": ("c.pem", Path("c.pem")),
    "--tls-key": ("k.pem", Path("k.pem")),
    "--tls-secret": ("ns/secret", ("ns", "secret")),
    "--tls-name": ("a.example 10.0.0.1", ("a.example", "10.0.0.1")),
    "--service": ("other", "other"),
    "--webhook-configuration": ("other", "other"),
    "--webhook-port": ("0", 0),
    "--extender-port": ("1", 1),
    "--extender-bind": ("10.0.0.7", "10.0.0.7"),
    "--extender-client-ca": ("clients.crt", Path("clients.crt")),
    "--ops-port": ("65535", 65535),
    "--bind": ("::1", "::1"),
    "--lame-duck": ("1.5", 1.5),
}
"""Flag -> value in the environment, and what becomes of it."""


def flag(option: click.Option) -> str:
    return option.opts[-1]


def twin(option: click.Option) -> str:
    return "MIGFIT_" + flag(option).removeprefix("--").replace("-", "_").upper()


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[Settings]:
    """What the server was started with, instead of starting it."""
    seen: list[Settings] = []

    async def run(settings: Settings) -> None:
        seen.append(settings)

    monkeypatch.setattr("extender.cli.serve.run", run)
    monkeypatch.setattr("extender.cli.serve.configure", lambda level: None)
    for option in OPTIONS:
        monkeypatch.delenv(twin(option), raising=False)
    return seen


def invoke(*words: str, **env: str) -> Result:
    return CliRunner().invoke(main, ["serve", *words], env=env)


# --- help ----------------------------------------------------------------------------------------


def test_the_help_names_every_command() -> None:
    result = CliRunner().invoke(main, ["--help"])

    assert result.exit_code == 0
    for name, says in COMMANDS.items():
        assert name in result.output
        assert says in result.output


def test_the_help_of_all_imports_none_of_them() -> None:
    program = (
        "import sys; from click.testing import CliRunner; from extender.cli import main; "
        "CliRunner().invoke(main, ['--help']); print('aiohttp' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=60, text=True
    )

    assert ran.stdout == "False\n"


@pytest.mark.parametrize("option", OPTIONS, ids=flag)
def test_every_flag_is_explained_with_its_environment_twin(option: click.Option) -> None:
    text = "".join(CliRunner().invoke(main, ["serve", "--help"]).output.split())

    assert option.envvar == twin(option)
    assert f"envvar:{twin(option)}" in text
    assert option.help
    assert "".join(option.help.split()) in text


# --- settings ------------------------------------------------------------------------------------


def test_every_flag_but_debug_is_a_setting() -> None:
    assert {flag(option) for option in OPTIONS} == {*VALUES, "--debug"}
    assert {option.name for option in OPTIONS} - {"debug"} == {f.name for f in fields(Settings)}


def test_without_flags_the_settings_are_the_documented_defaults(told: list[Settings]) -> None:
    assert invoke().exit_code == 0

    assert told == [Settings()]


@pytest.mark.parametrize(
    "option", [option for option in OPTIONS if flag(option) in VALUES], ids=flag
)
def test_a_variable_sets_what_its_flag_sets_and_the_flag_wins(
    option: click.Option, told: list[Settings]
) -> None:
    text, value = VALUES[flag(option)]
    assert option.name is not None
    words = [word for part in text.split() for word in (flag(option), part)]

    for result in (
        invoke(**{twin(option): text}),
        invoke(*words),
        invoke(*words, **{twin(option): "7"}),
    ):
        assert result.exit_code == 0, result.stderr

    assert [getattr(settings, option.name) for settings in told] == [value] * 3


@pytest.mark.parametrize("name", ["WEBHOOK", "EXTENDER", "OPS"])
def test_what_the_kubelet_says_of_a_service_of_our_name_is_no_port(
    name: str, told: list[Settings]
) -> None:
    result = invoke(**{f"MIGFIT_{name}_PORT": "tcp://10.0.0.7:443"})

    assert result.exit_code == 0
    assert told == [Settings()]


@pytest.mark.parametrize(
    "words",
    [
        ("--webhook-port", "70000"),
        ("--webhook-port", "https"),
        ("--configmap", "name-only"),
        ("--configmap", "a/b/c"),
        ("--configmap", "/b"),
        ("--lame-duck", "-1"),
        ("--no-such-flag",),
        ("stray",),
    ],
    ids=" ".join,
)
def test_wrong_use_is_told_and_nothing_is_started(
    words: tuple[str, ...], told: list[Settings]
) -> None:
    result = invoke(*words)

    assert result.exit_code == BAD_INPUT
    assert "Error: " in result.stderr
    assert words[-1] in result.stderr
    assert told == []


def test_an_unknown_command_is_wrong_use() -> None:
    assert CliRunner().invoke(main, ["nonsense"]).exit_code == BAD_INPUT


# --- a start that fails --------------------------------------------------------------------------


@pytest.mark.parametrize("code", [BAD_INPUT, UNREACHABLE])
def test_a_start_that_fails_is_one_line_and_its_code(
    code: int, told: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(_settings: Settings) -> None:
        raise StartError("what: why; what to do", code)

    monkeypatch.setattr("extender.cli.serve.run", fail)

    result = invoke()
    debugged = invoke("--debug")

    assert (result.exit_code, result.stderr) == (code, "migfit serve: what: why; what to do\n")
    assert isinstance(debugged.exception, StartError)


class Start:
    """`migfit serve` as a process that is not going to serve."""

    def __init__(self, folder: Path) -> None:
        pair = Pair(folder, trustme.CA())
        self.config = folder / "config.yaml"
        self.config.write_text(CONFIG)
        self.flags: dict[str, object] = {
            "--config": self.config,
            "--kubeconfig": kubeconfig(folder, f"http://{HOST}:1"),
            "--tls-cert": pair.cert,
            "--tls-key": pair.key,
            "--webhook-port": -1,
            "--extender-port": -1,
            "--ops-port": -1,
            "--bind": HOST,
        }

    def fails(self) -> tuple[int, list[str]]:
        """Exit status, and what it says of itself on stderr."""
        words = [str(word) for flag in self.flags.items() for word in flag]
        ran = subprocess.run(
            [sys.executable, "-m", "extender.cli", "serve", *words],
            capture_output=True,
            timeout=60,
            check=False,
            text=True,
        )
        assert ran.stdout == ""
        return ran.returncode, ran.stderr.splitlines()


@pytest.fixture
def start(tmp_path: Path) -> Start:
    return Start(tmp_path)


def test_without_a_way_to_the_cluster_the_process_exits_2(start: Start) -> None:
    start.flags["--kubeconfig"] = "/nowhere/kubeconfig"

    assert start.fails() == (
        2,
        ["migfit serve: no way to the cluster: kubeconfig /nowhere/kubeconfig: no such file"],
    )


def test_with_a_bad_configuration_the_process_exits_2_and_lists_every_problem(
    start: Start,
) -> None:
    start.config.write_text(BROKEN)

    code, (first, *others) = start.fails()

    assert code == 2
    assert first.startswith(f"migfit serve: --config {start.config}: headroom: ")
    assert [line.partition(":")[0] for line in others] == ["mode", "models[0].gpuMemory"]


def test_with_a_port_taken_the_process_exits_2(start: Start) -> None:
    with socket.create_server((HOST, 0)) as taken:
        start.flags["--webhook-port"] = port = taken.getsockname()[1]
        code, lines = start.fails()

    assert code == 2
    (said,) = [line for line in lines if not line.startswith('{"')]
    assert said.startswith(f"migfit serve: --webhook-port {port}: cannot listen on {HOST}: ")
