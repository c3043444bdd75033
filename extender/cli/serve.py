"""`migfit serve`."""

import asyncio
import importlib
import importlib.util
import ipaddress
import logging
import re
import sys
from pathlib import Path

import click

from extender.server.logs import configure
from extender.server.serve import serve as run
from extender.server.settings import LOOPBACK, Settings, StartError

_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_HOST = re.compile(rf"(?:\*\.)?{_LABEL.pattern}(?:\.{_LABEL.pattern})*", re.ASCII | re.IGNORECASE)
_FILE = click.Path(path_type=Path, dir_okay=False)


def _namespaced(
    _ctx: click.Context, _param: click.Parameter, value: str | None
) -> tuple[str, str] | None:
    if value is None:
        return None
    namespace, slash, name = value.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise click.BadParameter(f"{value!r} is not NAMESPACE/NAME")
    return namespace, name


def _names(
    _ctx: click.Context, _param: click.Parameter, values: tuple[str, ...]
) -> tuple[str, ...]:
    for value in values:
        try:
            ipaddress.ip_address(value)
        except ValueError:
            if not _HOST.fullmatch(value):
                message = f"{value!r} is neither a host name nor an IP address"
                raise click.BadParameter(message) from None
    return values


def _label(_ctx: click.Context, _param: click.Parameter, value: str) -> str:
    if not _LABEL.fullmatch(value):
        raise click.BadParameter(f"{value!r} is not the name of a Service")
    return value


def _env(name: str) -> str:
    return f"MIGFIT_{name}"


class _Port(click.Option):
    """A port, whose environment twin may not be ours.

    For a Service named `migfit-webhook` the kubelet sets `MIGFIT_WEBHOOK_PORT=tcp://10.0.0.7:443` in
    every pod of the namespace, unless told not to (`enableServiceLinks`).
    """

    def resolve_envvar_value(self, ctx: click.Context) -> str | None:
        """The variable's value, if it was meant for us."""
        value = super().resolve_envvar_value(ctx)
        return None if value is not None and "://" in value else value


