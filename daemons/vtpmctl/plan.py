# SPDX-License-Identifier: Apache-2.0
"""Which daemons a stack consists of, and how each is started."""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from pathlib import Path
from uuid import UUID

from daemons.vtpmctl.layout import Layout


class Stage(enum.IntEnum):
    """Order of an orderly stop, first to last: who asks before who answers."""

    FRONT = 0
    VTPM = 1
    MANAGER = 2
    HARDWARE = 3


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest and the identity of its vTPM.

    Attributes:
        name: of the guest.
        uuid: of its vTPM.
        has_stream: whether its front has a socket with the raw TPM byte stream.
        has_control: whether it has one with the swtpm control channel.
    """

    name: str
    uuid: UUID
    has_stream: bool = True
    has_control: bool = True


@dataclass(frozen=True, slots=True)
class UpConfig:
    """What `vtpmctl up` was asked for. What is None, or empty, is as the configuration says.

    Attributes:
        layout: the folder.
        guests: names, all different; empty means all that are configured.
        hw_init_pcrs: values of `--hwinitpcr`, handed to every vtpm as they are.
        ek: `create` or `none`, for every vtpm.
        owner_auth: as `daemons.runtime.secret.parse_auth` takes it; for the hardware TPM.
        srk_auth: the same.
        loglevel: of every daemon.
        watchdog_s: how long a daemon may be silent before it is taken to be hung.
    """

    layout: Layout
    guests: tuple[str, ...] = ()
    hw_init_pcrs: tuple[str, ...] = ()
    ek: str | None = None
    owner_auth: str | None = field(default=None, repr=False)
    srk_auth: str | None = field(default=None, repr=False)
    loglevel: str | None = None
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


def plan_machine(config: UpConfig) -> tuple[ChildSpec, ...]:
    """Return the daemons that serve all guests, in the order in which they are started."""
    layout = config.layout
    common = _common(config)
    return (
        ChildSpec(
            name="hwtpm",
            module=_module("hwtpm"),
            args=_args(*common, "--state", layout.hwtpm_state, "--run", layout.hwtpm_run),
            stage=Stage.HARDWARE,
            volatile=True,
            control=layout.hwtpm_control_socket,
        ),
        ChildSpec(
            name="vtpmmgr",
            module=_module("vtpmmgr"),
            args=_args(
                *common,
                *("--state", layout.vtpmmgr_state),
                *("--socket", layout.vtpmmgr_socket),
                *("--control", layout.vtpmmgr_control_socket),
                *("--tis", layout.hwtpm_run),
                *("--admin", layout.vtpmmgr_admin_socket),
                *_given("--owner-auth", config.owner_auth),
                *_given("--srk-auth", config.srk_auth),
            ),
            stage=Stage.MANAGER,
            control=layout.vtpmmgr_control_socket,
        ),
    )


def plan_guest(config: UpConfig, guest: Guest) -> tuple[ChildSpec, ...]:
    """Return the daemons of one guest, in the order in which they are started."""
    layout = config.layout
    paths = layout.guest(guest.name)
    common = (*_common(config), "--guest", guest.name)
    pcrs = [word for value in config.hw_init_pcrs for word in ("--hwinitpcr", value)]
    return (
        ChildSpec(
            name=f"vtpm-{guest.name}",
            module=_module("vtpm"),
            args=_args(
                *common,
                *("--state", paths.state),
                *("--socket", paths.back_socket),
                *("--control", paths.control_socket),
                *("--manager", layout.vtpmmgr_socket),
                *_given("--ek", config.ek),
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
                *common,
                *("--tpm", paths.tpm_socket),
                *("--ctrl", paths.ctrl_socket),
                *("--backend", paths.back_socket),
                *("--control", paths.front_control_socket),
            ),
            stage=Stage.FRONT,
            guest=guest,
            control=paths.front_control_socket,
        ),
    )


def _common(config: UpConfig) -> tuple[str | Path, ...]:
    return ("--config", config.layout.etc, *_given("--loglevel", config.loglevel))


def _given(option: str, value: str | None) -> tuple[str, ...]:
    return () if value is None else (option, value)


def _module(daemon: str) -> str:
    return f"daemons.{daemon}.cli"


def _args(*words: str | Path) -> tuple[str, ...]:
    return tuple(map(str, words))


MODULES = tuple(_module(daemon) for daemon in ("hwtpm", "vtpmmgr", "vtpm", "tpmfront"))
"""What the fork server imports."""
