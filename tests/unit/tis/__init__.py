# SPDX-License-Identifier: Apache-2.0
"""The register interface without I/O."""
