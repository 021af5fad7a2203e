# SPDX-License-Identifier: Apache-2.0
"""What the pages say is what the code does: layouts in docs/formats.md, options in the manual."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import click
import pytest
from click.testing import CliRunner

from daemons.hwtpm.store import encode_record
from daemons.runtime.config.folder import load
from daemons.runtime.config.options import MACHINE_TABLES, Identity
from daemons.runtime.config.schema import keys_of
from daemons.runtime.config.values import DEFAULT_NV_INDEX
from daemons.runtime.secret import Secret
from daemons.runtime.subcommands import subcommands
from daemons.runtime.volatile import CAPACITY_BYTES, VolatileMemory
from daemons.vtpm.image import HEADER_BYTES as SLOT_HEADER_BYTES
from daemons.vtpm.image import MAX_STATE_BYTES
from daemons.vtpm.stateblob import HEADER_BYTES as BLOB_HEADER_BYTES
from daemons.vtpmctl.saa_cli import DOCUMENTS
from daemons.vtpmmgr import envelope
from daemons.vtpmmgr.freshness import NV_BYTES
from daemons.vtpmmgr.records import RECORD_TYPES
from daemons.vtpmmgr.sealing import RootSecret, encode_group_secret
from daemons.vtpmmgr.store import APPLICATION_ID, SCHEMA_VERSION
from docs.formatpages import FORMAT_PAGES
from docs.manpages import FOLDER, PAGES, all_pages
from protocol.attestation.evidencefile import encode
from protocol.attestation.verdict import NEEDED, LinkName
from protocol.manager.constants import HEADER_BYTES as MANAGER_HEADER_BYTES
from protocol.manager.descriptors import LocalDescriptor
from protocol.manager.moving import Contents, MoveApproval, MoveReceipt, MoveRelease
from protocol.tis.framing import REPLY_HEADER, REQUEST_HEADER
from protocol.tpm12.transport import TransportPublic
from protocol.tpmif.messages import DATAGRAM_LIMIT, Key
from protocol.tpmif.page import HEADER_SIZE, PageState, capacity_bytes
from tests.unit.attestation.signer import make
from tpmcore.tpm12.daa_session import DaaSecrets, DaaSession
from tpmcore.tpm12.state import TransportSession
from tpmcore.tpm12.stateformat import encode_transport

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/1.0"
FORMATS = (ROOT / "docs/formats.md").read_text()
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


# --- docs/formats.md -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Layout:
    """A table of offsets.

    Attributes:
        title: its heading.
        size: the bytes in its heading; None if it names none.
        rows: offset and size of each row, as text.
    """

    title: str
    size: int | None
    rows: list[tuple[str, str]]


def _layouts() -> Iterator[Layout]:
    for section in re.split(r"^#+ ", FORMATS, flags=re.MULTILINE)[1:]:
        heading = section.partition("\n")[0]
        table = re.search(r"^\| offset \|.*\n\|[-|]+\n((?:\|.*\n)+)", section, re.MULTILINE)
        if table is None:
            continue
        sized = re.fullmatch(r"(.*) \((\d+) bytes\)", heading)
        title, size = (sized[1], int(sized[2])) if sized else (heading, None)
        cells = [[cell.strip() for cell in row.split("|")] for row in table[1].splitlines()]
        yield Layout(title, size, [(row[1], row[2]) for row in cells])


def _state_sections(name: str) -> dict[int, bytes]:
    state = (GOLDEN / name).read_bytes()
    found = {}
    offset = 12
    while offset < len(state):
        number = int.from_bytes(state[offset : offset + 2], "big")
        length = int.from_bytes(state[offset + 2 : offset + 6], "big")
        found[number] = state[offset + 6 : offset + 6 + length]
        offset += 6 + length
    return found


def _sizes_in_the_code() -> dict[str, int]:
    permanent, volatile = _state_sections("permanent"), _state_sections("volatile")
    counters = permanent[6]
    key = Secret(bytes(envelope.KEY_BYTES))
    uuid = uuid4()
    return {
        "State head": (GOLDEN / "permanent").read_bytes().index(b"\x00\x01\x00\x00\x00\x16"),
        "Secrets": len(permanent[2]),
        "Data": len(permanent[5]),
        "DAA secrets": len(DaaSecrets(bytes(20), bytes(20), bytes(16)).encode()),
        "Counter record": (len(counters) - 2) // int.from_bytes(counters[:2], "big"),
        "Until Startup(CLEAR)": len(volatile[1]),
        "Until any Startup": len(volatile[2]),
        "Clock": len(volatile[3]),
        "Transport session record": len(
            encode_transport(TransportSession(0, TransportPublic(0, 0, 0), bytes(20), bytes(20)))
        ),
        "DAA session record": len(DaaSession(0).encode()),
        # The golden TPM has two sessions open.
        "Session record": len(volatile[5]) // 2,
        "Chip header": len(encode_record(b"")),
        "Slot header": SLOT_HEADER_BYTES,
        "State blob header": BLOB_HEADER_BYTES,
        "Envelope head": len(envelope.wrap(key, b"row", b"")) - 16,
        "Root secret": len(RootSecret.new(DEFAULT_NV_INDEX).encode()),
        "Secret of a group": len(encode_group_secret(uuid4(), uuid4(), key)),
        "Freshness area": NV_BYTES,
        "Half header": _half_header_bytes(),
        "Page header": HEADER_SIZE,
        "Approval of a move": len(MoveApproval(uuid, b"." * 32, uuid, b"." * 32, uuid, 0).encode()),
        "Contents of a package": len(Contents(bytes(64), bytes(32), 0).encode()),
        "Local descriptor": len(LocalDescriptor(uuid, uuid, uuid, uuid).encode()),
        "Receipt": len(MoveReceipt(uuid, uuid, bytes(32), bytes(32)).encode()),
        "Release": len(MoveRelease(uuid, uuid, bytes(32)).encode()),
        "Manager header": MANAGER_HEADER_BYTES,
        "Access": REQUEST_HEADER.size,
        "Reply": REPLY_HEADER.size,
    }


def _half_header_bytes() -> int:
    memory = VolatileMemory.create("documentation", capacity_bytes=64)
    try:
        memory.store(b"the data of half 0")
        return os.pread(memory.fd, 8192, 0).index(b"the data of half 0") - 4096
    finally:
        memory.close()


def test_each_structure_is_as_long_as_the_code_makes_it() -> None:
    documented = {layout.title: layout.size for layout in _layouts() if layout.size is not None}
    assert documented == _sizes_in_the_code()


def test_no_table_of_offsets_has_a_gap_or_an_overlap() -> None:
    for layout in _layouts():
        end: int | None = 0
        for offset, size in layout.rows:
            if offset.isdecimal():
                assert end == int(offset), f"{layout.title}: offset {offset}"
                end = int(offset) + int(size) if size.isdecimal() else None
            else:
                end = None
        assert layout.size in (None, end), layout.title


def test_every_section_of_the_states_has_its_row() -> None:
    for heading, name in (
        ("## Permanent state", "permanent"),
        ("## Volatile state", "volatile"),
    ):
        chapter = FORMATS.partition(heading)[2].partition("\n## ")[0]
        table = chapter.partition("| number |")[2].partition("\n\n")[0]
        rows = re.findall(r"^\| (\d+) \|", table, re.MULTILINE)
        numbers = [int(row) for row in rows]
        assert numbers == sorted(set(numbers)), heading
        assert set(numbers) >= set(_state_sections(name)), heading


def test_every_table_and_column_of_the_database_is_named() -> None:
    chapter = FORMATS.partition("## The manager's database")[2].partition("\n### ")[0]
    for kind in RECORD_TYPES:
        row = re.search(rf"^\| `{kind.TABLE.name}` \|.*$", chapter, re.MULTILINE)
        assert row is not None, kind.TABLE.name
        columns = re.findall(r"`(\w+)` (BLOB|INTEGER)", row[0])
        assert columns == list(kind.TABLE.columns)
    assert f"{APPLICATION_ID:#010X}".replace("X", "x") in chapter
    assert f"`user_version` {SCHEMA_VERSION}" in chapter
    assert f"{DEFAULT_NV_INDEX:#010x}" in FORMATS


def test_every_key_and_state_of_the_split_driver_is_named() -> None:
    chapter = FORMATS.partition("## Split driver")[2].partition("\n## ")[0]
    named = re.findall(r"^\| `([a-z0-9-]+)` \| (?:frontend|backend|both)", chapter, re.MULTILINE)
    assert named == [key.value for key in Key]
    assert ", ".join(f"{state.value} {state.name}" for state in PageState) in chapter
    assert f"at most {DATAGRAM_LIMIT} bytes" in chapter
    assert f"{capacity_bytes(0)} bytes without any" in chapter


def test_limits_in_the_text_are_those_of_the_code() -> None:
    assert f"n, at most {MAX_STATE_BYTES} |" in FORMATS
    assert f"C, bytes that a half carries; {CAPACITY_BYTES} |" in FORMATS


def _rows(options: type[DataclassInstance], prefix: str = "") -> list[str]:
    return [
        f"| `{prefix}{key.name}` | {key.form} | {key.default or 'must be there'} | "
        f"{'at once' if key.live else 'next start'} |"
        for key in keys_of(options)
    ]


def test_every_key_of_the_configuration_has_its_row() -> None:
    chapter = FORMATS.partition("## Configuration")[2].partition("\n## ")[0]
    rows = [row for table, options in MACHINE_TABLES.items() for row in _rows(options, f"{table}.")]
    assert re.findall(r"^\| `.*$", chapter, re.MULTILINE) == [*rows, *_rows(Identity)]


def test_the_examples_of_the_configuration_are_accepted(tmp_path: Path) -> None:
    examples = re.findall(r"```toml\n(.*?)```", FORMATS, re.DOTALL)
    (tmp_path / "guests.d").mkdir()
    for name, text in zip(("vtpm.toml", "guests.d/g1.toml"), examples, strict=True):
        (tmp_path / name).write_text(text)
    assert list(load(tmp_path, {"vtpm-g1": 901}.get).guests) == ["g1"]


# --- manual pages --------------------------------------------------------------------------------


def _helps(command: click.Command, words: tuple[str, ...] = ()) -> Iterator[str]:
    """Give the --help of a command and of all below it."""
    result = CliRunner().invoke(command, ["--help"], prog_name=" ".join(words))
    assert result.exit_code == 0
    yield result.output
    for name, below in subcommands(command).items():
        yield from _helps(below, (*words, name))


@pytest.fixture(params=sorted(PAGES))
def name(request: pytest.FixtureRequest) -> str:
    """Each command in turn."""
    return str(request.param)


def test_every_command_and_file_has_a_page_and_no_page_is_without() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert set(scripts) == set(PAGES)
    assert {path.name for path in FOLDER.iterdir()} == all_pages().keys()


def test_the_page_has_the_options_of_the_help_and_no_others(name: str) -> None:
    page = (FOLDER / f"{name}.1").read_text()
    tagged = re.findall(r"^\.TP\n\.B (\\-.*)$", page, re.MULTILINE)
    in_page = {option for line in tagged for option in OPTION.findall(line.replace("\\-", "-"))}
    listed = re.compile(r"^  (?:-\w, |--[a-z-]+ / )?(--[a-z][a-z-]*)", re.MULTILINE)
    in_help = {option for text in _helps(PAGES[name].command) for option in listed.findall(text)}
    in_help |= {"--admin"} if name == "vtpmctl" else set()  # the first of a pair
    assert in_page == in_help


@pytest.mark.parametrize("page", sorted(all_pages()))
def test_the_page_is_what_make_man_writes(page: str) -> None:
    assert (FOLDER / page).read_text() == all_pages()[page], "run make man"


@pytest.mark.parametrize("page", sorted(all_pages()))
def test_the_page_renders_without_a_warning(page: str) -> None:
    done = subprocess.run(
        ["man", "--warnings=w", "--encoding=UTF-8", "--local-file", FOLDER / page],
        env={"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "MANWIDTH": "80", "MANPAGER": "cat"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    name, _, section = page.rpartition(".")
    assert done.stdout.startswith(f"{name.upper()}({section})")
    assert "SEE ALSO" in done.stdout


def test_every_page_that_a_page_names_is_there_or_the_systems() -> None:
    ours = {f"{name}({section})" for name, _, section in (p.rpartition(".") for p in all_pages())}
    named = {
        match
        for text in all_pages().values()
        for match in re.findall(r"[a-z][a-z0-9_.-]*\(\d\)", text.replace("\\-", "-"))
    }
    theirs = {"tcsd(8)", "sd_notify(3)", "sd_listen_fds(3)"}
    assert named - ours - theirs == set()


def test_every_link_of_the_manual_leads_somewhere() -> None:
    pages = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("systemd/*.md")]
    broken = [
        f"{page.relative_to(ROOT)}: {target}"
        for page in pages
        for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text())
        if "://" not in target and not _leads_somewhere(page, target)
    ]
    assert broken == []


def test_every_module_that_the_architecture_names_is_there() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    for folder in ("vtpmmgr", "vtpmctl"):
        chapter = text.partition(f"\n`daemons/{folder}/` is ")[2].partition("\n## ")[0]
        named = re.findall(r"`(\w+\.py)`", chapter)
        assert len(named) > 10, folder
        assert [name for name in named if not (ROOT / "daemons" / folder / name).exists()] == []


def _leads_somewhere(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    found = (page.parent / path) if path else page
    if not found.exists():
        return False
    return not anchor or anchor in _anchors(found)


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as forges make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", sorted(FORMAT_PAGES))
def test_the_page_of_a_file_has_every_key_with_its_help(page: str) -> None:
    text = (FOLDER / f"{page}.5").read_text().replace("\\-", "-")
    for options in FORMAT_PAGES[page].sections.values():
        for key in keys_of(options):
            assert re.search(rf"^\.B {key.name}\*?\n{re.escape(key.help)} A value", text, re.M)


def test_the_examples_of_the_pages_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "guests.d").mkdir()
    (tmp_path / "vtpm.toml").write_text(FORMAT_PAGES["vtpm.toml"].example)
    (tmp_path / "guests.d/g1.toml").write_text(FORMAT_PAGES["vtpm-guest.toml"].example)
    assert list(load(tmp_path, {"vtpm-g1": 901}.get).guests) == ["g1"]


def test_every_command_below_vtpmctl_has_a_section() -> None:
    page = (FOLDER / "vtpmctl.1").read_text().replace("\\-", "-")
    assert re.findall(r"^\.SS (.*)$", page, re.MULTILINE) == [
        "vtpmctl aik activate",
        "vtpmctl aik new",
        "vtpmctl attest",
        "vtpmctl ca certify-aik",
        "vtpmctl ca certify-ek",
        "vtpmctl ca init",
        "vtpmctl ca open",
        "vtpmctl config check",
        "vtpmctl doctor",
        "vtpmctl group activate N",
        "vtpmctl group delete N",
        "vtpmctl group list [N]",
        "vtpmctl group new",
        "vtpmctl group quote N",
        "vtpmctl group recover-begin N",
        "vtpmctl group recover-finish N FILE",
        "vtpmctl group register N",
        "vtpmctl group rekey N",
        "vtpmctl group show N",
        "vtpmctl group update N FILE",
        "vtpmctl guest add NAME",
        "vtpmctl guest list",
        "vtpmctl guest remove NAME",
        "vtpmctl guest reset NAME",
        "vtpmctl guest restart NAME",
        "vtpmctl guest start NAME",
        "vtpmctl guest stop NAME",
        "vtpmctl hwtpm power-cycle",
        "vtpmctl manager accept-rollback",
        "vtpmctl manager identity",
        "vtpmctl manager pcrs",
        "vtpmctl manager pubek",
        "vtpmctl manager rekey",
        "vtpmctl manager rekey-counter",
        "vtpmctl manager rekey-nv",
        "vtpmctl manager status",
        "vtpmctl manager transport-key",
        "vtpmctl manufacture",
        "vtpmctl prove-ek",
        "vtpmctl reload",
        "vtpmctl saa approve-move",
        "vtpmctl saa keygen",
        "vtpmctl saa pubkey",
        "vtpmctl saa recover",
        "vtpmctl saa recover-begin",
        "vtpmctl saa register-begin",
        "vtpmctl saa register-finish",
        "vtpmctl saa show FILE",
        "vtpmctl saa sign-config",
        "vtpmctl status",
        "vtpmctl trace",
        "vtpmctl up",
        "vtpmctl verify FILE",
        "vtpmctl vtpm abandon UUID|GUEST",
        "vtpmctl vtpm activate FILE",
        "vtpmctl vtpm cancel UUID|GUEST",
        "vtpmctl vtpm delete UUID|GUEST",
        "vtpmctl vtpm edit UUID|GUEST",
        "vtpmctl vtpm export UUID|GUEST",
        "vtpmctl vtpm import FILE",
        "vtpmctl vtpm list",
        "vtpmctl vtpm migrate-to",
        "vtpmctl vtpm moves",
        "vtpmctl vtpm new",
        "vtpmctl vtpm release FILE",
        "vtpmctl vtpm show UUID|GUEST",
    ]


# --- files of operators and agents ---------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(DOCUMENTS))
def test_every_field_of_a_file_for_operators_and_agents_is_in_the_page(kind: str) -> None:
    (row,) = re.findall(rf"^\| `{kind}` \|.*$", FORMATS, re.MULTILINE)
    fields = set(DOCUMENTS[kind].field_names())
    assert set(re.findall(r"`(\w+)`", row.split("|")[3])) == fields


# --- evidence ------------------------------------------------------------------------------------


def _keys(value: object) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not key.isdigit():
                yield key
                yield from _keys(inner)


def test_every_key_of_an_evidence_file_is_in_the_page_and_no_other() -> None:
    section = re.search(r"^## Evidence\n(.*?)^## ", FORMATS, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\|([^|]*)\|([^|]*)\|([^|]*)\|$", section[1], re.MULTILINE)[2:]
    named = {key for row in rows for key in re.findall(r"`([a-z_]+)`", "".join(row[:2]))}
    assert named == set(_keys(json.loads(encode(make()))))


def test_every_link_of_evidence_is_in_the_page() -> None:
    page = (ROOT / "docs/attestation.md").read_text()
    section = re.search(r"^## The links\n(.*?)^## ", page, re.MULTILINE | re.DOTALL)
    assert section is not None
    rows = re.findall(r"^\| ([a-z-]+)( \*)? \|", section[1], re.MULTILINE)
    assert [name for name, _ in rows if name != "link"] == [name.value for name in LinkName]
    assert {name for name, star in rows if star} == {name.value for name in NEEDED}


# --- docs/compared-with-xen.md -------------------------------------------------------------------


def test_every_item_of_the_comparison_with_xen_is_there_once_and_names_tests_that_exist() -> None:
    text = (ROOT / "docs/compared-with-xen.md").read_text()
    rows = re.findall(r"^\| ([UW]\d+) \|(.*)\|([^|]*)\|$", text, re.MULTILINE)
    numbers = [number for number, _, _ in rows]
    assert numbers == [f"U{n}" for n in range(1, 16)] + [f"W{n}" for n in range(1, 31)]
    for number, _, tests in rows:
        named = re.findall(r"`([\w/.]+)::(\w+)`", tests)
        assert named, number
        for file, name in named:
            source = (ROOT / "tests" / file).read_text()
            assert re.search(rf"^\s*(async )?def {name}\(", source, re.MULTILINE), (number, name)
