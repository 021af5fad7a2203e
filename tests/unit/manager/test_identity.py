# SPDX-License-Identifier: Apache-2.0
"""The clients file, labels, and the lists in options."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.errors import DaemonError
from daemons.vtpmmgr.config import parse_nv_index, parse_pcrs
from daemons.vtpmmgr.identity import Client, effective_label, label_hash, load_clients
from protocol.tpmif.errors import Refused

U1, U2 = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"), UUID(int=2)
GOOD = f"""
[[client]]
uuid = "{U1}"
uid = 1000
label = "system_u:vm_r:vtpm_t"

[[client]]
uuid = "{U2}"
uid = 1000
label = "admin"
group = 3
admin = true
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "clients.toml"
    path.write_text(text)
    return path


def test_a_clients_file_gives_each_uid_its_uuids(tmp_path: Path) -> None:
    table = load_clients(written(tmp_path, GOOD))
    assert len(table) == 2
    assert table.admit(1000, U1) == Client(U1, 1000, "system_u:vm_r:vtpm_t", 0, False)
    assert table.admit(1000, U2) == Client(U2, 1000, "admin", 3, True)


def test_root_gets_nothing_that_the_file_does_not_give_it(tmp_path: Path) -> None:
    table = load_clients(written(tmp_path, GOOD))
    for uid in (0, 1001):
        with pytest.raises(Refused):
            table.admit(uid, U1)


def test_a_file_without_clients_admits_nobody(tmp_path: Path) -> None:
    assert len(load_clients(written(tmp_path, ""))) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("uid = 1000", "uid = -1"), "client 1: uid"),
        (("uid = 1000", "uid = true"), "client 1: uid"),
        (("uid = 1000", 'uid = "root"'), "client 1: uid"),
        (("uid = 1000", "uid = 4294967295"), "client 1: uid"),
        (("uid = 1000", ""), "client 1: uid"),
        ((str(U1), "nonsense"), "client 1: uuid 'nonsense' is none"),
        ((str(U1), U1.hex), "must be written as"),
        ((str(U1), str(U2)), f"client 2: uuid {U2} has an entry already"),
        (("label = ", "lable = "), "client 1: unknown key 'lable'"),
        (('"admin"', '""'), "client 2: label"),
        (('"admin"', '"' + "x" * 128 + '"'), "client 2: label"),
        (('"admin"', '"line\\nfeed"'), "client 2: label"),
        (("admin = true", "admin = 1"), "client 2: admin"),
        (("group = 3", "group = 1.5"), "client 2: group"),
        (("[[client]]", "[client]"), "declared|twice|list of tables|overwrite"),
        (("[[client]]", "[[clients]]"), "unknown key 'clients'"),
        (("uid", "= ="), "clients.toml"),
    ],
)
def test_a_mistake_in_the_file_is_named(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = written(tmp_path, GOOD.replace(*change, 1))
    with pytest.raises(DaemonError, match=message):
        load_clients(path)


def test_a_missing_or_binary_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DaemonError, match="No such file"):
        load_clients(tmp_path / "clients.toml")
    (tmp_path / "clients.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(DaemonError, match=r"clients\.toml"):
        load_clients(tmp_path / "clients.toml")
    (tmp_path / "clients.toml").write_text("client = 5")
    with pytest.raises(DaemonError, match="list of tables"):
        load_clients(tmp_path / "clients.toml")
    (tmp_path / "clients.toml").write_text("client = [5]")
    with pytest.raises(DaemonError, match="client 1: not a table"):
        load_clients(tmp_path / "clients.toml")


@pytest.mark.parametrize(
    ("of_the_peer", "counts"),
    [
        ("guest_u:vm_r:vtpm_t", "guest_u:vm_r:vtpm_t"),
        ("system_u:system_r:vtpm_t:s0:c1", "system_u:system_r:vtpm_t:s0:c1"),
        ("unconfined", "configured"),
        ("", "configured"),
        (None, "configured"),
    ],
)
def test_a_context_of_the_kernel_counts_before_the_configured_label(
    of_the_peer: str | None, counts: str
) -> None:
    assert effective_label(of_the_peer, Client(U1, 1, "configured", 0, False)) == counts


def test_the_kernel_hash_is_sha1_of_the_label() -> None:
    label = "system_u:system_r:vtpm_t"
    assert label_hash(label) == hashlib.sha1(label.encode()).digest()


@pytest.mark.parametrize(
    ("text", "pcrs"),
    [
        ("none", ()),
        ("all", tuple(range(24))),
        ("0-7", tuple(range(8))),
        ("17,0-2, 19,1", (0, 1, 2, 17, 19)),
        ("23", (23,)),
    ],
)
def test_a_pcr_list_is_numbers_and_ranges(text: str, pcrs: tuple[int, ...]) -> None:
    assert parse_pcrs(text) == pcrs


@pytest.mark.parametrize(
    "text",
    ["", "24", "7-0", "1-", "-1", "0..7", "0,,1", "0x1", "1-24", "\N{ARABIC-INDIC DIGIT ONE}"],
)
def test_what_is_no_pcr_list_is_refused(text: str) -> None:
    with pytest.raises(DaemonError, match="PCR list"):
        parse_pcrs(text)


def test_an_nv_index_is_one_that_an_owner_may_define() -> None:
    assert parse_nv_index("0x15654") == parse_nv_index("87636") == 0x15654
    for text in ("0", "1", "0x10000001", "0xffffffff", "-5", "none"):
        with pytest.raises(DaemonError, match="NV index"):
            parse_nv_index(text)
