"""`tracker-stream server`: a Sentinel-compatible service with a real S3, on this machine."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from spool.directory import user_directory
from streaming import config
from streaming.clients import prefix
from streaming.errors import BadArgument, NotTheService
from streaming.processes import peers
from streaming.server.errors import ServerError
from streaming.server.process.directory import ServerDirectory
from streaming.server.settings import DEFAULT_BUCKET, DEFAULT_CREDENTIAL_LIFETIME_S, DEFAULT_PORT, S3Settings

if TYPE_CHECKING:
    from streaming.server.process.control import Status
    from streaming.server.process.embedded import EmbeddedServer

_ANY_ROLE_ARN = "arn:aws:iam::000000000000:role/uploader"  # MinIO takes any; AWS needs a real one


def _directory_option(command: Any) -> Any:
    return click.option(
        "--dir",
        "directory",
        type=click.Path(path_type=Path, file_okay=False),
        default=lambda: user_directory("state") / "server",
        envvar="TRACKER_STREAM_SERVER_DIR",
        show_envvar=True,
        help="Where the server keeps everything.  [default: server/ in the user's state directory]",
    )(command)


class ServerGroup(click.Group):
    """Turns what goes wrong in a server into words and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ServerError as error:
            raise click.ClickException(str(error)) from error
        except ImportError as error:
            raise click.ClickException(f"{error.name} is missing: install tracker-stream[server].") from error
        except BrokenPipeError:  # whoever read what we print has gone: click ends quietly
            raise
        except OSError as error:
            where = f" ({error.filename})" if error.filename else ""
            raise click.ClickException(f"{error.strerror or error}{where}.") from error


@click.group(cls=ServerGroup)
def server() -> None:
    """Run a service of your own on this machine: a Sentinel-compatible API and a real S3.

    \b
    Example: tracker-stream server up
    """


@server.command()
@_directory_option
@click.option("--host", default="127.0.0.1", show_default=True, help="Address that the API binds.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    help=f"0 picks a free one.  [default: the one it had before, else {DEFAULT_PORT}, else a free one]",
)
@click.option(
    "--credential-lifetime",
    type=click.IntRange(1, 43_200),
    default=DEFAULT_CREDENTIAL_LIFETIME_S,
    show_default=True,
    metavar="SECONDS",
    help="Lifetime of upload credentials. Below 900 only the embedded S3 enforces it.",
)
@click.option(
    "--s3-endpoint",
    metavar="URL",
    help="Use this S3 instead of the embedded one; its keys come from AWS_ACCESS_KEY_ID ...",
)
@click.option("--s3-region", default="us-east-1", show_default=True)
@click.option("--s3-bucket", metavar="NAME", help="Bucket of that S3; without --s3-endpoint, AWS is used.")
@click.option("--s3-role-arn", default=_ANY_ROLE_ARN, show_default=True, help="Role to assume for upload credentials.")
@click.option(
    "--s3-credentials",
    type=click.Choice(["sts", "static"]),
    default="sts",
    show_default=True,
    help="What uploaders get for another S3: short-lived keys for one run from its STS, or the keys of the environment.",
)
@click.option(
    "--foreground", is_flag=True, help="Stay in the foreground until Ctrl-C or SIGTERM, then stop everything."
)
def up(foreground: bool, directory: Path, **options: Any) -> None:
    """Start the server in the background, and return when it accepts requests.

    \b
    Example: tracker-stream server up --port 0
    """
    from streaming.server.process.control import record

    place = ServerDirectory(directory)
    place.prepare()
    with place.locked():
        status = _already_up(place)
        if status:
            _warn_if_different(status, options)
            made = None
        else:
            made = _start(place, detach=not foreground, **options)
            status = record(made)
            if not foreground:
                made.let_go()
    _say_where(status, place)
    for warning in made.warnings if made else []:
        click.echo(f"Warning: {warning}", err=True)
    if made and foreground:
        _stay(made)


@server.command()
@_directory_option
def down(directory: Path) -> None:
    """Stop the processes that `up` started, and nothing else. Runs and objects are kept.

    \b
    Example: tracker-stream server down
    """
    from streaming.server.process.control import bring_down

    place = ServerDirectory(directory)
    if not place.path.is_dir():
        click.echo("No server has run in that directory.")
        return
    with place.locked():
        click.echo("The server is down." if bring_down(place) else "The server was not up.")


@server.command()
@_directory_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def status(directory: Path, as_json: bool) -> None:
    """Show what is running. Exit code 0 if the server accepts requests, 1 if not.

    \b
    Example: tracker-stream server status
    """
    from streaming.server.process.control import read_status

    found = read_status(ServerDirectory(directory))
    report: dict[str, Any] = found.as_json() if found else {"up": False, "processes": {}}
    click.echo(json.dumps(report) if as_json else _status_text(report, directory))
    raise SystemExit(0 if report["up"] else 1)


