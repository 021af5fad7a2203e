# SPDX-License-Identifier: Apache-2.0
"""What is in a vTPM's folder, for whoever looks there without being the vTPM."""

from __future__ import annotations

from typing import Final

SLOT_NAMES: Final = ("slot0", "slot1")
