# SPDX-License-Identifier: Apache-2.0
"""The command `vtpmmgr`: options and configuration into one `ManagerConfig` and the table of its
clients, then the daemon."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

import click

from daemons.runtime.command_line import level_of, loglevel_option, required_config_option
from daemons.runtime.config.folder import load, load_without_bad_guests
from daemons.runtime.config.kinds import show_pcrs
from daemons.runtime.config.options import Configuration, ManagerOptions
from daemons.runtime.config.values import (
    FreshnessMode,
    parse_mode,
    parse_nv_index,
    parse_pcrs,
)
from daemons.runtime.daemon import end_before_start, run_daemon
from daemons.runtime.errors import DaemonError
from daemons.runtime.inherited import inherited_fds
from daemons.runtime.log import Log
from daemons.runtime.notify import Notifier
from daemons.runtime.reload import Reloads
from daemons.runtime.secret import WELL_KNOWN, parse_auth, parse_auth_option
from daemons.runtime.sockets import Listeners
from daemons.vtpmmgr.config import ManagerConfig
from daemons.vtpmmgr.daemon import Loaded, run
from daemons.vtpmmgr.identity import ClientTable

_T = TypeVar("_T")

EXAMPLE = """\b
Example:
  vtpmmgr --config /etc/vtpm --state /var/lib/vtpm/vtpmmgr \\
          --socket /run/vtpm/vtpmmgr.sock --tis /run/vtpm/hwtpm