@server.command()
@_directory_option
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def env(directory: Path, as_json: bool) -> None:
    """Print the environment for a shell: eval "$(tracker-stream server env)".

    \b
    Example: eval "$(tracker-stream server env)"
    """
    from streaming.server.process.control import running

    environment = running(ServerDirectory(directory)).environment
    if as_json:
        click.echo(json.dumps(environment))
        return
    for name, value in environment.items():
        click.echo(f"export {name}={shlex.quote(value)}")


@server.command("open")
@_directory_option
def open_page(directory: Path) -> None:
    """Open the server's page in the browser, logged in. The printed link works once, within ten minutes.

    \b
    Example: tracker-stream server open
    """
    import webbrowser

    from streaming.server.process.control import running

    place = ServerDirectory(directory)
    link = _link(running(place), place)
    click.echo(link)
    if any(os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")) or sys.platform == "darwin":
        webbrowser.open(link)


def _link(status: Status, place: ServerDirectory) -> str:
    """The page, with a ticket for the user of this process behind the #."""
    from streaming.server.storage.database import ServerDatabase
    from streaming.server.storage.sessions import SessionStore, holder_name
    from streaming.server.storage.tokens import TokenStore

    database = ServerDatabase(place.database)
    token = TokenStore(database).find(place.token_file.read_text(encoding="ascii").strip())
    if token is None:
        return f"{status.api_url}/"
    holder = holder_name(os.getuid() if peers.can_tell() else None)
    return f"{status.api_url}/login#ticket={SessionStore(database).ticket(token, holder)}"


@server.group()
def token() -> None:
    """Manage bearer tokens. Each sees only its own runs.

    \b
    Example: tracker-stream server token add ada
    """


@token.command("add")
@_directory_option
@click.argument("name")
def token_add(directory: Path, name: str) -> None:
    """Create a token and print it once: only its hash is kept.

    \b
    Example: tracker-stream server token add ada
    """
    click.echo(_tokens(directory).add(name))


@token.command("list")
@_directory_option
def token_list(directory: Path) -> None:
    """List the tokens' names.

    \b
    Example: tracker-stream server token list
    """
    for entry in _tokens(directory).list():
        state = f"revoked {entry.revoked_at}" if entry.revoked_at else "valid"
        click.echo(f"{entry.name}\tmade {entry.created_at}\t{state}")


@token.command("revoke")
@_directory_option
@click.argument("name")
def token_revoke(directory: Path, name: str) -> None:
    """Revoke a token. Its runs are kept.

    \b
    Example: tracker-stream server token revoke ada
    """
    _tokens(directory).revoke(name)
    click.echo(
        f"The token {name!r} is refused from now on. Upload credentials that were given for it until now still work "
        "until they expire: at most as long as `server up --credential-lifetime` says (900 s by default)."
    )


def _tokens(directory: Path) -> Any:
    from streaming.server.storage.database import ServerDatabase
    from streaming.server.storage.tokens import TokenStore

    place = ServerDirectory(directory)
    place.prepare()
    return TokenStore(ServerDatabase(place.database))


def _already_up(place: ServerDirectory) -> Status | None:
    """The running server; what is left of one that lost a process is ended."""
    from streaming.server.process.control import bring_down, read_status

    status = read_status(place)
    if status and status.is_answering():
        return status
    bring_down(place)
    return None


def _start(place: ServerDirectory, *, detach: bool, **options: Any) -> EmbeddedServer:
    from streaming.server.process.embedded import EmbeddedServer
    from streaming.server.process.ports import choose_port

    s3, host = _other_s3(options), options["host"]
    port, notice = choose_port(host, asked=options["port"], before=place.remembered_port(), usual=DEFAULT_PORT)
    lifetime_s = options["credential_lifetime"]
    made = EmbeddedServer(place.path, host=host, port=port, credential_lifetime_s=lifetime_s, s3=s3, detach=detach)
    _warn_if_exposed(host, own_s3=made.s3_is_embedded)
    made.start()
    made.warnings = [*filter(None, [notice]), *made.warnings]
    return made


def _other_s3(options: dict[str, Any]) -> S3Settings | None:
    """The S3 of the options with the keys of the environment; None means the embedded one. Raises click.UsageError."""
    is_static = options["s3_credentials"] == "static"
    if not options["s3_endpoint"] and not options["s3_bucket"]:
        if is_static:
            raise click.UsageError("--s3-credentials static is for another S3: give --s3-endpoint or --s3-bucket, too.")
        return None
    return S3Settings(
        bucket=_usable_bucket(options["s3_bucket"] or DEFAULT_BUCKET),
        role_arn=options["s3_role_arn"],
        access_key=_needed_variable("AWS_ACCESS_KEY_ID"),
        secret_key=_needed_variable("AWS_SECRET_ACCESS_KEY"),
        session_token=os.environ.get("AWS_SESSION_TOKEN"),
        endpoint_url=_usable_endpoint(options["s3_endpoint"]),
        region=_usable_region(options["s3_region"]),
        hands_out_keys=is_static,
    )


def _usable_bucket(bucket: str) -> str:
    """Refused here, by the client's own rule, and not by every client later."""
    try:
        prefix.require_prefix(f"s3://{bucket}/runs")
    except NotTheService:
        raise click.UsageError(
            f"--s3-bucket {bucket!r} is not a bucket's name: 3 to 63 of a-z, 0-9, . and - (no _)."
        ) from None
    return bucket


def _usable_region(region: str) -> str:
    try:
        return prefix.require_region(region)
    except NotTheService:
        raise click.UsageError(
            f"--s3-region {region!r} is not a region: a-z, 0-9 and - only, as in us-east-1."
        ) from None


def _usable_endpoint(url: str | None) -> str | None:
    try:
        return config.require_safe_url(url, "--s3-endpoint") if url else None
    except BadArgument as exc:
        raise click.UsageError(f"{exc} (clients refuse it, too)") from exc


def _needed_variable(name: str) -> str:
    value = os.environ.get(name)
    if not value:
        raise click.UsageError(f"--s3-endpoint and --s3-bucket need {name} in the environment.")
    return value


def _warn_if_different(status: Status, options: dict[str, Any]) -> None:
    """A running server keeps the options it was started with. What was not asked for is no difference."""
    endpoint = status.environment.get("SENTINEL_S3_ENDPOINT_URL") if status.s3 is None else None
    pairs = {
        "--host": (options["host"], status.host),
        "--port": (options["port"] or status.port, status.port),
        "--credential-lifetime": (options["credential_lifetime"], status.credential_lifetime_s),
        "--s3-endpoint": ((options["s3_endpoint"] or "").rstrip("/") or endpoint, endpoint),
        "--s3-bucket": (options["s3_bucket"] or status.bucket, status.bucket),
    }
    different = [name for name, (asked, has) in pairs.items() if asked != has]
    if different:
        click.echo(
            f"Warning: the server was up already and keeps the {', '.join(different)} that it was started with: "
            "`tracker-stream server down` first to change that.",
            err=True,
        )


def _warn_if_exposed(host: str, *, own_s3: bool) -> None:
    if config.is_loopback(host):
        return
    click.echo(
        f"Warning: {host} is not a loopback address. Whoever reaches it can try tokens, and tokens and rows travel there "
        "unencrypted (plain HTTP): put it behind a TLS proxy or keep it in a network you trust.",
        err=True,
    )
    if own_s3:
        click.echo(
            "Warning: the embedded S3 stays on loopback, so other machines can register runs but upload no objects. "
            "Give them an S3 they reach with --s3-endpoint.",
            err=True,
        )


def _say_where(status: Status, place: ServerDirectory) -> None:
    click.echo(f"The server is up: {status.api_url} (bound to {status.host}, process {status.api.command.pid})")
    if status.s3:
        endpoint = status.environment["SENTINEL_S3_ENDPOINT_URL"]
        click.echo(f"S3 is SeaweedFS: {endpoint} (loopback only, process {status.s3.command.pid})")
    click.echo(f"Its page: {_link(status, place)} (logs you in once; later: tracker-stream server open)")
    click.echo('Next: eval "$(tracker-stream server env)"')


def _status_text(report: dict[str, Any], directory: Path) -> str:
    lines = [f"{'up' if report['up'] else 'down'}: {directory}"]
    lines += [f"  {key}: {report[key]}" for key in ("api_url", "s3_endpoint_url", "bucket") if report.get(key)]
    for name, process in report["processes"].items():
        lines.append(f"  {name}: process {process['pid']} {'runs' if process['running'] else 'has ended'}")
    return "\n".join(lines)


def _stay(made: EmbeddedServer) -> None:
    """Until a signal comes or a process of the server ends; then end everything."""
    import threading

    asked_to_end = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: asked_to_end.set())
    try:
        while not asked_to_end.wait(0.5) and made.is_running():
            pass
    finally:
        made.stop()
        made.directory.forget_state()
    if not asked_to_end.is_set():
        raise click.ClickException(
            f"A process of the server has ended, by `server down` or by itself: see the logs in {made.directory.path}."
        )
