# SPDX-License-Identifier: Apache-2.0
"""What an engine is given from outside: sources of randomness, time and keys, and its profile."""

from __future__ import annotations

from protocol.tpm12.records import record
from tpmcore.engine import KeySource, RandomSource, TickSource


@record
class World:
    """The injected world; with seeded sources an engine is deterministic."""

    random: RandomSource
    ticks: TickSource
    keys: KeySource


@record
class Profile:
    """What differs between one TPM product and another.

    Attributes:
        input_buffer_bytes: largest command and response; PROP_INPUT_BUFFER.
        make_ek: whether manufacture creates the endorsement key.
        enabled: whether a new chip comes enabled. The specification has it disabled and deactivated
            (Part 1, 7.4), which a person at the machine changes; a virtual machine has none.
        activated: whether a new chip comes activated.
        maintenance_commands: whether the five optional maintenance ordinals answer.
        has_parent: whether there is a TPM below this one that can quote: the two ordinals of Xen's
            vTPM answer.
        manufacturer: PROP_MANUFACTURER, 4 bytes.
        firmware: revMajor and revMinor of TPM_VERSION.
        timeouts_us: A, B, C, D of PROP_TIS_TIMEOUT. The values are those of Xen's vTPM: smaller
            durations made real guests give up while a command waited for the disk.
        durations_us: short, medium, long of PROP_DURATION. SeaBIOS counts them in ticks of a
            3.58 MHz timer and compares signed 32-bit numbers: from 599.9 s on it waits not at all,
            takes the TPM for broken and deactivates it.
        max_keys: key slots without SRK and EK.
        max_sessions: authorization session slots.
        max_transports: transport session slots.
        max_daa_sessions: slots for a DAA_Join or DAA_Sign under way.
        max_counters: monotonic counter slots.
        family_rows: rows of the family table.
        delegate_rows: rows of the delegate table.
        max_saved_contexts: saved session contexts.
        nv_space_bytes: room for NV areas, see NvArea.cost_bytes.
    """

    input_buffer_bytes: int = 4096
    make_ek: bool = True
    enabled: bool = True
    activated: bool = True
    maintenance_commands: bool = False
    has_parent: bool = False
    manufacturer: bytes = b"VTPM"
    firmware: tuple[int, int] = (1, 0)
    timeouts_us: tuple[int, int, int, int] = (750_000, 2_000_000, 750_000, 750_000)
    durations_us: tuple[int, int, int] = (3_000_000, 3_000_000, 300_000_000)
    max_keys: int = 20
    max_sessions: int = 16
    max_transports: int = 16
    max_daa_sessions: int = 2
    max_counters: int = 8
    family_rows: int = 16
    delegate_rows: int = 4
    max_saved_contexts: int = 128
    nv_space_bytes: int = 28672
