# SPDX-License-Identifier: Apache-2.0
"""A command that a vTPM traced, and the clients whose it may have been."""

from __future__ import annotations

from daemons.runtime.tracing import ClientIdentity, FrontIdentity, TracedCommand
from tpmcore.engine import Description, Field, SessionUse

FRONT = FrontIdentity(pid=50, uid=1000, label="uid:1000", device=1)
ANN = ClientIdentity(connection=1, pid=101, uid=0, address=None)
BOB = ClientIdentity(connection=2, pid=102, uid=1000, address=None)
COMMAND = bytes.fromhex("00c1 0000000e 00000015 0000000a")
RESPONSE = bytes.fromhex("00c4 0000001e 00000000") + b"\xc3" * 20

READ = TracedCommand(
    Description(
        command="PCR_READ",
        code="SUCCESS",
        parameters=(Field("pcrIndex", "10"),),
        results=(Field("outDigest", "c3" * 20),),
        sessions=(SessionUse("0x01020304", True), SessionUse("0x05060708", False)),
        shown_command=COMMAND,
        shown_response=RESPONSE,
    ),
    locality=2,
    front=FRONT,
    unix_time=1_764_000_000.5,
    ended_ns=1000,
    duration_us=12.5,
)
