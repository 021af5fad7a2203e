# SPDX-License-Identifier: Apache-2.0
"""Conversations that a client who does everything right has with the chip that is being fuzzed.

They get to what no mutation of a recorded command reaches: blobs that this chip made, handles that
live, proofs that one command prepares for the next. What a talk needs it makes, from what the chip
has just then; the campaign sends its commands, some of them mutated, and keeps what they gave.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

from protocol.tpm12.constants import (
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    MigrationScheme,
    Ordinal,
    PhysicalPresenceFlags,
    ReservedHandle,
    ResourceType,
    SigScheme,
    StartupType,
)
from protocol.tpm12.delegation import DelegatePublic, DelegateType, Delegations
from protocol.tpm12.keys import Key, KeyParms, PubKey
from protocol.tpm12.migration import CmkAuth, MsaComposite
from protocol.tpm12.transport import TransportAttributes
from protocol.tpm12.wire import U32, Reader
from tests.fuzz.client import SECRET, SRK, Client, LoadedKeys, Talk
from tests.unit.tpm12.daa_issuer import (
    JOIN_END,
    SIGN_END,
    Joining,
    Signing,
    chain_key,
    issuer,
    number,
    public_part,
)
from tests.unit.tpm12.daa_journey import blobs_of
from tests.unit.tpm12.keychain import binding_key, encrypt_oaep, signing_key, storage_key
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tss12 import Conversation
from tpmcore.tss12.sessions import with_secret

_OTHER_SECRET: Final = b"secret-of-some-data!"
_DIGEST: Final = bytes(range(20))
_MAKER_SERIAL: Final = 704
_AUTHORITY_SERIAL: Final = 705
_OAEP: Final = padding.OAEP(padding.MGF1(hashes.SHA1()), hashes.SHA1(), b"TCPA")
_CERTIFIED: Final = KeyFlags.MIGRATABLE | KeyFlags.MIGRATE_AUTHORITY
_OWNER_READ_PUBEK: Final = 1 << 9
_SIGN: Final = 1 << 14
_ROWS: Final = 2
_FAMILIES_WANTED: Final = 4
_JOIN_STAGES: Final = 8
_NONCE_STAGE: Final = 8
"""Of a Join: the chip gets a nonce that its endorsement key decrypts."""
_WHOLE_JOIN_PERCENT: Final = 10
_NO_BLOBS: Final = (b"", b"", b"")
_SESSION_KEY: Final = bytes.fromhex("00000006 00ff 0010") + bytes(16)  # TPM_SYMMETRIC_KEY: AES-128


@contextmanager
def _or_not() -> Iterator[None]:
    """Go on if the chip does not want it: it has it already, or never will."""
    with suppress(TpmError):
        yield


def _flush(*handles: int) -> Conversation[None]:
    for handle in handles:
        yield from tss12.flush_specific(handle, ResourceType.KEY)


def _change_auth(client: Client) -> Conversation[None]:
    key = yield from client.make(signing_key())
    yield from tss12.change_auth(
        SRK,
        key.enc_data,
        entity_type=EntityType.KEY,
        parent_auth=client.srk,
        old_auth=SECRET,
        new_auth=_OTHER_SECRET,
        random=client.random,
    )


def _make_identity(client: Client) -> Conversation[tuple[Key, int]]:
    identity = yield from tss12.make_identity(
        owner_auth=client.owner,
        srk_auth=client.srk,
        identity_auth=SECRET,
        label_digest=_DIGEST,
        random=client.random,
    )
    return identity.key, (yield from client.load(identity.key))


def _change_auth_asym(client: Client) -> Conversation[None]:
    key = yield from client.make(signing_key())
    identity, handle = yield from _make_identity(client)
    ephemeral = yield from tss12.change_auth_asym_start(
        handle, identity.public_key, identity_auth=SECRET, random=client.random
    )
    yield from tss12.change_auth_asym_finish(
        SRK,
        ephemeral,
        key.enc_data,
        parent_auth=client.owner,
        old_auth=SECRET,
        new_auth=_OTHER_SECRET,
        random=client.random,
    )
    yield from _flush(handle)


def _activate_identity(client: Client) -> Conversation[None]:
    identity, handle = yield from _make_identity(client)
    ek = yield from tss12.owner_read_internal_pub(
        ReservedHandle.EK, owner_auth=client.owner, random=client.random
    )
    # TPM_ASYM_CA_CONTENTS.
    blob = tss12.encrypt_oaep(ek, _SESSION_KEY + identity.public_key.digest())
    yield from tss12.activate_identity(
        handle, blob, owner_auth=client.owner, identity_auth=SECRET, random=client.random
    )
    yield from _flush(handle)


def _load_key(client: Client) -> Conversation[None]:
    """LoadKey, which no client has besides LoadKey2."""
    key = yield from client.make(signing_key())
    handle = yield from with_secret(
        Ordinal.LOAD_KEY,
        Reader.u32,
        client.srk,
        random=client.random,
        handles=U32.write(SRK),
        parameters=key.encode(),
    )
    yield from _flush(handle)


def _store(client: Client) -> Conversation[None]:
    """Seal, SealX and bind, and get it back."""
    random = client.random
    for seal, pcr_info in ((tss12.seal, None), (tss12.sealx, tss12.pcr_info_long({}))):
        blob = yield from seal(
            SRK,
            parent_auth=client.srk,
            blob_auth=SECRET,
            data=_DIGEST,
            pcr_info=pcr_info,
            random=random,
        )
        yield from tss12.unseal(SRK, blob, parent_auth=client.srk, blob_auth=SECRET, random=random)
    key, handle = yield from client.make_and_load(binding_key())
    yield from tss12.unbind(
        handle, tss12.bind(key.public_key, _DIGEST), key_auth=SECRET, random=random
    )
    yield from _flush(handle)


def _attest(client: Client) -> Conversation[None]:
    """Sign, quote and certify."""
    random = client.random
    _, handle = yield from client.make_and_load(signing_key())
    yield from tss12.get_pub_key(handle, key_auth=SECRET, random=random)
    yield from tss12.sign(handle, _DIGEST, key_auth=SECRET, random=random)
    selection = tss12.pcr_info_long({0: SECRET}).release_selection
    yield from tss12.quote(
        handle, external_data=_DIGEST, selection=selection, key_auth=SECRET, random=random
    )
    yield from tss12.quote2(
        handle, external_data=_DIGEST, selection=selection, key_auth=SECRET, random=random
    )
    yield from tss12.certify_key(handle, handle, cert_auth=SECRET, key_auth=SECRET, random=random)
    yield from tss12.certify_key2(handle, handle, cert_auth=SECRET, key_auth=SECRET, random=random)
    yield from tss12.tick_stamp_blob(
        handle, _DIGEST, anti_replay=_DIGEST, key_auth=SECRET, random=random
    )
    yield from tss12.get_audit_digest_signed(
        handle, close=False, anti_replay=_DIGEST, key_auth=SECRET, random=random
    )
    yield from _flush(handle)


def _migrate(client: Client) -> Conversation[None]:
    """Take a key from the chip to itself, and pass another on."""
    random = client.random
    key = yield from client.make(signing_key(flags=KeyFlags.MIGRATABLE))
    target, handle = yield from client.make_and_load(storage_key())
    permission = yield from tss12.authorize_migration_key(
        MigrationScheme.MIGRATE, target.public_key, owner_auth=client.owner, random=random
    )
    blob = yield from tss12.create_migration_blob(
        SRK,
        key.enc_data,
        scheme=MigrationScheme.MIGRATE,
        permission=permission,
        parent_auth=client.srk,
        migration_auth=SECRET,
        random=random,
    )
    yield from tss12.convert_migration_blob(handle, blob, parent_auth=SECRET, random=random)
    template = Key.template(
        KeyUsage.MIGRATE, enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
    )
    authority, authority_handle = yield from client.make_and_load(template)
    passed = tss12.encrypt_oaep(authority.public_key, bytes(100))
    yield from tss12.migrate_key(
        authority_handle, target.public_key, passed, authority_auth=SECRET, random=random
    )
    yield from _flush(handle, authority_handle)


def _migrate_certified(client: Client) -> Conversation[None]:
    random = client.random
    signer = chain_key(_AUTHORITY_SERIAL)
    signer_pub = _public(signer, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1)
    authorities = MsaComposite((signer_pub.digest(),))
    target, handle = yield from client.make_and_load(storage_key())
    approval = yield from tss12.cmk_approve_ma(authorities, owner_auth=client.owner, random=random)
    template = dataclasses.replace(signing_key(bits=2048, flags=_CERTIFIED), is_key12=True)
    key = yield from tss12.cmk_create_key(
        SRK,
        template,
        authorities=authorities,
        approval=approval,
        parent_auth=client.srk,
        usage_auth=SECRET,
        random=random,
    )
    restrict = CmkAuth(authorities.digest(), target.public_key.digest(), key.public_key.digest())
    signature = _signature(signer, restrict.digest())
    ticket = tss12.Ticket(
        restrict,
        (
            yield from tss12.cmk_create_ticket(
                signer_pub, restrict.digest(), signature, owner_auth=client.owner, random=random
            )
        ),
    )
    permission = yield from tss12.authorize_migration_key(
        MigrationScheme.RESTRICT_APPROVE,
        target.public_key,
        owner_auth=client.owner,
        random=random,
    )
    blob = yield from tss12.cmk_create_blob(
        SRK,
        key,
        permission=permission,
        authorities=authorities,
        ticket=ticket,
        parent_auth=client.srk,
        random=random,
    )
    yield from tss12.cmk_convert_migration(
        handle,
        dataclasses.replace(key, enc_data=blob.data),
        mask=blob.random,
        authorities=authorities,
        ticket=ticket,
        parent_auth=SECRET,
        random=random,
    )
    yield from _flush(handle)


def _public(
    key: rsa.RSAPrivateKey,
    *,
    enc_scheme: EncScheme = EncScheme.NONE,
    sig_scheme: SigScheme = SigScheme.NONE,
) -> PubKey:
    return PubKey(KeyParms.for_rsa(enc_scheme=enc_scheme, sig_scheme=sig_scheme), public_part(key))


def _signature(key: rsa.RSAPrivateKey, digest: bytes) -> bytes:
    return key.sign(digest, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))


def _maintain(client: Client) -> Conversation[None]:
    """Be archived, and become what the archive is of: the same chip."""
    maker = chain_key(_MAKER_SERIAL)
    public = _public(maker, enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1)
    with _or_not():
        yield from tss12.load_manu_maint_pub(public, _DIGEST)
    if client.tpm.permanent.manu_maint_pub != public:
        return  # the fuzzer was first, with another key
    given = yield from tss12.create_maintenance_archive(
        generate_random=client.dice.chance(50), owner_auth=client.owner, random=client.random
    )
    masked = maker.decrypt(given.key.enc_data, _OAEP)
    again = tss12.encrypt_oaep(client.public(SRK), masked)
    archive = dataclasses.replace(given.key, enc_data=again).encode()
    yield from tss12.load_maintenance_archive(
        archive,
        _signature(maker, hashlib.sha1(archive).digest()),
        given.random,
        owner_auth=client.owner,
        random=client.random,
    )


def _revoke(client: Client) -> Conversation[None]:
    """Make an endorsement key that may be taken away, and take it away."""
    for flags in (PhysicalPresenceFlags.CMD_ENABLE, PhysicalPresenceFlags.PRESENT):
        with _or_not():
            yield from tss12.tsc_physical_presence(flags)
    with _or_not():
        yield from tss12.create_revocable_ek(random=client.random)
    if client.dice.chance(50):
        yield from tss12.revoke_trust(client.tpm.permanent.ek_reset)


def _start(_client: Client) -> Conversation[None]:
    yield from tss12.startup(StartupType.CLEAR)
    yield from tss12.continue_self_test()


def _own(client: Client) -> Conversation[None]:
    yield from tss12.take_ownership(owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=client.random)


def _delegate(client: Client) -> Conversation[None]:
    """Delegate what the owner and a key may do, and do a little of it."""
    random, owner = client.random, client.owner
    families = client.tpm.permanent.families.values()
    if len(families) < _FAMILIES_WANTED:
        family = yield from tss12.create_family(0x41, owner_auth=owner, random=random)
    else:
        family = client.dice.pick([entry.family_id for entry in families])

    def public(kind: DelegateType, bits: int) -> DelegatePublic:
        entry = client.tpm.permanent.family(family)
        count = 0 if entry is None else entry.verification_count
        return DelegatePublic(0, tss12.pcr_info_short(), Delegations(kind, bits), family, count)

    blob = yield from tss12.create_owner_delegation(
        public(DelegateType.OWNER, _OWNER_READ_PUBEK),
        owner_auth=owner,
        delegate_auth=SECRET,
        random=random,
    )
    row = client.dice.below(_ROWS)
    yield from tss12.load_owner_delegation(row, blob, owner_auth=owner, random=random)
    yield from tss12.verify_delegation(blob.encode())
    yield from tss12.update_verification(blob.encode(), owner_auth=owner, random=random)
    yield from tss12.dsap_row(row, SECRET, random=random)
    _, handle = yield from client.make_and_load(signing_key())
    key_blob = yield from tss12.create_key_delegation(
        handle,
        public(DelegateType.KEY, _SIGN),
        key_auth=SECRET,
        delegate_auth=SECRET,
        random=random,
    )
    session = yield from tss12.dsap(
        EntityType.DEL_KEY_BLOB, key_blob.encode(), SECRET, random=random, key_handle=handle
    )
    yield from tss12.sign(handle, _DIGEST, key_auth=SECRET, random=random, session=session)
    yield from _flush(handle)


def _swap(client: Client) -> Conversation[None]:
    """Save and load contexts, also in the deprecated way."""
    key, handle = yield from client.make_and_load(signing_key())
    for pinned in (True, False):
        yield from tss12.key_control_owner(
            handle, key.public_key, pinned, owner_auth=client.owner, random=client.random
        )
    saved = yield from tss12.save_context(handle, ResourceType.KEY)
    yield from _flush((yield from tss12.load_context(saved)))
    handle = yield from tss12.load_key_context((yield from tss12.save_key_context(handle)))
    yield from _flush(handle)
    session = yield from tss12.oiap()
    blob = yield from tss12.save_auth_context(session.handle)
    yield from tss12.load_auth_context(blob)


def _release(client: Client) -> Conversation[None]:
    """Have the log of a transport session signed."""
    key, handle = yield from client.make_and_load(signing_key())
    session = yield from tss12.establish_transport(TransportAttributes.LOG, random=client.random)
    session.keys = LoadedKeys(client)
    yield from tss12.through(
        session, tss12.get_pub_key(handle, key_auth=SECRET, random=client.random)
    )
    yield from tss12.release_transport_signed(
        session, handle, key.public_key, anti_replay=_DIGEST, key_auth=SECRET
    )
    yield from _flush(handle)


def _join(client: Client) -> Conversation[None]:
    """Do a DAA Join, and a Sign with what it gave; mostly only begin both, since they take long."""
    join = Joining(None, issuer())  # type: ignore[arg-type]  # the chip is asked here
    is_whole = client.dice.chance(_WHOLE_JOIN_PERCENT)
    for stage in range(JOIN_END + 1 if is_whole else client.dice.below(_JOIN_STAGES)):
        if stage == _NONCE_STAGE:
            ek = client.public(ReservedHandle.EK).key
            inputs = [(encrypt_oaep(ek, join.nonce_of_issuer), b"")]
        else:
            inputs = [join.inputs(stage)]
        if stage == 1:
            inputs.insert(0, (public_part(chain_key(702)), b""))
        for data in inputs:
            join.done[stage] = yield from tss12.daa_join(
                join.handle, stage, *data, owner_auth=client.owner, random=client.random
            )
        if stage == 0:
            join.handle = number(join.done[stage])
    sign = Signing(None, issuer(), blobs=blobs_of(join) if is_whole else _NO_BLOBS)  # type: ignore[arg-type]
    for stage in range(SIGN_END + 1 if is_whole else 1):
        sign.done[stage] = yield from tss12.daa_sign(
            sign.handle, stage, *sign.inputs(stage), owner_auth=client.owner, random=client.random
        )
        if stage == 0:
            sign.handle = number(sign.done[stage])


OWNED: Final[tuple[Talk, ...]] = (
    _change_auth,
    _change_auth_asym,
    _activate_identity,
    _load_key,
    _store,
    _attest,
    _migrate,
    _migrate_certified,
    _maintain,
    _delegate,
    _swap,
    _release,
    _join,
)
"""With a chip that has an owner."""
WRAPPABLE: Final = frozenset(OWNED) - {_release}
"""Those that open no transport session themselves."""
UNOWNED: Final[tuple[Talk, ...]] = (_start, _own, _revoke)
"""With one that has none."""
