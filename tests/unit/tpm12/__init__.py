# SPDX-License-Identifier: Apache-2.0
"""Unit tests of the TPM 1.2 engine: no I/O, deterministic."""
