# SPDX-License-Identifier: Apache-2.0
"""`vtpmctl trace`: how a command is shown, and what the command refuses."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from daemons.runtime.tracing import ClientIdentity
from daemons.vtpmctl.attribution import Attributed
from daemons.vtpmctl.cli import main
from daemons.vtpmctl.trace import Connected, Dropped, Entry, Lost
from daemons.vtpmctl.trace_cli import View, plain_name
from daemons.vtpmctl.tracetext import NAMES_LIMIT, ProcessNames, json_object, line
from protocol.tpm12.constants import Ordinal
from tests.unit.vtpmctl.packets import read_capture
from tests.unit.vtpmctl.traced import ANN, BOB, COMMAND, READ, RESPONSE
from tpmcore.engine import Field

# --- how a command is shown -----------------------------------------------------------------------


@pytest.fixture
def names(tmp_path: Path) -> ProcessNames:
    (tmp_path / str(ANN.pid)).mkdir()
    (tmp_path / str(ANN.pid) / "comm").write_text("tcsd\n")
    (tmp_path / "103").mkdir()
    (tmp_path / "103" / "comm").write_text("a\x1b[2Jb\n")
    return ProcessNames(tmp_path)


def test_a_line_has_who_what_and_how_it_went(names: ProcessNames) -> None:
    assert line(Attributed(READ, ANN), names).partition(" ")[2] == (
        "tcsd[101]#1 locality 2: PCR_READ pcrIndex=10 session=0x01020304+ session=0x05060708 -> "
        f"SUCCESS outDigest={'c3' * 20}, 12.5us"
    )


def test_a_structure_is_in_braces(names: ProcessNames) -> None:
    nested = (Field("key", (Field("usage", "SIGNING"), Field("encData", "<256 bytes>"))),)
    traced = replace(READ, description=replace(READ.description, parameters=nested, sessions=()))
    assert "PCR_READ key={usage=SIGNING encData=<256 bytes>} -> " in line(
        Attributed(traced, None), names
    )


@pytest.mark.parametrize(
    ("one", "who"),
    [
        (Attributed(READ, BOB), "?[102]#2"),
        (Attributed(READ, ClientIdentity(7, 103, 0, None)), "a?[2Jb[103]#7"),
        (Attributed(READ, ClientIdentity(8, None, None, "127.0.0.1:5000")), "127.0.0.1:5000#8"),
        (Attributed(READ, None), "front[50]"),
        (Attributed(replace(READ, front=None), None), "vtpm"),
    ],
)
def test_whoever_is_not_known_has_a_name_all_the_same(
    one: Attributed, who: str, names: ProcessNames
) -> None:
    assert line(one, names).split(" ")[1] == who


def test_names_of_clients_of_long_ago_are_forgotten(names: ProcessNames, tmp_path: Path) -> None:
    assert names.name(ANN) == "tcsd"
    (tmp_path / str(ANN.pid) / "comm").unlink()
    assert names.name(ANN) == "tcsd"
    # A connection for each command is a client for each.
    for connection in range(NAMES_LIMIT):
        names.name(ClientIdentity(1000 + connection, 104, 0, None))
    assert names.name(ANN) == "?"


@pytest.mark.parametrize(
    ("duration_us", "words"),
    [(12.345, "12.3us"), (4321.0, "4.3ms"), (3_210_000.0, "3.21s")],
)
def test_durations_have_the_unit_that_people_use(
    duration_us: float, words: str, names: ProcessNames
) -> None:
    traced = replace(READ, duration_us=duration_us)
    assert line(Attributed(traced, None), names).endswith(f", {words}")


class Written:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.data = b""

    async def write(self, data: bytes) -> None:
        self.data += data

    @property
    def lines(self) -> list[str]:
        return self.data.decode().splitlines()


async def test_an_object_has_everything(names: ProcessNames) -> None:
    out = Written()
    await View("g1", out, Written(), as_json=True, names=names).show(Attributed(READ, ANN))
    assert json.loads(out.data) == {
        "guest": "g1",
        "unix_time": 1764000000.5,
        "command": "PCR_READ",
        "parameters": {"pcrIndex": "10"},
        "sessions": [
            {"handle": "0x01020304", "continues": True},
            {"handle": "0x05060708", "continues": False},
        ],
        "result": "SUCCESS",
        "response": {"outDigest": "c3" * 20},
        "duration_us": 12.5,
        "locality": 2,
        "client": {
            "connection": 1,
            "pid": 101,
            "uid": 0,
            "address": None,
            "process": "tcsd",
        },
        "front": {"pid": 50, "uid": 1000, "label": "uid:1000", "device": 1},
    }


def test_every_member_of_an_object_is_documented(names: ProcessNames) -> None:
    page = (Path(__file__).parents[3] / "docs/operating.md").read_text()
    table = page.partition("\n## Watching a guest's TPM")[2].partition("\n## ")[0]
    rows = table.partition("| member |")[2]
    told = json_object(Attributed(READ, ANN), names, "g1")
    inner = [key for one in (told["client"], told["front"]) if isinstance(one, dict) for key in one]
    assert {key for key in (*told, *inner) if f"`{key}`" not in rows} == set()


async def test_a_capture_has_the_redacted_bytes_and_the_words(names: ProcessNames) -> None:
    captured = Written()
    view = View("g1", None, Written(), as_json=False, names=names, captured=captured)
    await view.begin()
    for client in (ANN, BOB, ANN, None):
        await view.show(Attributed(READ, client))
    _, packets = read_capture(captured.data)
    assert [one.payload for one in packets] == [COMMAND, RESPONSE] * 4
    assert packets[0].comment.startswith("tcsd[101]#1 locality 2: PCR_READ pcrIndex=10")
    assert packets[1].comment == f"SUCCESS outDigest={'c3' * 20}, 12.5us"
    assert packets[1].time_us - packets[0].time_us in (12, 13)
    assert len({one.source for one in packets[::2]}) == 3


async def test_only_what_is_asked_for_is_shown_and_counted(names: ProcessNames) -> None:
    other = replace(READ, description=replace(READ.description, command="EXTEND"))
    out, captured = Written(), Written()
    view = View(
        "g1",
        out,
        Written(),
        as_json=False,
        names=names,
        commands=["TPM_ORD_PcrRead"],
        count=2,
        captured=captured,
    )
    await view.begin()
    shown = [await view.show(Attributed(traced, None)) for traced in (READ, other, READ)]
    assert shown == [True, True, False]
    assert len(out.lines) == 2
    assert len(read_capture(captured.data)[1]) == 4


async def test_gaps_are_told_beside_the_lines_and_among_the_objects() -> None:
    entries: list[Entry] = [Connected(), Dropped(7), Lost(), Connected()]
    out, remarks = Written(), Written()
    text, objects = (View("g1", out, remarks, as_json=as_json) for as_json in (False, True))
    for entry in entries:
        assert await text.show(entry)
    assert out.lines == []
    assert remarks.lines == [
        "watching guest g1",
        "7 commands are missing here",
        "the vtpm of guest g1 is gone; waiting for it",
        "watching guest g1 again",
    ]
    for entry in entries:
        assert await objects.show(entry)
    assert [json.loads(one) for one in out.lines] == [
        {"guest": "g1", "event": "connected"},
        {"guest": "g1", "dropped": 7},
        {"guest": "g1", "event": "lost"},
        {"guest": "g1", "event": "connected"},
    ]


def test_no_two_commands_have_the_same_plain_name() -> None:
    assert len({plain_name(one.name) for one in Ordinal}) == len(Ordinal)
    spellings = ("PCR_READ", "pcr_read", "PcrRead", "TPM_PCRRead", "TPM_ORD_PcrRead")
    assert {plain_name(one) for one in spellings} == {"pcrread"}


# --- the command ----------------------------------------------------------------------------------


def _trace(root: Path, *words: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["trace", "--dir", str(root), *words])
    return done.exit_code, done.output


def _stack(root: Path) -> None:
    guests = root / "state" / "etc" / "guests.d"
    guests.mkdir(parents=True)
    (guests / "g1.toml").write_text('uuid = "3ad736c9-7ca8-4222-8026-089a19910d4d"\n')


def test_a_guest_that_is_not_there_is_an_error(run_dir: Path) -> None:
    code, output = _trace(run_dir, "--guest", "other")
    assert code == 1
    assert "there is no guest other" in output


def test_no_file_is_replaced_by_a_capture(run_dir: Path) -> None:
    _stack(run_dir)
    path = run_dir / "g1.pcapng"
    path.write_text("precious")
    code, output = _trace(run_dir, "--guest", "g1", "--pcap", str(path))
    assert code == 1
    assert f"{path} is there already; nothing was written" in output
    assert path.read_text() == "precious"


def test_a_file_that_takes_the_place_of_a_pipe_is_not_written_to(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _stack(run_dir)
    path, pipe = run_dir / "g1.pcapng", run_dir / "pipe"
    os.mkfifo(pipe)
    path.write_text("precious")
    of_pipe, stat = pipe.stat(), Path.stat

    def looked_at_too_early(one: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        return of_pipe if one == path else stat(one, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", looked_at_too_early)
    code, output = _trace(run_dir, "--guest", "g1", "--pcap", str(path), "--count", "1")
    assert code == 1
    assert f"{path} is there already; nothing was written" in output
    assert path.read_text() == "precious"
