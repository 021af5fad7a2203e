# SPDX-License-Identifier: Apache-2.0
"""Unit tests of what `vtpmctl` decides without starting anything."""
