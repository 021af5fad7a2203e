# SPDX-License-Identifier: Apache-2.0
"""Which daemons a stack consists of, and how each is started."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from daemons.runtime.secret import WELL_KNOWN
from daemons.vtpmctl.layout import Layout

FRONT_SOCKET_MODE = "0666"
"""A tcsd runs as another user; who can reach the folder may use the TPM."""


class Stage(enum.IntEnum):
    """Order of an orderly stop, first to last: who asks before who answers."""

    FRONT = 0
    VTPM = 1
    MANAGER = 2
    HARDWARE = 3


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest and the identity of its vTPM."""

    name: str
    uuid: UUID


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `vtpmctl up` was asked for.

    Attributes:
        layout: the folder.
        guests: names, at least one, all different.
        hw_init_pcrs: values of `--hwinitpcr`, handed to every vtpm as they are.
        ek: `create` or `none`, for every vtpm.
        owner_auth: as `daemons.runtime.secret.parse_auth` takes it; for the hardware TPM.
        srk_auth: the same.
        loglevel: of every daemon.
        watchdog_s: how long a daemon may be silent before it is taken to be hung.
    """

    layout: Layout
    guests: tuple[str, ...]
    hw_init_pcrs: tuple[str, ...] = ()
    ek: str = "create"
    owner_auth: str = field(default=WELL_KNOWN, repr=False)
    srk_auth: str = field(default=WELL_KNOWN, repr=False)
    loglevel: str = "info"
    watchdog_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """How one daemon is started.

    Attributes:
        name: unique in the stack; also the name of its notify socket.
        module: what to start: a module with a click command `main`.
        args: its command line.
        stage: when it is stopped.
        guest: the guest that it serves; None serves all.
        volatile: it gets a memfd that outlives it.
        control: where it answers `vtpmctl status`; None: nowhere.
    """

    name: str
    module: str
    args: tuple[str, ...] = field(repr=False)
    stage: Stage
    guest: Guest | None = None
    volatile: bool = False
    control: Path | None = None


def plan(config: UpConfig, guests: Iterable[Guest]) -> tuple[ChildSpec, ...]:
    """Return the daemons of a stack, in the order in which they are started."""
    layout = config.layout
    level = ("--loglevel", config.loglevel)
    children = [
        ChildSpec(
            name="hwtpm",
            module=_module("hwtpm"),
            args=_args(*level, "--state", layout.hwtpm_state, "--run", layout.hwtpm_run),
            stage=Stage.HARDWARE,
            volatile=True,
            control=layout.hwtpm_control_socket,
        ),
        ChildSpec(
            name="vtpmmgr",
            module=_module("vtpmmgr"),
            args=_args(
                *level,
                *("--state", layout.vtpmmgr_state),
                *("--socket", layout.vtpmmgr_socket),
                *("--control", layout.vtpmmgr_control_socket),
                *("--tis", layout.hwtpm_run),
                *("--clients", layout.clients),
                *("--owner-auth", config.owner_auth),
                *("--srk-auth", config.srk_auth),
            ),
            stage=Stage.MANAGER,
            control=layout.vtpmmgr_control_socket,
        ),
    ]
    for guest in guests:
        paths = layout.guest(guest.name)
        identity = ("--uuid", str(guest.uuid), "--name", guest.name)
        pcrs = [word for value in config.hw_init_pcrs for word in ("--hwinitpcr", value)]
        children += [
            ChildSpec(
                name=f"vtpm-{guest.name}",
                module=_module("vtpm"),
                args=_args(
                    *level,
                    *identity,
                    *("--state", paths.state),
                    *("--socket", paths.back_socket),
                    *("--control", paths.control_socket),
                    *("--manager", layout.vtpmmgr_socket),
                    *("--ek", config.ek),
                    *pcrs,
                ),
                stage=Stage.VTPM,
                guest=guest,
                volatile=True,
                control=paths.control_socket,
            ),
            ChildSpec(
                name=f"tpmfront-{guest.name}",
                module=_module("tpmfront"),
                args=_args(
                    *level,
                    *identity,
                    *("--tpm", paths.tpm_socket),
                    *("--backend", paths.back_socket),
                    *("--control", paths.front_control_socket),
                    *("--socket-mode", FRONT_SOCKET_MODE),
                ),
                stage=Stage.FRONT,
                guest=guest,
                control=paths.front_control_socket,
            ),
        ]
    return tuple(children)


def _module(daemon: str) -> str:
    return f"daemons.{daemon}.cli"


def _args(*words: str | Path) -> tuple[str, ...]:
    return tuple(map(str, words))


MODULES = tuple(_module(daemon) for daemon in ("hwtpm", "vtpmmgr", "vtpm", "tpmfront"))
"""What the fork server imports."""


def clients_table(guests: Iterable[Guest]) -> str:
    """Return the manager's table of identities: every guest is this process's own user.

    Running as one user separates nothing: each of these daemons could be any of the others.
    """
    uid = os.geteuid()
    return "# Written by vtpmctl up at each start.\n" + "".join(
        f'\n[[client]]\nuuid = "{guest.uuid}"\nuid = {uid}\nlabel = "{guest.name}"\n'
        "group = 0\nadmin = false\n"
        for guest in guests
    )
