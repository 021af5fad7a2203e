# SPDX-License-Identifier: Apache-2.0
"""Each operation of the client against the engine: what one encodes the other must decode."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from protocol.tpm12.attestation import AsymCaContents, CertifyInfo, CertifyInfo2, SymmetricKey
from protocol.tpm12.constants import (
    Algorithm,
    CapabilityArea,
    EncScheme,
    EntityType,
    KeyFlags,
    KeyUsage,
    NvAttributes,
    Ordinal,
    PhysicalPresenceFlags,
    ReservedHandle,
    ResourceType,
    ReturnCode,
    SetCapabilityArea,
    SigScheme,
    StartupType,
)
from protocol.tpm12.keys import Key
from protocol.tpm12.pcr import PcrInfo, PcrInfoLong, PcrSelection
from protocol.tpm12.stored import StoredData
from tests.unit.tpm12.world import OWNER_AUTH, SRK_AUTH, Chip, make_chip, make_owned_chip
from tpmcore import tss12
from tpmcore.errors import TpmError
from tpmcore.tpm12.world import Profile
from tpmcore.tss12 import ResponseError

SRK = ReservedHandle.SRK
KEY_AUTH = b"key-secret-of-tests!"
BLOB_AUTH = b"blob-secret-of-test!"
NONCE = b"nonce-of-a-verifier!"
SIGNING = Key.template(
    KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_SHA1
)
STORAGE = Key.template(
    KeyUsage.STORAGE, enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)
BINDING = Key.template(
    KeyUsage.BIND, enc_scheme=EncScheme.RSAESOAEP_SHA1_MGF1, sig_scheme=SigScheme.NONE
)


@pytest.fixture
def chip() -> Chip:
    """A chip with an owner."""
    return make_owned_chip()


@pytest.fixture
def blank() -> Chip:
    """A new chip without owner and EK."""
    return make_chip(Profile(make_ek=False))


def make_key(chip: Chip, template: Key) -> tuple[Key, int]:
    """Make a key below the SRK and load it."""
    key = chip.run(
        tss12.create_wrap_key(
            SRK,
            template,
            parent_auth=SRK_AUTH,
            usage_auth=KEY_AUTH,
            random=chip.client_random,
        )
    )
    handle = chip.run(tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=chip.client_random))
    return key, handle


class TestAdmin:
    """Startup, self tests, opt-in."""

    def test_startup_and_state(self, chip: Chip) -> None:
        chip.run(tss12.extend(3, bytes(20)))
        before = chip.run(tss12.pcr_read(3))
        chip.run(tss12.save_state())
        chip.power_cycle(StartupType.STATE)
        assert chip.run(tss12.pcr_read(3)) == before
        assert chip.code(tss12.startup()) == ReturnCode.INVALID_POSTINIT

    def test_self_tests(self, chip: Chip) -> None:
        chip.run(tss12.self_test_full())
        chip.run(tss12.continue_self_test())
        assert chip.run(tss12.get_test_result())

    def test_presence_and_opt_in(self, blank: Chip) -> None:
        blank.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.CMD_ENABLE))
        blank.run(tss12.tsc_physical_presence(PhysicalPresenceFlags.PRESENT))
        assert blank.run(tss12.stclear_flags()).physical_presence
        blank.run(tss12.physical_disable())
        assert blank.run(tss12.permanent_flags()).disable
        blank.run(tss12.physical_enable())
        blank.run(tss12.physical_set_deactivated(True))
        assert blank.run(tss12.permanent_flags()).deactivated
        blank.run(tss12.set_owner_install(False))
        assert not blank.run(tss12.permanent_flags()).ownership
        blank.run(tss12.set_operator_auth(BLOB_AUTH))
        assert blank.run(tss12.permanent_flags()).operator
        blank.run(tss12.set_temp_deactivated(operator_auth=BLOB_AUTH, random=blank.client_random))
        assert blank.run(tss12.stclear_flags()).deactivated

    def test_the_owner_disables_and_enables(self, chip: Chip) -> None:
        for state in (True, False):
            chip.run(
                tss12.owner_set_disable(state, owner_auth=OWNER_AUTH, random=chip.client_random)
            )
            assert chip.run(tss12.permanent_flags()).disable is state

    def test_the_establishment_bit_is_cleared_from_locality_3(self, chip: Chip) -> None:
        assert chip.code(tss12.tsc_reset_establishment_bit()) == ReturnCode.BAD_LOCALITY
        chip.run(tss12.tsc_reset_establishment_bit(), locality=3)


class TestCapabilities:
    """GetCapability and SetCapability."""

    def test_typed_questions(self, chip: Chip) -> None:
        profile = chip.profile
        assert chip.run(tss12.pcr_count()) == 24
        assert chip.run(tss12.input_buffer()) == profile.input_buffer_bytes
        assert chip.run(tss12.timeouts_us()) == profile.timeouts_us
        assert chip.run(tss12.durations_us()) == profile.durations_us
        assert chip.run(tss12.manufacturer()) == profile.manufacturer
        assert chip.run(tss12.is_owned())
        assert chip.run(tss12.is_implemented(Ordinal.SEAL))
        assert not chip.run(tss12.is_implemented(Ordinal.INIT))
        assert chip.run(tss12.handles(ResourceType.KEY)) == []
        version = chip.run(tss12.version_info())
        assert (version.version[:2], version.spec_level) == (b"\x01\x02", 2)
        assert chip.run(tss12.get_capability(CapabilityArea.VERSION)) == b"\x01\x01\x00\x00"

    def test_an_unowned_chip_says_so(self, blank: Chip) -> None:
        assert not blank.run(tss12.is_owned())

    def test_the_owner_sets_a_flag(self, chip: Chip) -> None:
        chip.run(
            tss12.set_capability(
                SetCapabilityArea.PERM_FLAGS,
                17,  # readSRKPub
                b"\x01",
                owner_auth=OWNER_AUTH,
                random=chip.client_random,
            )
        )
        assert chip.run(tss12.permanent_flags()).read_srk_pub
        srk = chip.run(tss12.get_pub_key(SRK, key_auth=SRK_AUTH, random=chip.client_random))
        owner_view = tss12.owner_read_internal_pub(
            SRK, owner_auth=OWNER_AUTH, random=chip.client_random
        )
        assert srk == chip.run(owner_view)

    def test_the_owners_view_of_the_flags(self, chip: Chip) -> None:
        view = chip.run(
            tss12.get_capability_owner(owner_auth=OWNER_AUTH, random=chip.client_random)
        )
        assert view.version[:2] == b"\x01\x02"
        flags = chip.run(tss12.permanent_flags())
        assert bool(view.non_volatile_flags & 1 << 3) is flags.read_pubek
        assert bool(view.non_volatile_flags & 1 << 1) is flags.ownership


class TestEndorsementAndOwnership:
    """EK, TakeOwnership, clearing."""

    def test_an_endorsement_key_is_made_and_read(self, blank: Chip) -> None:
        made = blank.run(tss12.create_endorsement_key_pair(random=blank.client_random))
        assert len(made.key) == 256
        assert blank.run(tss12.read_pubek(random=blank.client_random)) == made
        again = tss12.create_endorsement_key_pair(random=blank.client_random)
        assert blank.code(again) == ReturnCode.DISABLED_CMD

    @pytest.mark.parametrize("reset", [None, BLOB_AUTH])
    def test_a_revocable_key_is_revoked_with_its_secret(
        self, blank: Chip, reset: bytes | None
    ) -> None:
        made = blank.run(tss12.create_revocable_ek(random=blank.client_random, ek_reset=reset))
        if reset is not None:
            assert made.ek_reset == reset
        blank.assert_presence()
        assert blank.code(tss12.revoke_trust(bytes(20))) == ReturnCode.AUTHFAIL
        blank.run(tss12.revoke_trust(made.ek_reset))
        blank.run(tss12.physical_enable())
        read = tss12.read_pubek(random=blank.client_random)
        assert blank.code(read) == ReturnCode.NO_ENDORSEMENT

    def test_ownership_with_a_key_known_beforehand(self) -> None:
        chip = make_chip()
        pubek = chip.run(tss12.read_pubek(random=chip.client_random))
        commands = len(chip.log)
        srk = chip.run(
            tss12.take_ownership(
                owner_auth=OWNER_AUTH,
                srk_auth=SRK_AUTH,
                random=chip.client_random,
                pubek=pubek,
                srk_params=tss12.srk_template(is_key12=True),
            )
        )
        assert len(chip.log) - commands == 2  # OIAP, TakeOwnership
        assert srk.is_key12
        assert srk.public_key == chip.run(
            tss12.owner_read_internal_pub(SRK, owner_auth=OWNER_AUTH, random=chip.client_random)
        )

    def test_the_owner_reads_the_endorsement_key(self, chip: Chip) -> None:
        owner = {"owner_auth": OWNER_AUTH}
        assert chip.code(tss12.read_pubek(random=chip.client_random)) == ReturnCode.DISABLED_CMD
        one = chip.run(tss12.owner_read_pubek(random=chip.client_random, **owner))
        two = chip.run(
            tss12.owner_read_internal_pub(ReservedHandle.EK, random=chip.client_random, **owner)
        )
        assert one == two
        chip.run(tss12.disable_pubek_read(random=chip.client_random, **owner))

    def test_the_owner_clears_unless_disabled(self, chip: Chip) -> None:
        chip.run(tss12.disable_owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random))
        clear = tss12.owner_clear(owner_auth=OWNER_AUTH, random=chip.client_random)
        assert chip.code(clear) == ReturnCode.CLEAR_DISABLED
        chip.assert_presence()
        chip.run(tss12.force_clear())
        assert not chip.run(tss12.is_owned())

    def test_force_clear_can_be_disabled_for_a_boot(self, chip: Chip) -> None:
        chip.assert_presence()
        chip.run(tss12.disable_force_clear())
        assert chip.code(tss12.force_clear()) == ReturnCode.CLEAR_DISABLED


class TestStorage:
    """Seal, bind, keys."""

    @pytest.mark.parametrize("form", ["none", "info", "long"])
    def test_sealed_data_returns_under_its_pcrs(self, chip: Chip, form: str) -> None:
        value = chip.run(tss12.pcr_read(16))
        info: PcrInfo | PcrInfoLong | None = None
        if form == "info":
            info = tss12.pcr_info({16: value})
        elif form == "long":
            info = tss12.pcr_info_long({16: value})
        blob = chip.run(
            tss12.seal(
                SRK,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                data=b"the secret",
                pcr_info=info,
                random=chip.client_random,
            )
        )
        again = StoredData.decode(blob.encode())
        unseal = {"parent_auth": SRK_AUTH, "blob_auth": BLOB_AUTH}
        assert (
            chip.run(tss12.unseal(SRK, again, random=chip.client_random, **unseal)) == b"the secret"
        )
        chip.run(tss12.extend(16, bytes(20)))
        code = chip.code(tss12.unseal(SRK, again, random=chip.client_random, **unseal))
        expected = ReturnCode.SUCCESS if info is None else ReturnCode.WRONGPCRVAL
        assert code == expected

    def test_sealed_data_can_be_bound_to_a_locality(self, chip: Chip) -> None:
        blob = chip.run(
            tss12.seal(
                SRK,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                data=b"x" * 149,
                pcr_info=tss12.pcr_info_long({}, localities=0x04),
                random=chip.client_random,
            )
        )

        def unseal(locality: int) -> int:
            conversation = tss12.unseal(
                SRK,
                blob,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                random=chip.client_random,
            )
            return chip.code(conversation, locality=locality)

        assert unseal(0) == ReturnCode.BAD_LOCALITY
        assert unseal(2) == ReturnCode.SUCCESS

    def test_sealx_data_never_travels_in_the_clear(self, chip: Chip) -> None:
        secret = b"never in the clear on the wire"
        blob = chip.run(
            tss12.sealx(
                SRK,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                data=secret,
                pcr_info=None,
                random=chip.client_random,
            )
        )
        opened = chip.run(
            tss12.unseal(
                SRK,
                blob,
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                random=chip.client_random,
            )
        )
        assert opened == secret
        assert all(secret not in command + response for command, response in chip.log)
        with pytest.raises(ValueError, match="parent"):
            chip.run(
                tss12.unseal(
                    SRK, blob, parent_auth=None, blob_auth=BLOB_AUTH, random=chip.client_random
                )
            )
        other = replace(blob, entity_type=0x0600)
        with pytest.raises(ValueError, match="XOR"):
            chip.run(
                tss12.unseal(
                    SRK, other, parent_auth=SRK_AUTH, blob_auth=BLOB_AUTH, random=chip.client_random
                )
            )

    def test_a_parent_without_authorization_needs_none(self, chip: Chip) -> None:
        _, parent = make_key(chip, replace(STORAGE, auth_data_usage=0))
        blob = chip.run(
            tss12.seal(
                parent,
                parent_auth=KEY_AUTH,
                blob_auth=BLOB_AUTH,
                data=b"x",
                pcr_info=None,
                random=chip.client_random,
            )
        )
        unsealed = tss12.unseal(
            parent, blob, parent_auth=None, blob_auth=BLOB_AUTH, random=chip.client_random
        )
        assert chip.run(unsealed) == b"x"
        child = chip.run(
            tss12.create_wrap_key(
                parent,
                SIGNING,
                parent_auth=KEY_AUTH,
                usage_auth=KEY_AUTH,
                random=chip.client_random,
            )
        )
        assert chip.run(tss12.load_key2(parent, child, parent_auth=None))

    def test_bound_data_is_unbound(self, chip: Chip) -> None:
        key, handle = make_key(chip, BINDING)
        bound = tss12.bind(key.public_key, b"for the key only")
        unbound = tss12.unbind(handle, bound, key_auth=KEY_AUTH, random=chip.client_random)
        assert chip.run(unbound) == b"for the key only"

    def test_a_migratable_key_has_both_secrets(self, chip: Chip) -> None:
        key = chip.run(
            tss12.create_wrap_key(
                SRK,
                replace(SIGNING, key_flags=KeyFlags.MIGRATABLE),
                parent_auth=SRK_AUTH,
                usage_auth=KEY_AUTH,
                migration_auth=BLOB_AUTH,
                random=chip.client_random,
            )
        )
        handle = chip.run(
            tss12.load_key2(SRK, key, parent_auth=SRK_AUTH, random=chip.client_random)
        )
        public = tss12.get_pub_key(handle, key_auth=KEY_AUTH, random=chip.client_random)
        assert chip.run(public) == key.public_key


class TestSigning:
    """Sign, quote, certify, identities."""

    def test_a_signature_verifies_and_only_over_its_digest(self, chip: Chip) -> None:
        key, handle = make_key(chip, SIGNING)
        digest = hashlib.sha1(b"message").digest()
        signature = chip.run(
            tss12.sign(handle, digest, key_auth=KEY_AUTH, random=chip.client_random)
        )
        tss12.verify_signature(key.public_key, digest, signature)
        with pytest.raises(ResponseError):
            tss12.verify_signature(key.public_key, bytes(20), signature)

    def test_an_info_signature_is_tied_to_the_nonce(self, chip: Chip) -> None:
        info = Key.template(
            KeyUsage.SIGNING, enc_scheme=EncScheme.NONE, sig_scheme=SigScheme.RSASSAPKCS1V15_INFO
        )
        key, handle = make_key(chip, info)
        signed = chip.run(
            tss12.sign_info(handle, b"area", key_auth=KEY_AUTH, random=chip.client_random)
        )
        tss12.verify_signature(key.public_key, signed.signed, signed.signature)

    def test_quotes_verify_over_values_and_nonce(self, chip: Chip) -> None:
        key, handle = make_key(chip, SIGNING)
        value = chip.run(tss12.extend(4, bytes(20)))
        selection = PcrSelection.of([0, 4])
        quote = chip.run(
            tss12.quote(
                handle,
                external_data=NONCE,
                selection=selection,
                key_auth=KEY_AUTH,
                random=chip.client_random,
            )
        )
        assert quote.composite.values == (bytes(20), value)
        tss12.verify_signature(key.public_key, quote.signed, quote.signature)
        for add_version in (False, True):
            quote2 = chip.run(
                tss12.quote2(
                    handle,
                    external_data=NONCE,
                    selection=selection,
                    key_auth=KEY_AUTH,
                    add_version=add_version,
                    random=chip.client_random,
                ),
                locality=1,
            )
            assert bool(quote2.version_info) is add_version
            assert quote2.info.locality_at_release == 0x02
            assert quote2.info.digest_at_release == quote.composite.digest()
            tss12.verify_signature(key.public_key, quote2.signed, quote2.signature)

    def test_certification_in_all_three_forms(self, chip: Chip) -> None:
        key, handle = make_key(chip, SIGNING)
        free_key, free = make_key(chip, replace(SIGNING, auth_data_usage=0))
        random = chip.client_random
        both = chip.run(
            tss12.certify_key(handle, handle, cert_auth=KEY_AUTH, key_auth=KEY_AUTH, random=random)
        )
        one = chip.run(
            tss12.certify_key(free, handle, cert_auth=None, key_auth=KEY_AUTH, random=random)
        )
        none = chip.run(tss12.certify_key(free, free, cert_auth=None, key_auth=None, random=random))
        for certified, signer in ((both, key), (one, free_key), (none, free_key)):
            assert isinstance(certified.info, CertifyInfo)
            tss12.verify_signature(signer.public_key, certified.signed, certified.signature)
        assert one.info.pubkey_digest == hashlib.sha1(key.pub_key).digest()
        with pytest.raises(ValueError, match="first"):
            chip.run(
                tss12.certify_key(handle, free, cert_auth=KEY_AUTH, key_auth=None, random=random)
            )

    def test_the_second_form_of_certification(self, chip: Chip) -> None:
        key, handle = make_key(chip, SIGNING)
        certified = chip.run(
            tss12.certify_key2(
                handle,
                handle,
                key_auth=KEY_AUTH,
                cert_auth=KEY_AUTH,
                random=chip.client_random,
            )
        )
        assert isinstance(certified.info, CertifyInfo2)
        tss12.verify_signature(key.public_key, certified.signed, certified.signature)

    def test_an_identity_is_made_and_activated(self, chip: Chip) -> None:
        random = chip.client_random
        identity = chip.run(
            tss12.make_identity(
                owner_auth=OWNER_AUTH,
                srk_auth=SRK_AUTH,
                identity_auth=KEY_AUTH,
                label_digest=NONCE,
                random=random,
            )
        )
        tss12.verify_signature(identity.key.public_key, identity.signed, identity.binding)
        handle = chip.run(tss12.load_key2(SRK, identity.key, parent_auth=SRK_AUTH, random=random))
        session_key = SymmetricKey(Algorithm.AES128, EncScheme.SYM_CTR, b"sixteen byte key")
        pubek = chip.run(tss12.owner_read_pubek(owner_auth=OWNER_AUTH, random=random))
        contents = AsymCaContents(session_key, identity.key.public_key.digest())
        activated = chip.run(
            tss12.activate_identity(
                handle,
                tss12.encrypt_oaep(pubek, contents.encode()),
                owner_auth=OWNER_AUTH,
                identity_auth=KEY_AUTH,
                random=random,
            )
        )
        assert activated == session_key

    def test_an_identity_below_an_srk_without_authorization(self) -> None:
        chip = make_chip()
        random = chip.client_random
        free = replace(tss12.srk_template(), auth_data_usage=0)
        chip.run(
            tss12.take_ownership(
                owner_auth=OWNER_AUTH, srk_auth=SRK_AUTH, random=random, srk_params=free
            )
        )
        identity = chip.run(
            tss12.make_identity(
                owner_auth=OWNER_AUTH,
                srk_auth=None,
                identity_auth=KEY_AUTH,
                label_digest=NONCE,
                random=random,
                params=replace(tss12.identity_template(is_key12=True), auth_data_usage=0),
            )
        )
        tss12.verify_signature(identity.key.public_key, identity.signed, identity.binding)
        handle = chip.run(tss12.load_key2(SRK, identity.key, parent_auth=None))
        blob = tss12.activate_identity(
            handle, bytes(256), owner_auth=OWNER_AUTH, identity_auth=None, random=random
        )
        assert chip.code(blob) == ReturnCode.DECRYPT_ERROR


class TestChangingSecrets:
    """ChangeAuth and ChangeAuthOwner."""

    def test_a_key_gets_another_secret(self, chip: Chip) -> None:
        key, _ = make_key(chip, SIGNING)
        enc_data = chip.run(
            tss12.change_auth(
                SRK,
                key.enc_data,
                entity_type=EntityType.KEY,
                parent_auth=SRK_AUTH,
                old_auth=KEY_AUTH,
                new_auth=BLOB_AUTH,
                random=chip.client_random,
            )
        )
        changed = replace(key, enc_data=enc_data)
        handle = chip.run(
            tss12.load_key2(SRK, changed, parent_auth=SRK_AUTH, random=chip.client_random)
        )

        def sign(auth: bytes) -> int:
            return chip.code(
                tss12.sign(handle, bytes(20), key_auth=auth, random=chip.client_random)
            )

        assert sign(KEY_AUTH) == ReturnCode.AUTHFAIL
        assert sign(BLOB_AUTH) == ReturnCode.SUCCESS

    @pytest.mark.parametrize("entity", [EntityType.OWNER, EntityType.SRK])
    def test_owner_and_srk_get_another_secret(self, chip: Chip, entity: EntityType) -> None:
        chip.run(
            tss12.change_auth_owner(
                entity_type=entity,
                owner_auth=OWNER_AUTH,
                new_auth=BLOB_AUTH,
                random=chip.client_random,
            )
        )
        owner_auth = BLOB_AUTH if entity is EntityType.OWNER else OWNER_AUTH
        srk_auth = BLOB_AUTH if entity is EntityType.SRK else SRK_AUTH
        chip.run(
            tss12.make_identity(
                owner_auth=owner_auth,
                srk_auth=srk_auth,
                identity_auth=KEY_AUTH,
                label_digest=NONCE,
                random=chip.client_random,
            )
        )


class TestOthers:
    """Randomness, hashing, NV, PCRs."""

    def test_randomness_and_stirring(self, chip: Chip) -> None:
        assert len(chip.run(tss12.get_random(32))) == 32
        assert chip.run(tss12.get_random(32)) != chip.run(tss12.get_random(32))
        chip.run(tss12.stir_random(b"entropy"))
        assert b"entropy" in chip.random.stirred

    def test_hashing(self, chip: Chip) -> None:
        assert chip.run(tss12.sha1_start()) % 64 == 0
        chip.run(tss12.sha1_update(b"a" * 64))
        digest = hashlib.sha1(b"a" * 64 + b"b").digest()
        assert chip.run(tss12.sha1_complete(b"b")) == digest
        chip.run(tss12.sha1_start())
        both = chip.run(tss12.sha1_complete_extend(8, b"b"))
        assert both.digest == hashlib.sha1(b"b").digest()
        assert both.pcr == chip.run(tss12.pcr_read(8))

    def test_pcrs_are_reset(self, chip: Chip) -> None:
        chip.run(tss12.extend(16, NONCE))
        chip.run(tss12.pcr_reset([16, 23]))
        assert chip.run(tss12.pcr_read(16)) == bytes(20)
        assert chip.code(tss12.pcr_reset([0])) == ReturnCode.NOTRESETABLE

    def test_an_area_lives_and_dies(self, chip: Chip) -> None:
        random = chip.client_random
        area = NvAttributes.OWNERWRITE | NvAttributes.OWNERREAD
        chip.run(tss12.nv_define_space(1, 4, area, owner_auth=OWNER_AUTH, random=random))
        chip.run(tss12.nv_write_value(1, b"data", owner_auth=OWNER_AUTH, random=random))
        read = tss12.nv_read_value(1, 2, offset=1, owner_auth=OWNER_AUTH, random=random)
        assert chip.run(read) == b"at"
        chip.run(tss12.nv_delete_space(1, owner_auth=OWNER_AUTH, random=random))
        assert chip.run(tss12.nv_list()) == []
        with pytest.raises(ValueError, match="random"):
            chip.run(tss12.nv_define_space(1, 4, area, owner_auth=OWNER_AUTH))

    def test_no_operation_leaves_a_session_behind(self, chip: Chip) -> None:
        random = chip.client_random
        _, handle = make_key(chip, SIGNING)
        chip.run(tss12.sign(handle, bytes(20), key_auth=KEY_AUTH, random=random))
        for wrong in (
            tss12.sign(handle, bytes(20), key_auth=bytes(20), random=random),
            tss12.unseal(
                SRK,
                StoredData(False, 0, None, bytes(256)),
                parent_auth=SRK_AUTH,
                blob_auth=BLOB_AUTH,
                random=random,
            ),
            tss12.quote(
                1, external_data=NONCE, selection=PcrSelection(), key_auth=KEY_AUTH, random=random
            ),
        ):
            with pytest.raises(TpmError):
                chip.run(wrong)
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []

    def test_a_gate_refusal_leaves_no_session_behind(self, chip: Chip) -> None:
        chip.assert_presence()
        chip.run(tss12.physical_disable())
        attempt = tss12.sign(1, bytes(20), key_auth=KEY_AUTH, random=chip.client_random)
        assert chip.code(attempt) == ReturnCode.DISABLED
        assert chip.run(tss12.handles(ResourceType.AUTH)) == []
