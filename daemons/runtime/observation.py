# SPDX-License-Identifier: Apache-2.0
"""What the control sockets of the daemons with a TPM tell of it: taken from the engine without a
command, so that looking changes nothing."""

from __future__ import annotations

import hashlib
from typing import Final

from daemons.runtime.control import Json
from daemons.runtime.host import EngineHost
from daemons.runtime.keypool import KeyPool
from tpmcore.engine import PcrBank

BOOT_PCRS: Final = range(8)
"""The PCRs that tell how a machine was booted."""


def observe(host: EngineHost, keys: KeyPool) -> dict[str, Json]:
    """Return the fields "tpm", "commands", "command_latency" and "key_pool" of a status."""
    snapshot = host.snapshot()
    latencies = host.latencies
    return {
        "tpm": {
            "owned": snapshot.owned,
            "flags": list[Json](snapshot.flags),
            "banks": [_bank_fields(bank) for bank in snapshot.banks],
        },
        "commands": latencies.count,
        "command_latency": latencies.statistics().fields(),
        "key_pool": {"stock": keys.stock, "size": keys.size},
    }


def _bank_fields(bank: PcrBank) -> dict[str, Json]:
    return {
        "algorithm": bank.algorithm,
        "values": [value.hex() for value in bank.values],
        "changed": list[Json](bank.changed),
        "boot_digest": boot_digest(bank),
    }


def boot_digest(bank: PcrBank) -> str:
    """Return SHA-256 over the values of PCRs 0 to 7, in hexadecimal: equal for equal boots."""
    return hashlib.sha256(b"".join([bank.values[index] for index in BOOT_PCRS])).hexdigest()
