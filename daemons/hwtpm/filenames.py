# SPDX-License-Identifier: Apache-2.0
"""What is in the chip's folder, for whoever looks there without being the chip."""

from __future__ import annotations

from typing import Final

STATE_NAME: Final = "chip.state"
