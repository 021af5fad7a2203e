# SPDX-License-Identifier: Apache-2.0
"""Who may be which vTPM, and labels."""

from __future__ import annotations

import hashlib
from uuid import UUID

import pytest

from daemons.runtime.config.options import Guest, Identity
from daemons.vtpmmgr.identity import Client, ClientTable, effective_label
from protocol.manager.labels import label_hash
from protocol.tpmif.errors import Refused

U1, U2 = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"), UUID(int=2)
TABLE = ClientTable.of_guests(
    [
        Guest("g1", Identity(U1, uid=1000)),
        Guest("g2", Identity(U2, uid=1001, label="system_u:vm_r:vtpm_t", group=3, admin=True)),
    ]
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
    table = ClientTable.of_guests([])
    assert len(table) == 0
    with pytest.raises(Refused):
        table.admit(1000, U1)


def test_a_guest_whose_user_nobody_knows_is_nobody() -> None:
    assert len(ClientTable.of_guests([Guest("g1", Identity(U1))])) == 0


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
