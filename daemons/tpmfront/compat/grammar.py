# SPDX-License-Identifier: Apache-2.0
"""The options of swtpm: what there is, what is refused, and what the values say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from daemons.tpmfront.compat import suboptions
from daemons.tpmfront.compat.options import Interface
from daemons.tpmfront.compat.suboptions import Kind

_CHANNEL_FORM: Final = "type=TYPE,path=PATH[,...]"
_CHANNEL_KINDS: Final[Mapping[str, Kind]] = {
    "type": suboptions.text,
    "path": suboptions.text,
    "port": suboptions.integer,
    "bindaddr": suboptions.text,
    "ifname": suboptions.text,
    "fd": suboptions.integer,
    "mode": suboptions.mode,
    "uid": suboptions.user,
    "gid": suboptions.group,
}
"""What --ctrl and --server both say of a channel."""
_KEY_FORM: Final = "file=PATH|pwdfile=PATH[,...]"
_KEY_HELP: Final = (
    "file or fd with format=hex or binary, pwdfile or pwdfd with kdf=pbkdf2 or sha512; "
    "mode=aes-cbc or aes-256-cbc; remove."
)
_KEY_KINDS: Final[Mapping[str, Kind]] = {
    "file": suboptions.text,
    "mode": suboptions.text,
    "format": suboptions.text,
    "remove": suboptions.boolean,
    "pwdfile": suboptions.text,
    "kdf": suboptions.text,
    "fd": suboptions.integer,
    "pwdfd": suboptions.integer,
}


@dataclass(frozen=True, slots=True)
class Option:
    """An option.

    Attributes:
        name: the long one.
        help: what it does.
        letter: the short one; "" if it has none.
        form: of its value; None if it takes none.
        kinds: of the names in its value; None if the value has no such form.
        interfaces: that have it.
    """

    name: str
    help: str
    letter: str = ""
    form: str | None = None
    kinds: Mapping[str, Kind] | None = None
    interfaces: tuple[Interface, ...] = tuple(Interface)


_SOCKET: Final = (Interface.SOCKET,)
_CHARDEV: Final = (Interface.CHARDEV,)

OPTIONS: Final[Sequence[Option]] = (
    Option(
        "tpmstate",
        "Folder of the TPM, which must exist, also as backend-uri=dir://DIR; or environment "
        "TPM_PATH. What is in it is sealed by the manager. mode, lock, backup and fsync are read "
        "and mean nothing here.",
        form="dir=DIR[,...]",
        kinds={
            "dir": suboptions.text,
            "mode": suboptions.mode,
            "backend-uri": suboptions.text,
            "lock": suboptions.boolean,
            "backup": suboptions.boolean,
            "fsync": suboptions.boolean,
        },
    ),
    Option(
        "ctrl",
        "Control channel, as QEMU and swtpm_ioctl speak it: type=unixio with path, mode, uid and "
        "gid of a socket to make; type=tcp with port, bindaddr and ifname; or the number of an "
        "inherited socket that listens (fd) or is connected (clientfd). With terminate the process "
        "ends with its client.",
        form=_CHANNEL_FORM,
        kinds={
            **_CHANNEL_KINDS,
            "clientfd": suboptions.integer,
            "terminate": suboptions.boolean,
        },
    ),
    Option(
        "server",
        "Data channel, for raw TPM commands; named as that of --ctrl. With disconnect each "
        "connection ends after one response.",
        form=_CHANNEL_FORM,
        kinds={**_CHANNEL_KINDS, "disconnect": suboptions.boolean},
        interfaces=_SOCKET,
    ),
    Option(
        "port",
        "Data channel at this TCP port of 127.0.0.1, each connection for one command; or "
        "environment TPM_PORT.",
        letter="p",
        form="N",
        interfaces=_SOCKET,
    ),
    Option("chardev", "Character device.", letter="c", form="PATH", interfaces=_CHARDEV),
    Option(
        "fd",
        "Data channel, or character device, is this inherited descriptor; the process ends with "
        "its client.",
        letter="f",
        form="N",
    ),
    Option(
        "vtpm-proxy",
        "Refused; the vtpm-proxy command of tpmfront makes such a device.",
        interfaces=_CHARDEV,
    ),
    Option(
        "terminate",
        "End when the client of the data channel has gone.",
        letter="t",
        interfaces=_SOCKET,
    ),
    Option(
        "flags",
        "not-need-init: the TPM is on from the start, not from INIT of the control channel on. "
        "startup-clear, startup-state, startup-deactivated: on, and TPM_Startup of this type is "
        "sent. startup-none and disable-auto-shutdown are read.",
        form="FLAG[,...]",
        kinds=dict.fromkeys(
            (
                "not-need-init",
                "startup-none",
                "startup-clear",
                "startup-state",
                "startup-deactivated",
                "disable-auto-shutdown",
            ),
            suboptions.boolean,
        ),
    ),
    Option(
        "locality",
        "reject-locality-4: SET_LOCALITY refuses it. allow-set-locality: clients of the data "
        "channel may choose theirs by swtpm's vendor command.",
        form="FLAG[,...]",
        kinds=dict.fromkeys(("reject-locality-4", "allow-set-locality"), suboptions.boolean),
    ),
    Option(
        "key",
        f"Checked as swtpm does, and not used: the manager seals the state. {_KEY_HELP}",
        form=_KEY_FORM,
        kinds=_KEY_KINDS,
    ),
    Option(
        "migration-key",
        "The same: state leaves only under keys of the manager.",
        form=_KEY_FORM,
        kinds=_KEY_KINDS,
    ),
    Option(
        "migration",
        "incoming, release-lock-outgoing; checked, and not used.",
        form="FLAG[,...]",
        kinds=dict.fromkeys(("incoming", "release-lock-outgoing"), suboptions.boolean),
    ),
    Option(
        "log",
        "Where the log goes: appended to a file, or to an inherited descriptor (fd); file=- is "
        "nowhere. With level=N, 5 and above for developers, prefix=TEXT of each line, truncate.",
        form="file=PATH[,...]",
        kinds={
            "file": suboptions.text,
            "fd": suboptions.integer,
            "level": suboptions.integer,
            "prefix": suboptions.text,
            "truncate": suboptions.boolean,
        },
    ),
    Option(
        "pid",
        "Where the process id is written when the TPM can be used: file or fd.",
        form="file=PATH",
        kinds={"file": suboptions.text, "fd": suboptions.integer},
    ),
    Option("daemon", "Return when the TPM can be used, and serve in the background.", letter="d"),
    Option("runas", "Become this user first.", letter="r", form="USER"),
    Option("chroot", "Refused; RootDirectory= of systemd does it.", letter="R", form="DIR"),
    Option(
        "seccomp",
        "Checked, and not used: systemd's sandbox is there for it.",
        form="action=kill|log|none",
        kinds={"action": suboptions.text},
    ),
    Option("tpm2", "Refused: the TPM is a TPM 1.2."),
    Option("profile", "Refused: profiles are of TPM 2.0.", form="..."),
    Option("print-profiles", "Refused, likewise."),
    Option("print-info", "Refused; swtpm_ioctl --info asks a TPM that runs.", form="FLAGS"),
    Option("pcap", "Refused; vtpmctl trace records.", form="..."),
    Option("print-capabilities", "Print what there is, as JSON, and end."),
    Option("print-states", "Print what is in the folder of --tpmstate, as JSON, and end."),
    Option("help", "Print this and end.", letter="h"),
)

REFUSED: Final[Mapping[str, str]] = {
    "tpm2": "TPM 2.0 is not supported: this is a TPM 1.2; leave --tpm2 out",
    "profile": "--profile is for TPM 2.0, this is a TPM 1.2",
    "print-profiles": "--print-profiles is for TPM 2.0, this is a TPM 1.2",
    "print-info": "--print-info is not supported: ask a running TPM with swtpm_ioctl --info",
    "pcap": "--pcap is not supported: vtpmctl trace records commands",
    "chroot": "--chroot is not supported: use RootDirectory= of a systemd unit",
    "vtpm-proxy": "--vtpm-proxy is not supported here: use tpmfront vtpm-proxy",
}
"""Options that are read and refused, with the reason."""


def options_of(interface: Interface) -> list[Option]:
    """Return the options of an interface."""
    return [one for one in OPTIONS if interface in one.interfaces]
