# SPDX-License-Identifier: Apache-2.0
"""The audit digest, and the data integrity register (Part 3, chapters 8 and 27.3)."""

from __future__ import annotations

from typing import Final

from protocol.tpm12.constants import Ordinal, ReturnCode
from protocol.tpm12.transport import TransportAttributes
from tests.conformance.cases_transport import NONE, open_transport
from tests.conformance.comparison import size
from tests.conformance.machines import World
from tests.conformance.script import DIGEST, SRK, USAGE_AUTH, Chapter, Script
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12

CHAPTER: Final = Chapter()
case = CHAPTER.case
RC = ReturnCode
NEW, UNOWNED, OWNED = World.NEW, World.UNOWNED, World.OWNED
SIGNED: Final = {"audit_digest": size, "sig": size}


@case(NEW, Ordinal.GET_AUDIT_DIGEST)
def audit_digest_of_a_new_chip(tpm: Script) -> None:
    for start in (0, 0x1F, 0x8D, 0x8E, 0xFF, 0x100, 0x4000000A, 0x4000000C, 0xFFFFFFFF):
        tpm.call(Ordinal.GET_AUDIT_DIGEST, start)


@case(NEW, Ordinal.GET_AUDIT_DIGEST)
def audit_digest_follows_what_is_audited(tpm: Script) -> None:
    tpm.call(Ordinal.DISABLE_FORCE_CLEAR)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(Ordinal.PHYSICAL_ENABLE, code=RC.BAD_PRESENCE)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.presence()
    tpm.call(Ordinal.PHYSICAL_ENABLE)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(Ordinal.SET_OWNER_INSTALL, True)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.power_cycle()
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS, Ordinal.GET_AUDIT_DIGEST)
def audit_status_is_set_by_the_owner(tpm: Script) -> None:
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    tpm.call(change, Ordinal.EXTEND, True, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(change, Ordinal.EXTEND, True, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(change, Ordinal.EXTEND, True, auth=[tpm.oiap()])
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(Ordinal.EXTEND, 0, DIGEST)
    tpm.call(Ordinal.EXTEND, 99, DIGEST, code=RC.BADINDEX)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.call(change, Ordinal.EXTEND, False, auth=[tpm.osap_owner()])
    tpm.call(change, Ordinal.PHYSICAL_ENABLE, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.EXTEND, 0, DIGEST)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    tpm.power_cycle()
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS)
def audit_status_of_what_is_never_audited(tpm: Script) -> None:
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    for ordinal in (Ordinal.GET_AUDIT_DIGEST, Ordinal.GET_AUDIT_DIGEST_SIGNED):
        tpm.call(change, ordinal, True, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
        tpm.call(change, ordinal, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS)
def audit_status_that_is_no_boolean(tpm: Script) -> None:
    body = Ordinal.EXTEND.to_bytes(4, "big") + b"\2"
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    tpm.call(change, body=body, auth=[tpm.oiap()], code=RC.BAD_PARAMETER)
    # Found before the HMAC.
    tpm.call(change, body=body, auth=[tpm.oiap(spoil=True)], code=RC.BAD_PARAMETER)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS)
def audit_status_of_its_own_and_of_presence(tpm: Script) -> None:
    """Compare that the status before counts, and that the ordinals of TIS can be audited."""
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    for audited in (False, True, False):
        tpm.call(change, change, audited, auth=[tpm.oiap()])
        tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    presence = (Ordinal.TSC_PHYSICAL_PRESENCE, Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
    for ordinal in presence:
        tpm.call(change, ordinal, True, auth=[tpm.oiap()])
    tpm.presence()
    tpm.locality = 3
    tpm.call(Ordinal.TSC_RESET_ESTABLISHMENT_BIT)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)
    for ordinal in presence:
        tpm.call(change, ordinal, False, auth=[tpm.oiap()])
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.GET_AUDIT_DIGEST, Ordinal.EXECUTE_TRANSPORT)
def audit_digest_of_wrapped_commands(tpm: Script) -> None:
    tpm.wrapped("storage")
    # That a key was made is in the digest, where it was made in this case: it begins anew.
    tpm.power_cycle()
    key = tpm.load("storage")
    for attributes in (TransportAttributes(0), TransportAttributes.ENCRYPT):
        session = tpm.run(
            tss12.establish_transport(
                attributes,
                random=tpm.random,
                enc_handle=key,
                enc_key=tpm.wrapped("storage").public_key,
                key_auth=USAGE_AUTH,
            )
        )
        tpm.run(tss12.through(session, tss12.set_owner_install(False)))
        tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS, Ordinal.GET_AUDIT_DIGEST, Ordinal.EXECUTE_TRANSPORT)
def audit_digest_of_what_wraps(tpm: Script) -> None:
    """Compare that what is audited of ExecuteTransport are H1 and H2, in the clear."""
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    tpm.wrapped("storage")
    tpm.call(change, Ordinal.EXECUTE_TRANSPORT, True, auth=[tpm.oiap()])
    for wrapped_too in (False, True):
        tpm.call(change, Ordinal.PCR_READ, wrapped_too, auth=[tpm.oiap()])
        for attributes in (NONE, TransportAttributes.ENCRYPT, TransportAttributes.LOG):
            tpm.power_cycle()
            session = open_transport(tpm, attributes)
            for index in (3, 4):
                tpm.run(tss12.through(session, tss12.pcr_read(index)))
                tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.SET_ORDINAL_AUDIT_STATUS)
