# SPDX-License-Identifier: Apache-2.0
"""The keys of `vtpm.toml` and of `guests.d/NAME.toml`.

A guest's file has the keys of `Identity` and `VtpmOptions` at its top and a table [front]; what it
leaves out of the latter two is as [vtpm] and [front] of `vtpm.toml` say. Paths of state folders and
sockets are no keys: they belong to whoever starts the daemons.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final
from uuid import UUID

from daemons.runtime.config.endpoints import TcpEndpoint
from daemons.runtime.config.kinds import (
    AUTH,
    BOOL,
    ENDPOINTS,
    ID_LAST,
    LABEL,
    LEVEL,
    LOCALITIES,
    MODE,
    NV_INDEX,
    PATH,
    PCRS,
    UIDS,
    UUID_TEXT,
    choice,
    integer,
    optional,
)
from daemons.runtime.config.schema import key, required
from daemons.runtime.config.values import (
    DEFAULT_NV_INDEX,
    ChipStartup,
    EndorsementKey,
    FreshnessMode,
    LocalityRule,
    StartupKind,
)
from daemons.runtime.log import Level
from daemons.runtime.secret import WELL_KNOWN

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

MAX_KEY_POOL: Final = 64
CONFIG_FOLDER: Final = Path("/etc/vtpm")
"""Where the configuration of a machine is, for its units and for `vtpmctl`."""
DEFAULT_MANAGER: Final = Path("/run/vtpm/vtpmmgr/vtpmmgr.sock")
"""Where the manager's unit listens."""


@dataclass(frozen=True, slots=True)
class HwtpmOptions:
    """[hwtpm]: the emulated chip."""

    startup: ChipStartup = key(
        choice(ChipStartup),
        default=ChipStartup.CLEAR,
        help="What firmware tells the chip after power-on.",
    )
    key_pool: int = key(
        integer(0, MAX_KEY_POOL), default=2, help="How many RSA keys are made ahead of time."
    )
    loglevel: Level = key(LEVEL, default=Level.INFO, live=True, help="What hwtpm logs.")


@dataclass(frozen=True, slots=True)
class ManagerOptions:
    """[manager]: vtpmmgr and how it uses the hardware TPM."""

    locality: int = key(
        integer(0, 4),
        default=2,
        help="Locality at which the hardware TPM is used, and to which the root secret is sealed.",
    )
    interrupts: bool = key(
        BOOL,
        default=True,
        help="Whether to wait for the chip's interrupts, if it has any; it is polled otherwise.",
    )
    seal_pcrs: frozenset[int] = key(
        PCRS,
        default=frozenset(range(8)),
        help="PCRs of the hardware TPM to which a new root secret is sealed. Counts at the first "
        "start only.",
    )
    nv_index: int = key(
        NV_INDEX,
        default=DEFAULT_NV_INDEX,
        help="NV area of the hardware TPM that names the newest state of the database.",
    )
    owner_auth: str = key(
        AUTH,
        default=WELL_KNOWN,
        help="Secret of the hardware TPM's owner. The file has one line: well-known, hash: and 40 "
        "hex digits, or text: and a passphrase. Only vtpmmgr's user must be able to read it.",
    )
    srk_auth: str = key(
        AUTH, default=WELL_KNOWN, help="Secret of its storage root key, in the same forms."
    )
    freshness: FreshnessMode = key(
        choice(FreshnessMode),
        default=FreshnessMode.NV,
        help='How an older copy of the database is noticed: "nv" binds every commit to the '
        'hardware TPM before it is acknowledged; "counter" binds at start, at stop and every few '
        'seconds, and notices only what is older than the last binding; "none" notices nothing.',
    )
    xen_lists: bool = key(
        BOOL,
        default=False,
        help="Whether configuration lists that are signed as in Xen are taken: SHA-1, and no group "
        "named in them.",
    )
    shared_uid: bool = key(
        BOOL,
        default=False,
        live=True,
        help="Whether guests may have the same uid. The uid is what separates them: daemons that "
        "share one could each be any of the others. vtpmctl up sets it in its own folder.",
    )
    loglevel: Level = key(LEVEL, default=Level.INFO, live=True, help="What vtpmmgr logs.")


@dataclass(frozen=True, slots=True)
class VtpmOptions:
    """[vtpm], and the same keys in a guest's file: its vTPM."""

    startup: StartupKind = key(
        choice(StartupKind),
        default=StartupKind.CLEAR,
        help='Type of the TPM_Startup that follows power-on. "save" resumes what TPM_SaveState '
        'kept, and is "clear" if there is nothing; "deactivated" leaves the TPM without most '
        "commands until the next power-on.",
    )
    hwinitpcr: frozenset[int] = key(
        PCRS, default=frozenset(), help="PCRs that start with the hardware TPM's value."
    )
    maintcmds: bool = key(BOOL, default=False, help="Whether the five maintenance commands answer.")
    localities: tuple[LocalityRule, ...] = key(
        LOCALITIES,
        default=(),
        live=True,
        help="Localities that clients with a label may use (security label of their socket, or "
        "uid:NUMBER on systems without); *SUFFIX matches any label that ends so. The first match "
        "counts, no match is refused. An empty list opens all localities.",
    )
    ek: EndorsementKey = key(
        choice(EndorsementKey),
        default=EndorsementKey.CREATE,
        help="Whether a new TPM gets its endorsement key at once.",
    )
    nvlock: bool = key(
        BOOL,
        default=True,
        help="Whether a new TPM comes with its NV memory locked, so that permissions of areas "
        "count. With false it is open for what a maker stores there: vtpmctl manufacture, which "
        "locks it by --lock-nvram.",
    )
    optin: bool = key(
        BOOL,
        default=True,
        help="Whether a new TPM comes enabled and activated. With false it is neither, as the "
        "specification has it, until somebody with physical presence opts in.",
    )
    loglevel: Level = key(LEVEL, default=Level.INFO, live=True, help="What vtpm and tpmfront log.")


