# SPDX-License-Identifier: Apache-2.0
"""Who may be which vTPM, and labels."""

from __future__ import annotations

import hashlib
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.config.options import (
    CompatOptions,
    Configuration,
    Guest,
    Identity,
    Machine,
)
from daemons.vtpmmgr.identity import Client, ClientTable, effective_label
from protocol.manager.compat import compat_uuid
from protocol.manager.labels import label_hash
from protocol.tpmif.errors import Refused

U1, U2 = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"), UUID(int=2)
COMPAT = CompatOptions(uids=frozenset({0, 64055}))


def table_of(*guests: Guest, compat: CompatOptions | None = None) -> ClientTable:
    """Return the table of a configuration."""
    machine = Machine() if compat is None else Machine(compat=compat)
    by_name = {guest.name: guest for guest in guests}
    return ClientTable.of_configuration(Configuration(Path("/etc/vtpm"), machine, by_name))


TABLE = table_of(
    Guest("g1", Identity(U1, uid=1000)),
    Guest("g2", Identity(U2, uid=1001, label="system_u:vm_r:vtpm_t", group=3, admin=True)),
)


def test_the_table_gives_each_uid_its_uuid_and_what_the_guests_file_gives_it() -> None:
    assert len(TABLE) == 2
    assert TABLE.admit(1000, U1) == Client(U1, 1000, "g1", 0, False)
    assert TABLE.admit(1001, U2) == Client(U2, 1001, "system_u:vm_r:vtpm_t", 3, True)


def test_root_and_other_guests_get_nothing_that_the_table_does_not_give_them() -> None:
    for uid in (0, 1001, 1002):
        with pytest.raises(Refused):
            TABLE.admit(uid, U1)


def test_a_configuration_without_guests_admits_nobody() -> None:
    table = table_of()
    assert len(table) == 0
    with pytest.raises(Refused):
        table.admit(1000, U1)


def test_a_guest_whose_user_nobody_knows_is_nobody() -> None:
    assert len(table_of(Guest("g1", Identity(U1)))) == 0


def test_a_listed_user_gets_vtpms_of_its_own_and_those_only() -> None:
    own = compat_uuid(64055, U1)
    table = table_of(
        Guest("g1", Identity(U1, uid=1000)),
        Guest("g3", Identity(compat_uuid(64055, U2), uid=1002)),
        compat=COMPAT,
    )
    assert table.admit(64055, own) == Client(own, 64055, "compat-uid-64055", 0, False)
    assert table.admit(0, compat_uuid(0, U1)).group == 0
    assert not table.gives_admin(own)
    for uid, uuid in (
        (64055, U1),  # a guest's
        (64055, U2),  # nobody's, but of another form
        (64055, compat_uuid(0, U1)),  # another listed user's
        (0, own),  # the same, for root
        (64055, compat_uuid(64055, U2)),  # the configuration gives it to somebody else
        (1001, compat_uuid(1001, U1)),  # not listed
        (1000, own),
    ):
        with pytest.raises(Refused):
            table.admit(uid, uuid)


def test_nobody_is_listed_unless_the_configuration_says_so() -> None:
    with pytest.raises(Refused):
        TABLE.admit(64055, compat_uuid(64055, U1))


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
