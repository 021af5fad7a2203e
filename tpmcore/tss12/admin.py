# SPDX-License-Identifier: Apache-2.0
"""Startup, self tests, opt-in and presence (Part 3, 3 to 5 and 9)."""

from __future__ import annotations

from protocol.tpm12.constants import Ordinal, StartupType
from protocol.tpm12.wire import BOOL, U16, Reader
from tpmcore.engine import RandomSource
from tpmcore.tss12.conversation import Conversation, execute, nothing
from tpmcore.tss12.sessions import with_optional_secret, with_secret


def startup(startup_type: StartupType = StartupType.CLEAR) -> Conversation[None]:
    """Start the TPM up (3.2); TpmError INVALID_POSTINIT if it was."""
    return execute(Ordinal.STARTUP, nothing, parameters=U16.write(startup_type))


def save_state() -> Conversation[None]:
    """Keep the volatile state for Startup(STATE) (3.3)."""
    return execute(Ordinal.SAVE_STATE, nothing)


def self_test_full() -> Conversation[None]:
    """Run every self test (4.1)."""
    return execute(Ordinal.SELF_TEST_FULL, nothing)


def continue_self_test() -> Conversation[None]:
    """Run the self tests that are still to be run (4.2)."""
    return execute(Ordinal.CONTINUE_SELF_TEST, nothing)


def get_test_result() -> Conversation[bytes]:
    """Return the vendor's text about the self tests (4.3)."""
    return execute(Ordinal.GET_TEST_RESULT, Reader.sized)


def set_owner_install(state: bool) -> Conversation[None]:
    """Allow or forbid TakeOwnership (5.1); needs physical presence."""
    return execute(Ordinal.SET_OWNER_INSTALL, nothing, parameters=BOOL.write(state))


def owner_set_disable(
    disable: bool, *, owner_auth: bytes, random: RandomSource
) -> Conversation[None]:
    """Disable or enable the TPM as its owner (5.2)."""
    return with_secret(
        Ordinal.OWNER_SET_DISABLE,
        nothing,
        owner_auth,
        random=random,
        parameters=BOOL.write(disable),
    )


def physical_enable() -> Conversation[None]:
    """Enable the TPM (5.3); needs physical presence."""
    return execute(Ordinal.PHYSICAL_ENABLE, nothing)


def physical_disable() -> Conversation[None]:
    """Disable the TPM (5.4); needs physical presence."""
    return execute(Ordinal.PHYSICAL_DISABLE, nothing)


def physical_set_deactivated(state: bool) -> Conversation[None]:
    """Deactivate or activate the TPM from the next Startup on (5.5); needs physical presence."""
    return execute(Ordinal.PHYSICAL_SET_DEACTIVATED, nothing, parameters=BOOL.write(state))


def set_temp_deactivated(
    *, operator_auth: bytes | None = None, random: RandomSource | None = None
) -> Conversation[None]:
    """Deactivate the TPM until the next Startup (5.6), as operator or with physical presence."""
    return with_optional_secret(Ordinal.SET_TEMP_DEACTIVATED, nothing, operator_auth, random=random)


def set_operator_auth(operator_auth: bytes) -> Conversation[None]:
    """Set the operator's secret, which travels in the clear (5.7); needs physical presence."""
    return execute(Ordinal.SET_OPERATOR_AUTH, nothing, parameters=operator_auth)


def tsc_physical_presence(flags: int) -> Conversation[None]:
    """Assert or configure physical presence (TIS); bits of PhysicalPresenceFlags."""
    return execute(Ordinal.TSC_PHYSICAL_PRESENCE, nothing, parameters=U16.write(flags))


def tsc_reset_establishment_bit() -> Conversation[None]:
    """Clear tpmEstablished (TIS); only from localities 3 and 4."""
    return execute(Ordinal.TSC_RESET_ESTABLISHMENT_BIT, nothing)


def reset_lock_value(*, owner_auth: bytes, random: RandomSource) -> Conversation[None]:
    """Forget failed authorizations (9.3); works during a lockout."""
    return with_secret(Ordinal.RESET_LOCK_VALUE, nothing, owner_auth, random=random)