"""

PROBE = "probe"
"""Value of --tpmirq that leaves the choice to the driver."""

_DEFAULTS = ManagerOptions()
_AUTH_FORMS = (
    "well-known, hash:<40 hex digits>, text:<passphrase> or file:<path>; or configured, which is "
    "what --config says"
)


@click.command(epilog=EXAMPLE, context_settings={"max_content_width": 100})
@required_config_option
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the database; made if missing.",
)
@click.option(
    "--socket",
    "socket_path",
    type=click.Path(path_type=Path),
    required=True,
    help="Where vTPMs connect (split driver).",
)
@click.option(
    "--socket-mode",
    default="600",
    show_default=True,
    metavar="OCTAL",
    help="Permissions of that socket. The guests' files decide who may be which vTPM.",
)
@click.option(
    "--control",
    type=click.Path(path_type=Path),
    help="Control socket for vtpmctl.  [default: control.sock beside --socket]",
)
@click.option(
    "--admin",
    type=click.Path(path_type=Path),
    help="Socket for management commands, of root and this process's user.  "
    "[default: admin.sock beside --socket]",
)
@click.option(
    "--tis",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the hardware TPM's locality sockets.",
)
@click.option(
    "--owner-auth",
    show_default=WELL_KNOWN,
    help=f"Secret of the hardware TPM's owner: {_AUTH_FORMS}.",
)
@click.option(
    "--srk-auth",
    show_default=WELL_KNOWN,
    help="Secret of its storage root key, in the same forms.",
)
@click.option(
    "--tpmdriver",
    type=click.Choice(["tpm_tis"]),
    default="tpm_tis",
    show_default=True,
    help="Driver of the hardware TPM.",
)
@click.option(
    "--tpmlocality",
    type=click.IntRange(0, 4),
    show_default=str(_DEFAULTS.locality),
    help="Locality at which it is used, and to which the root secret is sealed.",
)
@click.option(
    "--tpmirq",
    show_default=PROBE,
    metavar="NUMBER|probe",
    help="0 polls the chip; a number, or probe, waits for its interrupts if it has any.",
)
@click.option(
    "--seal-pcrs",
    show_default=show_pcrs(_DEFAULTS.seal_pcrs),
    metavar="LIST",
    help="PCRs of the hardware TPM to which a new root secret is sealed: none, all, N, X-Y, with "
    "commas. Counts at the first start only.",
)
@click.option(
    "--nv-index",
    show_default=f"{_DEFAULTS.nv_index:#010x}",
    metavar="INDEX",
    help="NV area of the hardware TPM that names the newest state of the database.",
)
@click.option(
    "--freshness",
    type=click.Choice([mode.value for mode in FreshnessMode]),
    show_default=ManagerOptions().freshness.value,
    help="How an older copy of the database is noticed: nv binds every commit to the hardware TPM "
    "before it is acknowledged; counter binds at start, at stop and every few seconds, and notices "
    "only what is older than the last binding; none notices nothing.",
)
@click.option(
    "--accept-rollback",
    is_flag=True,
    help="Do not serve: make the database that is there the newest, though the hardware TPM knows "
    "of a newer one, and end. Takes the owner's secret. See vtpmctl manager accept-rollback.",
)
@click.option(
    "--dry-run",
    is_flag=True,
    help="With --accept-rollback: change nothing. Either way what both sides have is printed, as "
    "JSON.",
)
@click.option(
    "--xen-lists",
    is_flag=True,
    help="Take configuration lists that are signed as in Xen: SHA-1, and no group named in them.",
)
@loglevel_option
@click.version_option(package_name="vtpm-suite")
def main(
    config_folder: Path,
    state: Path,
    socket_path: Path,
    socket_mode: str,
    control: Path | None,
    admin: Path | None,
    tis: Path,
    owner_auth: str | None,
    srk_auth: str | None,
    tpmdriver: str,
    tpmlocality: int | None,
    tpmirq: str | None,
    seal_pcrs: str | None,
    nv_index: str | None,
    freshness: str | None,
    accept_rollback: bool,
    dry_run: bool,
    xen_lists: bool,
    loglevel: str | None,
) -> None:
    """The manager of all vTPMs of a machine.

    Keeps the keys of their images in a database that only the machine's hardware TPM can open, and
    only in the configuration to which it was sealed. The first start takes ownership of the
    hardware TPM. Exit codes: 0 stopped in order, 1 failed, 2 usage, 3 refused to start because what
    it found does not verify.
    """
    del tpmdriver  # there is one
    if dry_run and not accept_rollback:
        raise click.UsageError("--dry-run needs --accept-rollback")
    mode = _parsed("--socket-mode", parse_mode, socket_mode)
    owner = _given("--owner-auth", parse_auth_option, owner_auth)
    srk = _given("--srk-auth", parse_auth_option, srk_auth)
    interrupts = _given("--tpmirq", _wants_interrupts, tpmirq)
    pcrs = _given("--seal-pcrs", lambda text: parse_pcrs((text,)), seal_pcrs)
    index = _given("--nv-index", parse_nv_index, nv_index)

    def resolve(configuration: Configuration) -> Loaded:
        configured = configuration.machine.manager
        config = ManagerConfig(
            state=state,
            socket=socket_path,
            socket_mode=mode,
            control=control or socket_path.with_name("control.sock"),
            admin=admin or socket_path.with_name("admin.sock"),
            tis=tis,
            owner_auth=_first(owner, lambda: parse_auth(configured.owner_auth)),
            srk_auth=_first(srk, lambda: parse_auth(configured.srk_auth)),
            locality=configured.locality if tpmlocality is None else tpmlocality,
            interrupts=configured.interrupts if interrupts is None else interrupts,
            seal_pcrs=tuple(sorted(configured.seal_pcrs if pcrs is None else pcrs)),
            nv_index=configured.nv_index if index is None else index,
            freshness=configured.freshness if freshness is None else FreshnessMode(freshness),
            accept_rollback=accept_rollback,
            dry_run=dry_run,
            xen_lists=xen_lists or configured.xen_lists,
            level=level_of(loglevel, configured.loglevel),
        )
        return Loaded(config, ClientTable.of_configuration(configuration))

    log = Log.of_process("vtpmmgr")
    try:
        configuration, findings = load_without_bad_guests(config_folder)
        loaded = resolve(configuration)
        inherited = inherited_fds()
    except DaemonError as error:
        end_before_start(error, log)
    log.level = loaded.config.level
    for finding in findings:
        log.error("guest left out", reason=finding)
    notifier = Notifier.from_environ()
    reloads = Reloads(lambda: resolve(load(config_folder)), notifier, log)
    run_daemon(
        partial(run, loaded, reloads, Listeners(inherited), notifier, log),
        log=log,
        notifier=notifier,
        inherited=inherited,
        on_hangup=reloads.request,
    )


def _given(option: str, parse: Callable[[str], _T | None], text: str | None) -> _T | None:
    return None if text is None else _parsed(option, parse, text)


def _parsed(option: str, parse: Callable[[str], _T], text: str) -> _T:
    try:
        return parse(text)
    except (DaemonError, ValueError) as error:
        raise click.BadParameter(str(error), param_hint=option) from error


def _first(given: _T | None, otherwise: Callable[[], _T]) -> _T:
    return otherwise() if given is None else given


def _wants_interrupts(text: str) -> bool:
    try:
        return text == PROBE or int(text, 0) != 0
    except ValueError:
        raise ValueError(f"{text!r} is neither a number nor {PROBE}") from None
