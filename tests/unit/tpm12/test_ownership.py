# SPDX-License-Identifier: Apache-2.0
"""Taking and clearing ownership, and what a clear keeps."""

from __future__ import annotations

import dataclasses

import pytest

from protocol.tpm12.constants import (
    AuthDataUsage,
    EntityType,
    KeyFlags,
    KeyUsage,
    NvAttributes,
    Ordinal,
    ProtocolId,
    ReservedHandle,
    ReturnCode,
    StartupType,
    Tag,
)
from protocol.tpm12.framing import build_message
from protocol.tpm12.keys import Key
from protocol.tpm12.wire import SIZED, U16
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.tpm12.world import Profile
from tpmcore.tss12.sessions import with_secret


def _take(chip: Chip) -> int:
    return chip.code(
        tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=chip.client_random)
    )


def _clear(chip: Chip, owner_auth: bytes = OWNER_AUTH) -> int:
    return chip.code(tss12.owner_clear(owner_auth=owner_auth, random=chip.client_random))


def test_the_owner_is_there_with_an_srk_and_the_ek_is_no_longer_readable_by_all() -> None:
    chip = make_chip()
    ek = chip.run(tss12.read_pubek(random=chip.client_random))
    assert _take(chip) == ReturnCode.SUCCESS
    assert chip.run(tss12.is_owned())
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.DISABLED_CMD
    internal = chip.run(
        tss12.owner_read_internal_pub(
            ReservedHandle.EK, owner_auth=OWNER_AUTH, random=chip.client_random
        )
    )
    assert internal == ek


def test_taking_ownership_needs_an_oiap_session() -> None:
    chip = make_chip()
    # Without an owner there can be an OSAP session on an area.
    chip.run(tss12.nv_define_space(0x00010000, 4, NvAttributes.AUTHWRITE, area_auth=OWNER_AUTH))
    session = chip.run(tss12.osap(EntityType.NV, 0x00010000, OWNER_AUTH, random=chip.client_random))
    pubek = chip.run(tss12.read_pubek(random=chip.client_random))
    parameters = (
        U16.write(ProtocolId.OWNER)
        + SIZED.write(tss12.encrypt_oaep(pubek, OWNER_AUTH))
        + SIZED.write(tss12.encrypt_oaep(pubek, SRK_AUTH))
        + tss12.srk_template().encode()
    )
    taking = with_secret(
        Ordinal.TAKE_OWNERSHIP,
        Key.read,
        OWNER_AUTH,
        random=chip.client_random,
        parameters=parameters,
        session=session,
    )
    assert chip.code(taking) == ReturnCode.BAD_MODE
    assert not chip.run(tss12.is_owned())


def test_the_response_of_take_ownership_is_the_srk_without_its_private_part() -> None:
    chip = make_owned_chip()
    response = next(
        response
        for command, response in chip.log
        if command[6:10] == Ordinal.TAKE_OWNERSHIP.to_bytes(4, "big")
    )
    srk = Key.decode(response[10:-41])
    assert srk.key_usage == KeyUsage.STORAGE
    assert len(srk.pub_key) == 256
    assert srk.enc_data == b""


def test_a_second_owner_is_refused() -> None:
    chip = make_owned_chip()
    first = next(c for c, _ in chip.log if c[6:10] == Ordinal.TAKE_OWNERSHIP.to_bytes(4, "big"))
    assert int.from_bytes(chip.send(first)[6:10], "big") == ReturnCode.OWNER_SET


def test_without_an_endorsement_key_nobody_can_take_ownership() -> None:
    chip = make_chip(Profile(make_ek=False))
    assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.NO_ENDORSEMENT
    # The EK is needed to encrypt the secrets: send the command with garbage in their place.
    srk = tss12.srk_template().encode()
    secret = (256).to_bytes(4, "big") + bytes(256)
    session = chip.run(tss12.oiap())
    block = session.handle.to_bytes(4, "big") + bytes(41)
    body = b"\x00\x05" + secret + secret + srk + block
    response = chip.send(build_message(Tag.RQU_AUTH1_COMMAND, Ordinal.TAKE_OWNERSHIP, body))
    assert int.from_bytes(response[6:10], "big") == ReturnCode.NO_ENDORSEMENT


def test_ownership_can_be_forbidden_with_presence() -> None:
    chip = make_chip()
    assert chip.code(tss12.set_owner_install(False)) == ReturnCode.BAD_PRESENCE
    chip.assert_presence()
    chip.run(tss12.set_owner_install(False))
    assert _take(chip) == ReturnCode.INSTALL_DISABLED


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"key_usage": KeyUsage.SIGNING}, ReturnCode.INVALID_KEYUSAGE),
        ({"key_flags": KeyFlags.MIGRATABLE}, ReturnCode.INVALID_KEYUSAGE),
    ],
)
def test_an_srk_must_be_a_storage_key_that_is_not_migratable(
    change: dict[str, int], code: ReturnCode, monkeypatch: pytest.MonkeyPatch
) -> None:
    chip = make_chip()
    template = dataclasses.replace(tss12.srk_template(), **change)  # type: ignore[arg-type]
    monkeypatch.setattr("tpmcore.tss12.ownership.srk_template", lambda **_: template)
    assert _take(chip) == code
    assert not chip.run(tss12.is_owned())