@click.command()
@click.option(
    "--config", type=_FILE, envvar=_env("CONFIG"), show_envvar=True, help="Configuration file."
)
@click.option(
    "--configmap",
    callback=_namespaced,
    metavar="NAMESPACE/NAME",
    envvar=_env("CONFIGMAP"),
    show_envvar=True,
    help="ConfigMap with the configuration under the key config.yaml, instead of a file.",
)
@click.option(
    "--kubeconfig",
    type=_FILE,
    envvar=_env("KUBECONFIG"),
    show_envvar=True,
    help="Way to the cluster; without it in-cluster, else the default kubeconfig.",
)
@click.option(
    "--tls-cert",
    type=_FILE,
    envvar=_env("TLS_CERT"),
    show_envvar=True,
    help="Certificate of the webhook, PEM. Without it migfit makes one, and renews it; without a "
    "webhook port it shows the one that others make.",
)
@click.option(
    "--tls-key", type=_FILE, envvar=_env("TLS_KEY"), show_envvar=True, help="Its key, PEM."
)
@click.option(
    "--tls-secret",
    callback=_namespaced,
    metavar="NAMESPACE/NAME",
    envvar=_env("TLS_SECRET"),
    show_envvar=True,
    help="Secret that replicas share the certificate in that migfit makes.  [default: "
    "migfit-webhook-tls, in migfit's own namespace, else in that of --configmap]",
)
@click.option(
    "--tls-name",
    "tls_names",
    multiple=True,
    callback=_names,
    metavar="HOST",
    envvar=_env("TLS_NAME"),
    show_envvar=True,
    help="Host name or IP address that it is good for, beside those of the Service; may be repeated.",
)
@click.option(
    "--service",
    default="migfit",
    show_default=True,
    callback=_label,
    metavar="NAME",
    envvar=_env("SERVICE"),
    show_envvar=True,
    help="Service that the API server calls, in the namespace of the Secret.",
)
@click.option(
    "--webhook-configuration",
    default="migfit",
    show_default=True,
    metavar="NAME",
    envvar=_env("WEBHOOK_CONFIGURATION"),
    show_envvar=True,
    help="MutatingWebhookConfiguration whose webhooks are to trust it: migfit writes their caBundle.",
)
@click.option(
    "--webhook-port",
    cls=_Port,
    type=click.IntRange(-1, 65535),
    default=8443,
    show_default=True,
    envvar=_env("WEBHOOK_PORT"),
    show_envvar=True,
    help="HTTPS port of /mutate. 0 switches a part off, -1 takes any free port.",
)
@click.option(
    "--extender-port",
    cls=_Port,
    type=click.IntRange(-1, 65535),
    default=8888,
    show_default=True,
    envvar=_env("EXTENDER_PORT"),
    show_envvar=True,
    help="Port of /scheduler/filter and /scheduler/prioritize.",
)
@click.option(
    "--extender-bind",
    default=LOOPBACK,
    show_default=True,
    metavar="ADDRESS",
    envvar=_env("EXTENDER_BIND"),
    show_envvar=True,
    help="Address of the extender port: HTTP on loopback; elsewhere --extender-client-ca is needed.",
)
@click.option(
    "--extender-client-ca",
    type=_FILE,
    envvar=_env("EXTENDER_CLIENT_CA"),
    show_envvar=True,
    help="The extender speaks HTTPS, with the webhook's certificate, to clients with one signed by "
    "this authority, PEM; read again when it changes.",
)
@click.option(
    "--ops-port",
    cls=_Port,
    type=click.IntRange(-1, 65535),
    default=9090,
    show_default=True,
    envvar=_env("OPS_PORT"),
    show_envvar=True,
    help="HTTP port of /healthz, /readyz and /metrics.",
)
@click.option(
    "--bind",
    default="0.0.0.0",  # noqa: S104  a pod is reached by its address
    show_default=True,
    envvar=_env("BIND"),
    show_envvar=True,
    help="Address of the webhook and operations ports.",
)
@click.option(
    "--lame-duck",
    "lame_duck_s",
    type=click.FloatRange(0, 60),
    default=5.0,
    show_default=True,
    envvar=_env("LAME_DUCK"),
    show_envvar=True,
    metavar="SECONDS",
    help="How long to take new connections after SIGTERM, unready. The webhook's open ones are answered "
    "until clients close them, 95 s at most. 0, or a second SIGTERM, ends all that.",
)
@click.option(
    "--debug",
    is_flag=True,
    envvar=_env("DEBUG"),
    show_envvar=True,
    help="Log more, with tracebacks.",
)
def serve(  # noqa: PLR0917  click passes them by name
    config: Path | None,
    configmap: tuple[str, str] | None,
    kubeconfig: Path | None,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_secret: tuple[str, str] | None,
    tls_names: tuple[str, ...],
    service: str,
    webhook_configuration: str,
    webhook_port: int,
    extender_port: int,
    extender_bind: str,
    extender_client_ca: Path | None,
    ops_port: int,
    bind: str,
    lame_duck_s: float,
    *,
    debug: bool,
) -> None:
    """Run the webhook, the extender and the operations port.

    Audit lines go to stdout, one JSON object each; everything else is logged on stderr.
    """
    configure(level=logging.DEBUG if debug else logging.INFO)
    settings = Settings(
        config=config,
        configmap=configmap,
        kubeconfig=kubeconfig,
        tls_cert=tls_cert,
        tls_key=tls_key,
        tls_secret=tls_secret,
        tls_names=tls_names,
        service=service,
        webhook_configuration=webhook_configuration,
        webhook_port=webhook_port,
        extender_port=extender_port,
        extender_bind=extender_bind,
        extender_client_ca=extender_client_ca,
        ops_port=ops_port,
        bind=bind,
        lame_duck_s=lame_duck_s,
    )
    try:
        with asyncio.Runner(loop_factory=_event_loop) as runner:
            runner.run(run(settings))
    except StartError as error:
        if debug:
            raise
        click.echo(f"migfit serve: {error}", err=True)
        sys.exit(error.code)


def _event_loop() -> asyncio.AbstractEventLoop:
    """The loop of uvloop where that extra is installed, else asyncio's own."""
    if importlib.util.find_spec("uvloop") is None:
        return asyncio.new_event_loop()
    loop = importlib.import_module("uvloop").new_event_loop()
    assert isinstance(loop, asyncio.AbstractEventLoop)  # noqa: S101
    return loop
