# SPDX-License-Identifier: Apache-2.0
"""The TPM 1.2 engine.

Start reading at `engine` (steps and effects), then `dispatch` (what all commands share) and
`command` (a row); each command family is a module named after its chapter of Part 3.
"""

from tpmcore.tpm12.engine import Tpm12Engine
from tpmcore.tpm12.world import Profile, World

__all__ = ["Profile", "Tpm12Engine", "World"]