@dataclass(frozen=True, slots=True)
class FrontOptions:
    """[front]: what the guest's TPM software connects to."""

    stream: bool = key(
        BOOL, default=True, help="Whether there is a socket with the raw TPM byte stream."
    )
    stream_mode: int = key(
        MODE,
        default=0o600,
        help="Permissions of that socket, where tpmfront makes it itself: who may write may use "
        "the TPM.",
    )
    control: bool = key(
        BOOL, default=True, help="Whether there is a socket with the swtpm control channel."
    )
    control_mode: int = key(
        MODE,
        default=0o600,
        help="Permissions of that socket, where tpmfront makes it itself: who may write may use "
        "the TPM from any locality, power it off and take its state, encrypted.",
    )
    tcp: tuple[TcpEndpoint, ...] = key(
        ENDPOINTS,
        default=(),
        help="TCP sockets with the raw TPM byte stream, by default at 127.0.0.1 and of locality 0: "
        "whoever is on the machine may use the TPM there. Under systemd tpmfront-tcp@NAME.socket "
        "makes them, and vtpmctl guest add --tcp writes both.",
    )
    tcp_any_address: bool = key(
        BOOL,
        default=False,
        help="Whether these may be at addresses that other machines reach. TCP asks for no "
        "password and encrypts nothing.",
    )


@dataclass(frozen=True, slots=True)
class Identity:
    """A guest's file: who it is, and what the manager lets it be."""

    uuid: UUID = required(
        UUID_TEXT,
        live=True,
        help="Of the vTPM: its identity towards the manager. No two guests have the same.",
    )
    uid: int | None = key(
        optional(integer(0, ID_LAST)),
        default=None,
        live=True,
        absent="that of the system user vtpm-NAME",
        help="User of the guest's daemons; whoever has it may connect as this vTPM.",
    )
    label: str | None = key(
        optional(LABEL),
        default=None,
        live=True,
        absent="NAME",
        help="Stands in for the XSM label where the kernel reports none of the form "
        "user:role:type.",
    )
    group: int = key(
        integer(0, ID_LAST),
        default=0,
        live=True,
        help="Number of its group in the manager; vTPMs of group 0 are made on their first save.",
    )
    admin: bool = key(
        BOOL, default=False, live=True, help="Whether it may send management commands."
    )


@dataclass(frozen=True, slots=True)
class CompatOptions:
    """[compat]: processes that are started with swtpm's command line."""

    uids: frozenset[int] = key(
        UIDS,
        default=frozenset(),
        live=True,
        help="Users that may make vTPMs of their own, in group 0, without a file in guests.d: "
        "those whose programs start tpmfront swtpm-compat, such as QEMU's. Each may use only what "
        "it has made itself. None of them may be a guest's, without shared_uid.",
    )
    manager: Path = key(
        PATH,
        default=DEFAULT_MANAGER,
        help="Socket of vtpmmgr for tpmfront swtpm-compat; VTPM_MANAGER in the environment counts "
        "before it.",
    )


MACHINE_TABLES: Final[Mapping[str, type[DataclassInstance]]] = {
    "hwtpm": HwtpmOptions,
    "manager": ManagerOptions,
    "vtpm": VtpmOptions,
    "front": FrontOptions,
    "compat": CompatOptions,
}
"""Tables of `vtpm.toml`; there are no keys outside of them."""

GUEST_TABLES: Final[Mapping[str, type[DataclassInstance]]] = {"front": FrontOptions}
"""Tables of a guest's file, beside the keys of `Identity` and `VtpmOptions`."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What `vtpm.toml` says."""

    hwtpm: HwtpmOptions = HwtpmOptions()
    manager: ManagerOptions = ManagerOptions()
    vtpm: VtpmOptions = VtpmOptions()
    front: FrontOptions = FrontOptions()
    compat: CompatOptions = CompatOptions()


@dataclass(frozen=True, slots=True)
class Guest:
    """What `guests.d/NAME.toml` says, with the machine's defaults in it.

    Attributes:
        name: of the guest and of the file.
        identity: see there.
        vtpm: of its vTPM.
        front: of its front.
    """

    name: str
    identity: Identity
    vtpm: VtpmOptions = VtpmOptions()
    front: FrontOptions = FrontOptions()

    @property
    def label(self) -> str:
        """What stands in for the XSM label."""
        return self.name if self.identity.label is None else self.identity.label


@dataclass(frozen=True, slots=True)
class GuestDefaults:
    """What a daemon of one guest goes by where its command line says nothing.

    Attributes:
        name: of the guest; "" if nobody has said one.
        uuid: likewise None.
        vtpm: of its vTPM.
        front: of its front.
    """

    name: str = ""
    uuid: UUID | None = None
    vtpm: VtpmOptions = VtpmOptions()
    front: FrontOptions = FrontOptions()


@dataclass(frozen=True, slots=True)
class Configuration:
    """A whole folder, without mistakes.

    Attributes:
        folder: with `vtpm.toml` and `guests.d`.
        machine: for all daemons.
        guests: by name; each has a uid.
    """

    folder: Path
    machine: Machine
    guests: Mapping[str, Guest]
