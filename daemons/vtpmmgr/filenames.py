# SPDX-License-Identifier: Apache-2.0
"""What is in the manager's folder, for whoever looks there without being the manager."""

from __future__ import annotations

from typing import Final

DATABASE_NAME: Final = "manager.db"