def test_only_an_oiap_session_takes_ownership() -> None:
    chip = make_chip()
    index, secret = 0x00012345, b"secret of the area!!"
    permission = NvAttributes.AUTHREAD | NvAttributes.AUTHWRITE
    chip.run(tss12.nv_define_space(index, 4, permission, area_auth=secret))
    pubek = chip.run(tss12.read_pubek(random=chip.client_random))
    session = chip.run(tss12.osap(EntityType.NV, index, secret, random=chip.client_random))
    take = tss12.execute(
        Ordinal.TAKE_OWNERSHIP,
        Key.read,
        parameters=U16.write(ProtocolId.OWNER)
        + SIZED.write(tss12.encrypt_oaep(pubek, OWNER_AUTH))
        + SIZED.write(tss12.encrypt_oaep(pubek, SRK_AUTH))
        + tss12.srk_template().encode(),
        auths=(tss12.prove(session, chip.client_random),),
    )
    assert chip.code(take) == ReturnCode.BAD_MODE
    assert not chip.run(tss12.is_owned())


def test_an_srk_without_a_secret_is_refused_where_fips_rules() -> None:
    chip = make_chip()
    chip.engine._tpm.permanent.flags.fips = True
    chip.durable = chip.engine.permanent_state()
    template = dataclasses.replace(tss12.srk_template(), auth_data_usage=AuthDataUsage.NEVER)
    take = tss12.take_ownership(
        owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, srk_params=template, random=chip.client_random
    )
    assert chip.code(take) == ReturnCode.NOTFIPS
    assert not chip.run(tss12.is_owned())


def test_clearing_needs_the_owners_secret() -> None:
    chip = make_owned_chip()
    assert _clear(chip, b"wrong secret of owner") == ReturnCode.AUTHFAIL
    assert chip.run(tss12.is_owned())


def test_a_cleared_chip_is_disabled_at_once_and_deactivated_after_the_next_start() -> None:
    chip = make_owned_chip()
    assert _clear(chip) == ReturnCode.SUCCESS
    flags = chip.run(tss12.permanent_flags())
    assert flags.disable
    assert flags.deactivated
    assert flags.read_pubek
    assert not chip.run(tss12.stclear_flags()).deactivated
    chip.power_cycle()
    assert chip.run(tss12.stclear_flags()).deactivated


def test_the_endorsement_key_survives_a_clear_and_a_new_owner_gets_another_srk() -> None:
    chip = make_chip()
    ek = chip.run(tss12.read_pubek(random=chip.client_random))
    _take(chip)
    first = chip.engine._tpm.permanent.srk
    _clear(chip)
    chip.assert_presence()
    chip.run(tss12.physical_enable())
    chip.run(tss12.physical_set_deactivated(False))
    chip.power_cycle()
    assert chip.run(tss12.read_pubek(random=chip.client_random)) == ek
    assert _take(chip) == ReturnCode.SUCCESS
    second = chip.engine._tpm.permanent.srk
    assert first is not None
    assert second is not None
    assert first.digest != second.digest


def test_disable_owner_clear_leaves_only_presence() -> None:
    chip = make_owned_chip()
    chip.run(tss12.disable_owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert _clear(chip) == ReturnCode.CLEAR_DISABLED
    assert chip.code(tss12.force_clear()) == ReturnCode.BAD_PRESENCE
    chip.assert_presence()
    assert chip.code(tss12.force_clear()) == ReturnCode.SUCCESS
    assert not chip.run(tss12.is_owned())
    assert not chip.run(tss12.permanent_flags()).disable_owner_clear


def test_disable_force_clear_lasts_until_the_next_start() -> None:
    chip = make_owned_chip()
    chip.assert_presence()
    chip.run(tss12.disable_force_clear())
    assert chip.code(tss12.force_clear()) == ReturnCode.CLEAR_DISABLED
    chip.power_cycle(StartupType.CLEAR)
    chip.assert_presence()
    assert chip.code(tss12.force_clear()) == ReturnCode.SUCCESS


def test_clearing_without_an_owner_by_force_succeeds() -> None:
    chip = make_chip()
    chip.assert_presence()
    assert chip.code(tss12.force_clear()) == ReturnCode.SUCCESS


def test_a_clear_leaves_no_secret_of_the_owners_counters() -> None:
    chip = make_owned_chip()
    counter_auth = b"counter-secret-test!"
    chip.run(
        tss12.create_counter(
            owner_auth=OWNER_AUTH,
            counter_auth=counter_auth,
            label=b"test",
            random=chip.client_random,
        )
    )
    assert counter_auth in chip.engine.permanent_state()
    chip.run(tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
    assert counter_auth not in chip.engine.permanent_state()