def audit_status_of_an_ordinal_that_is_not_there(tpm: Script) -> None:
    change = Ordinal.SET_ORDINAL_AUDIT_STATUS
    for ordinal in (0x1234, 0x01):
        tpm.call(change, ordinal, True, auth=[tpm.oiap()], code=RC.BADINDEX)
        tpm.call(change, ordinal, False, auth=[tpm.oiap()], code=RC.BADINDEX)


@case(OWNED, Ordinal.GET_AUDIT_DIGEST_SIGNED)
def audit_digest_signed(tpm: Script) -> None:
    signed = Ordinal.GET_AUDIT_DIGEST_SIGNED
    key = tpm.load("sign")
    tpm.call(signed, key, False, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], masks=SIGNED)
    for name in ("sign-info", "legacy"):
        auth = [tpm.oiap(USAGE_AUTH)]
        tpm.call(signed, tpm.load(name), False, DIGEST, auth=auth, masks=SIGNED)
    wrong = tpm.oiap(USAGE_AUTH, spoil=True)
    tpm.call(signed, key, False, DIGEST, auth=[wrong], code=RC.AUTHFAIL)
    tpm.call(signed, key, False, DIGEST, auth=[tpm.osap_key()], code=RC.AUTHFAIL)
    tpm.call(signed, key, False, DIGEST, code=RC.AUTHFAIL)
    body = key.to_bytes(4, "big") + b"\2" + DIGEST
    tpm.call(signed, body=body, auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_PARAMETER)
    tpm.call(signed, tpm.load("sign-open"), False, DIGEST, masks=SIGNED)
    tpm.call(signed, key, True, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYUSAGE)
    tpm.call(signed, tpm.load("bind-open"), False, DIGEST, code=RC.INVALID_KEYUSAGE)
    der = tpm.load("sign-der")
    tpm.call(signed, der, False, DIGEST, auth=[tpm.oiap(USAGE_AUTH)], code=RC.INVALID_KEYUSAGE)
    tpm.call(signed, 9, False, DIGEST, code=RC.INVALID_KEYHANDLE)
    # The handle is looked at before the HMAC, and that before the usage.
    tpm.call(signed, 9, False, DIGEST, auth=[tpm.oiap(spoil=True)], code=RC.INVALID_KEYHANDLE)
    tpm.call(signed, der, False, DIGEST, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0, masks={"audit_digest": any})


@case(OWNED, Ordinal.GET_AUDIT_DIGEST_SIGNED)
def audit_digest_signed_with_a_bound_key(tpm: Script) -> None:
    values = (tpm.load("sign-bound"), False, DIGEST)
    signed = Ordinal.GET_AUDIT_DIGEST_SIGNED
    tpm.call(signed, *values, auth=[tpm.oiap(USAGE_AUTH)], masks=SIGNED)
    tpm.locality = 1
    tpm.call(signed, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.BAD_LOCALITY)
    tpm.locality = 0
    tpm.call(Ordinal.EXTEND, 16, DIGEST)
    tpm.call(signed, *values, auth=[tpm.oiap(USAGE_AUTH)], code=RC.WRONGPCRVAL)


@case(OWNED, Ordinal.GET_AUDIT_DIGEST_SIGNED)
def audit_digest_closed(tpm: Script) -> None:
    made = tpm.run(
        tss12.make_identity(
            owner_auth=OWNER_AUTH,
            srk_auth=SRK_AUTH,
            identity_auth=USAGE_AUTH,
            label_digest=DIGEST,
            random=tpm.random,
        )
    )
    handle = tpm.run(tss12.load_key2(SRK, made.key, parent_auth=SRK_AUTH, random=tpm.random))
    # Only whether the digest is zero is compared: it covers random keys.
    masks = {"audit_digest": any, "sig": size}
    auth = [tpm.oiap(USAGE_AUTH)]
    tpm.call(Ordinal.GET_AUDIT_DIGEST_SIGNED, handle, True, DIGEST, auth=auth, masks=masks)
    tpm.call(Ordinal.GET_AUDIT_DIGEST, 0)


@case(OWNED, Ordinal.DIR_WRITE_AUTH, Ordinal.DIR_READ)
def data_integrity_register(tpm: Script) -> None:
    tpm.call(Ordinal.DIR_READ, 0)
    tpm.call(Ordinal.DIR_WRITE_AUTH, 0, DIGEST, auth=[tpm.oiap(spoil=True)], code=RC.AUTHFAIL)
    tpm.call(Ordinal.DIR_WRITE_AUTH, 1, DIGEST, auth=[tpm.oiap()], code=RC.BADINDEX)
    tpm.call(Ordinal.DIR_WRITE_AUTH, 0, DIGEST, auth=[tpm.oiap()])
    tpm.call(Ordinal.DIR_READ, 0)
    tpm.call(Ordinal.DIR_READ, 1, code=RC.BADINDEX)
    tpm.power_cycle()
    tpm.call(Ordinal.DIR_READ, 0)
