# SPDX-License-Identifier: Apache-2.0
"""Writes docs/conformance.md: `python -m tests.conformance.document` (make conformance-doc).

What is implemented comes from the dispatch table, what is tried from running every case on the
engine, what differs from the table of declared differences. The reference is not needed: that each
case gives the same there is what `test_conformance.py` tests.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Final, TypeAlias

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.keys import Key
from tests.conformance.cases import CASES
from tests.conformance.choices import CHOICES
from tests.conformance.comparison import code_name
from tests.conformance.deviations import DEVIATIONS
from tests.conformance.differences import DECLARED
from tests.conformance.machines import EngineMachine
from tests.conformance.paths import PATHS
from tests.conformance.script import Script
from tpmcore.tpm12.table import EVERYTHING, TABLE

PATH: Final = Path(__file__).parents[2] / "docs" / "conformance.md"

LEFT_OUT: Final[Mapping[int, str]] = {
    Ordinal.CERTIFY_SELF_TEST: "deleted from the specification; BAD_ORDINAL",
    Ordinal.GET_CAPABILITY_SIGNED: "deleted from the specification; BAD_ORDINAL",
    Ordinal.GET_AUDIT_EVENT: "deleted from the specification; BAD_ORDINAL",
    Ordinal.GET_AUDIT_EVENT_SIGNED: "deleted from the specification; BAD_ORDINAL",
    Ordinal.GET_ORDINAL_AUDIT_STATUS: "deleted from the specification; BAD_ORDINAL",
    Ordinal.INIT: "no command but the reset signal (Part 3, 3.1); as an ordinal BAD_ORDINAL",
    Ordinal.FIELD_UPGRADE: (
        "optional, and every parameter of it is the vendor's: this software is upgraded by its "
        "package; BAD_ORDINAL"
    ),
    Ordinal.SET_REDIRECTION: (
        "optional, redirects a key to hardware next to the TPM, of which there is none; BAD_ORDINAL"
    ),
}
"""Ordinals that the engine does not answer, with the reason."""

_MAINTENANCE: Final = (
    Ordinal.CREATE_MAINTENANCE_ARCHIVE,
    Ordinal.LOAD_MAINTENANCE_ARCHIVE,
    Ordinal.KILL_MAINTENANCE_FEATURE,
    Ordinal.LOAD_MANU_MAINT_PUB,
    Ordinal.READ_MANU_MAINT_PUB,
)
_PARENT: Final = (Ordinal.DEEP_QUOTE, Ordinal.PARENT_SIGN_EK)

ONLY_IN: Final[Mapping[int, str]] = {
    **dict.fromkeys(_MAINTENANCE, "with `--maintcmds`"),
    **dict.fromkeys(_PARENT, "in a vTPM"),
}
"""Which TPMs answer an ordinal that not every TPM answers."""

NOT_COMPARED: Final[Mapping[int, str]] = {
    **dict.fromkeys(
        _MAINTENANCE,
        "libtpms is built without maintenance; only with `--maintcmds` here; unit tests",
    ),
    **dict.fromkeys(
        _PARENT, "not compared: Xen's own, libtpms has no parent TPM; unit tests (`test_parent.py`)"
    ),
}
"""Ordinals that the engine answers and the reference does not."""

_HEAD: Final = """\
# Conformance: TPM 1.2, ordinal by ordinal

Written by `make conformance-doc` from the dispatch table (`tpmcore/tpm12/table.py`), the cases of
`tests/conformance/` and the differences declared there; a test checks that it is what the command
writes. Do not edit it.

Each case runs on the engine and on swtpm (libtpms 0.9.2, TPM 1.2) from the same state, and every
response is compared: tag, size and return code exactly, then field by field, with what is random
masked by name. *Codes tried* are return codes that a case makes the ordinal end in, on purpose;
every ordinal is also sent before startup, in failure mode, disabled, deactivated, without an owner,
with tags that it does not have, and with too few and too many bytes. *Error paths* counts the
refusals by an ordinal's own checks, as the specification lists them, that are tried, of all that
there are.

