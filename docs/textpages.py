# SPDX-License-Identifier: Apache-2.0
"""The manual pages that are neither of a command nor of a configuration file: the overview, section
7, and the files that the daemons keep, section 5. Sizes and versions are the code's."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from daemons.runtime.config.values import DEFAULT_NV_INDEX
from daemons.vtpm.image import MAGIC, MAX_STATE_BYTES, VERSION_MAJOR, VERSION_MINOR
from daemons.vtpmmgr.freshness import NV_BYTES
from daemons.vtpmmgr.store import APPLICATION_ID, SCHEMA_VERSION
from docs.formatpages import escape
from tpmcore.tpm12.stateformat import MAJOR, MINOR

Entry: TypeAlias = str | tuple[str, str] | tuple[str, ...]
"""A paragraph; a term and what it is; or lines to be kept, of which there are more than two."""

TITLES: Final = {"5": "File Formats", "7": "Miscellaneous"}


@dataclass(frozen=True, slots=True)
class TextPage:
    """A manual page of prose.

    Attributes:
        section: of the manual, "5" or "7".
        purpose: behind the name, as apropos(1) shows it.
        chapters: by heading.
    """

    section: str
    purpose: str
    chapters: Mapping[str, tuple[Entry, ...]]


TEXT_PAGES: Final[Mapping[str, TextPage]] = {
    "vtpm": TextPage(
        "7",
        "a TPM 1.2 for each guest, rooted in the TPM of the machine",
        {
            "DESCRIPTION": (
                "The vTPM suite is Xen's vTPM subsystem as ordinary Linux processes. Each guest "
                "has a TPM 1.2 of its own; one manager keeps the secrets of all of them and seals "
                "its own key to the TPM of the machine. TPM software, such as tcsd(8), connects "
                "to the Unix socket of its guest.",
                (
                    "TPM software",
                    "    |  TPM byte stream          /run/vtpm/guests/NAME/tpm.sock",
                    "    |  or swtpm's control channel  /run/vtpm/guests/NAME/ctrl.sock",
                    "tpmfront     one per guest",
                    "    |  Xen's split driver",
                    "vtpm         one per guest",
                    "    |  the same split driver",
                    "vtpmmgr      one per machine",
                    "    |  registers (TIS)",
                    "hwtpm        one per machine",
                ),
                "The hardware TPM in here is emulated. It is for tests and for teaching: who can "
                "read its state knows every secret.",
            ),
            "COMMANDS": (
                ("vtpmctl(1)", "What people use: guests, status, doctor, reload, a whole stack."),
                ("tpmfront(1)", "A guest's socket; lets many clients take turns."),
                ("vtpm(1)", "A guest's TPM; its image is encrypted."),
                ("vtpmmgr(1)", "Key and hash of every image, sealed to the hardware TPM."),
                ("hwtpm(1)", "The emulated chip."),
            ),
            "UNITS": (
                ("vtpm.target", "Everything; stop, start and restart it."),
                ("hwtpm.service, vtpmmgr.service", "The daemons of the machine."),
                (
                    "vtpm-guest@NAME.target",
                    "A guest, with vtpm@NAME.service and tpmfront@NAME.service.",
                ),
                (
                    "tpmfront-tcp@NAME.socket",
                    "Optional: the guest's TPM over TCP, see vtpm-guest.toml(5).",
                ),
                (
                    "tpmfront-proxy@NAME.service",
                    "Optional: the guest's TPM as /dev/tpmN of this kernel, see tpmfront(1).",
                ),
                (
                    "*.socket",
                    "The listening sockets; they stay while a daemon is replaced.",
                ),
                "A restart of a service or target is not noticed by the TPMs: commands wait, PCRs, "
                "sessions and connections stay. A stop is a power-off. A daemon that refuses what "
                "it finds ends with exit code 3, says why in the journal, and is left alone.",
            ),
            "FILES": (
                ("/etc/vtpm/vtpm.toml", "See vtpm.toml(5)."),
                ("/etc/vtpm/guests.d/NAME.toml", "See vtpm-guest.toml(5)."),
                (
                    "/etc/vtpm/credentials/owner-auth, srk-auth",
                    "Secrets of the hardware TPM's owner and storage root key, for root alone; "
                    "well-known ones without them.",
                ),
                ("/var/lib/vtpm", "What the daemons keep, see vtpm-formats(5)."),
                ("/run/vtpm", "Sockets."),
            ),
            "EXAMPLE": (
                (
                    "systemctl enable --now hwtpm.service vtpmmgr.service vtpm.target",
                    "vtpmctl guest add web1",
                    "vtpmctl status",
                    "vtpmctl doctor",
                ),
                "The manual of the suite goes on from here: first steps, operating, "
                "troubleshooting by message, and the threat model, in the folder docs of its "
                "sources.",
            ),
        },
    ),
    "vtpm-formats": TextPage(
        "5",
        "the files that the vTPM daemons keep",
        {
            "DESCRIPTION": (
                "Below /var/lib/vtpm, or DIR/state of vtpmctl up, each daemon has a folder of its "
                "own, mode 0700, with files of mode 0600, which it locks while it runs. Nobody "
                "else is to write there. Every byte is described in docs/formats.md of the "
                "sources.",
                "A reader refuses what it does not know: another magic, a newer version, a flag, "
                "bytes behind the end. It reads every older minor version. A daemon that finds "
                "its files not as they were written ends with exit code 3 and changes nothing.",
            ),
            "FILES": (
                (
                    "hwtpm/chip.state",
                    "The emulated chip's permanent state, in the clear, with a SHA-256 against "
                    "damage.",
                ),
                (
                    "vtpmmgr/manager.db, manager.db-wal",
                    f"SQLite 3, application id {APPLICATION_ID:#010x}, version {SCHEMA_VERSION}: "
                    "groups, vTPMs, seals, policies, the newest commit. They belong together. "
                    "Secrets are in AES-256-GCM envelopes below a key that the chip seals.",
                ),
                (
                    "guests/NAME/slot0, slot1",
                    f"Images of a guest's TPM, format {VERSION_MAJOR}.{VERSION_MINOR}, beginning "
                    f'with "{MAGIC.decode().strip()}" and a line feed: 56 bytes of header, at '
                    f"most {MAX_STATE_BYTES} bytes of state under AES-256-GCM, 16 bytes of tag. "
                    "Each save writes the other one; which one counts, and its key, the manager "
                    "knows.",
                ),
                (
                    "hwtpm/running, guests/NAME/running",
                    "Id of the boot in which the daemon serves; removed at an orderly stop. Tells "
                    "the next start whether PCRs were lost.",
                ),
                (".lock", "Empty; locked by the daemon that owns the folder."),
                (".NAME.new", "What a crash in the middle of a replacement has left; not read."),
            ),
            "THE STATE OF A TPM": (
                f"What is in a slot and in chip.state is format {MAJOR}.{MINOR}: a head, then "
                "numbered sections with a length each, in ascending order. One state has one "
                "encoding.",
            ),
            "IN THE CHIP": (
                f"An NV area of {NV_BYTES} bytes, index {DEFAULT_NV_INDEX:#010x} unless nv_index "
                "in vtpm.toml(5) says otherwise or the one beside it, names the newest commit of "
                "the database. A database that does not fit is refused as an older copy.",
            ),
            "BACKUP": (
                "With everything stopped, and all of it together with /etc/vtpm: parts of "
                "different age do not fit each other. chip.state opens the rest; keep a copy "
                "encrypted.",
            ),
        },
    ),
}


def text_page_text(name: str, others: Iterable[str]) -> str:
    """Return a page as roff (man(7) macros).

    Args:
        name: of the page.
        others: pages to see as well, "vtpm(1)".
    """
    page = TEXT_PAGES[name]
    lines = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Written by docs/textpages.py.',
        f'.TH {name.upper()} {page.section} "" "vtpm-suite" "{TITLES[page.section]}"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(page.purpose)}",
    ]
    for heading, entries in page.chapters.items():
        lines.append(f".SH {heading}")
        for entry in entries:
            lines += _entry(entry)
    return "\n".join([*lines, ".SH SEE ALSO", ", ".join(others), ""])


def _entry(entry: Entry) -> Iterator[str]:
    match entry:
        case str(text):
            yield from (".PP", escape(text))
        case (term, text):
            yield from (".TP", f".B {escape(term)}", escape(text))
        case _:
            yield from (".PP", ".nf", *map(escape, entry), ".fi")
