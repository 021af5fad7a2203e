# SPDX-License-Identifier: Apache-2.0
"""The manual pages of the configuration files, section 5, from the declared keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemons.runtime.config.options import (
    GUEST_TABLES,
    MACHINE_TABLES,
    Identity,
    VtpmOptions,
)
from daemons.runtime.config.schema import Key, keys_of

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_RULES: Final = (
    "TOML. An unknown key, a value of another kind than said here, a file or folder that belongs "
    "to somebody other than root or the reading user, or that others may write to, is a mistake; "
    "vtpmctl config check lists them all. A daemon that finds one does not start (exit code 3); "
    "one that runs goes on with what it has.",
    "What a daemon's command line says counts before the files. SIGHUP, or vtpmctl reload, makes "
    "the daemons read them again; keys marked with * count at once, the others at the next start.",
)


@dataclass(frozen=True, slots=True)
class FormatPage:
    """A manual page of a file.

    Attributes:
        purpose: behind the name, as apropos(1) shows it.
        path: of the file on a machine.
        description: paragraphs.
        sections: the keys by heading: tables by their name, keys at the top by what they are for.
        inherited: by heading, where the defaults come from that the file itself does not give.
        example: a whole file, which a test reads.
    """

    purpose: str
    path: str
    description: tuple[str, ...]
    sections: Mapping[str, type[DataclassInstance]]
    inherited: Mapping[str, str]
    example: str


FORMAT_PAGES: Final[Mapping[str, FormatPage]] = {
    "vtpm.toml": FormatPage(
        "configuration of the vTPM daemons of a machine",
        "/etc/vtpm/vtpm.toml",
        (
            "What hwtpm(1), vtpmmgr(1), vtpm(1) and tpmfront(1) read from the folder of their "
            "--config: how the machine's TPM is used, and what holds for guests whose own file, "
            "see vtpm-guest.toml(5), says nothing else. Without the file everything has its "
            "default. Paths of state folders and sockets are options of the commands.",
            *_RULES,
        ),
        {f"[{name}]": options for name, options in MACHINE_TABLES.items()},
        {},
        """[manager]
seal_pcrs = "0-7"
owner_auth = "file:/etc/vtpm/owner"

[vtpm]
hwinitpcr = "0-7"
loglevel = "warning"
""",
    ),
    "vtpm-guest.toml": FormatPage(
        "configuration of one guest's vTPM",
        "/etc/vtpm/guests.d/NAME.toml",
        (
            "One file for each guest; its name is the guest's: 1 to 32 letters, digits, '_' and "
            "'-', beginning with a letter or digit. All files together are vtpmmgr's table of who "
            "may be which vTPM. vtpmctl guest add makes such a file.",
            "No two guests have the same uuid, or, without shared_uid in vtpm.toml(5), the same "
            "uid. A guest whose file has a mistake does not keep the others from being served.",
            *_RULES,
        ),
        {
            "Identity": Identity,
            "vTPM": VtpmOptions,
            **{f"[{name}]": options for name, options in GUEST_TABLES.items()},
        },
        {"vTPM": "as [vtpm] in vtpm.toml(5)", "[front]": "as [front] in vtpm.toml(5)"},
        """uuid = "5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"
label = "system_u:vm_r:vtpm_t"
localities = ["uid:0=0,1,2", "*=0"]

[front]
stream_mode = "0660"
tcp = [6545]
""",
    ),
}


def format_page_text(name: str, others: Iterable[str]) -> str:
    """Return the page of a file as roff (man(7) macros).

    Args:
        name: of the page.
        others: pages to see as well, "vtpm(1)".
    """
    page = FORMAT_PAGES[name]
    lines = [
        '.\\" SPDX-License-Identifier: Apache-2.0',
        '.\\" Written by docs/manpages.py from the declared keys.',
        f'.TH {name.upper()} 5 "" "vtpm-suite" "File Formats"',
        ".SH NAME",
        f"{escape(name)} \\- {escape(page.purpose)}",
        ".SH SYNOPSIS",
        f".I {escape(page.path)}",
        ".SH DESCRIPTION",
    ]
    for paragraph in page.description:
        lines += [".PP", escape(paragraph)]
    lines.append(".SH KEYS")
    for heading, options in page.sections.items():
        lines.append(f".SS {escape(heading)}")
        for key in keys_of(options):
            lines += _key(key, page.inherited.get(heading))
    lines += [".SH EXAMPLE", ".nf", *map(escape, page.example.splitlines()), ".fi"]
    return "\n".join([*lines, ".SH SEE ALSO", ", ".join(others), ""])


def _key(key: Key, inherited: str | None) -> Iterator[str]:
    yield ".TP"
    yield f".B {escape(key.name)}{'*' if key.live else ''}"
    default = key.default if inherited is None or key.default is None else inherited
    must = "must be there" if default is None else f"default {default}"
    yield escape(f"{key.help} A value is {key.form}; {must}.")


def escape(text: str) -> str:
    """Return text so that roff shows it as it is."""
    escaped = text.replace("\\", "\\e").replace("-", "\\-")
    return f"\\&{escaped}" if escaped.startswith((".", "'")) else escaped