"""


Tries: TypeAlias = Mapping[int, Counter[tuple[str, int]]]
"""By ordinal, how often each case makes it end in a return code."""


@cache
def tried() -> Tries:
    """Run every case on the engine and return what it tries."""
    machine = EngineMachine()
    keys: dict[tuple[str, str], Key] = {}
    found: dict[int, Counter[tuple[str, int]]] = {}
    for case in CASES:
        machine.enter(case.world, start_up=case.start_up)
        script = Script(machine, keys, strict=True)
        case.play(script)
        for each in script.tried:
            found.setdefault(each.ordinal, Counter())[case.name, each.code] += 1
    return found


def _rows(found: Tries) -> Iterator[str]:
    yield "| Ordinal | Name | Source | Implemented | Compared | Error paths | Codes tried |"
    yield "|---|---|---|---|---|---|---|"
    for ordinal in Ordinal:
        row = EVERYTHING.get(ordinal)
        tries = found.get(ordinal, Counter())
        names = {name for name, _code in tries}
        implemented = "no" if row is None else ONLY_IN.get(ordinal, "yes")
        compared = f"{len(names)} cases" if names else ""
        for note in (NOT_COMPARED, LEFT_OUT):
            if ordinal in note:
                compared = f"{compared}; {note[ordinal]}" if compared else note[ordinal]
        listed = ", ".join(code_name(code) for code in sorted({code for _name, code in tries}))
        paths = PATHS.get(ordinal, ())
        reached = sum(1 for path in paths if path.case)
        counted = f"{reached} of {len(paths)}" if ordinal in PATHS else ""
        source = "" if row is None else row.source
        yield (
            f"| {ordinal:#010x} | {ordinal.name} | {source} | {implemented} | {compared} "
            f"| {counted} | {listed} |"
        )


def _paths() -> Iterator[str]:
    yield "| Ordinal | Code | When | Tried by |"
    yield "|---|---|---|---|"
    for ordinal, paths in sorted(PATHS.items()):
        for path in paths:
            where = f"`{path.case}`" if path.case else f"not tried: {path.untried}"
            yield f"| {Ordinal(ordinal).name} | {path.code.name} | {path.when} | {where} |"


def _differences() -> Iterator[str]:
    yield "| Ordinal | What | Here | libtpms | Rule that decides | Case |"
    yield "|---|---|---|---|---|---|"
    for entry in DECLARED:
        name = Ordinal(entry.ordinal).name
        what = "return code" if entry.field == "code" else f"`{entry.field}`"
        what += f", {entry.times} times" if entry.times > 1 else ""
        yield (
            f"| {name} | {what} | {entry.ours} | {entry.told} | {entry.reason} | `{entry.case}` |"
        )


def _deviations() -> Iterator[str]:
    yield "| What | Specification | libtpms | Here | Shown by |"
    yield "|---|---|---|---|---|"
    for each in DEVIATIONS:
        here = "as libtpms" if each.as_libtpms else "as specified"
        shown = ", ".join(f"`{name}`" for name in each.shown_by)
        yield f"| {each.subject} | {each.specification} | {each.libtpms} | {here} | {shown} |"


def _choices() -> Iterator[str]:
    yield "| What | Specification | Here | Why | Shown by |"
    yield "|---|---|---|---|---|"
    for each in CHOICES:
        shown = ", ".join(f"`{name}`" for name in each.shown_by)
        yield f"| {each.subject} | {each.specification} | {each.here} | {each.reason} | {shown} |"


def document() -> str:
    """Return the text of docs/conformance.md."""
    found = tried()
    codes = {code for tries in found.values() for _name, code in tries}
    counted = len({ordinal for ordinal in found if ordinal in TABLE})
    parts = [
        _HEAD,
        f"{len(TABLE)} ordinals are answered by every TPM; {counted} of them are in the "
        f"{len(CASES)} cases, which try {len(codes)} of the {len(ReturnCode)} return codes.\n\n",
        "## Ordinals\n\n",
        *[line + "\n" for line in _rows(found)],
        "\n## Error paths\n\n",
        *[line + "\n" for line in _paths()],
        "\n## Differences that stay\n\n",
        *[line + "\n" for line in _differences()],
        "\n## Known deviations of libtpms\n\n",
        *[line + "\n" for line in _deviations()],
        "\n## Otherwise than specified, on purpose\n\n",
        *[line + "\n" for line in _choices()],
        "\n## Left out\n\n",
        *[
            f"- {Ordinal(ordinal).name} ({ordinal:#x}): {reason}.\n"
            for ordinal, reason in LEFT_OUT.items()
        ],
    ]
    return "".join(parts)


if __name__ == "__main__":
    PATH.write_text(document())
