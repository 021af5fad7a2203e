# SPDX-License-Identifier: Apache-2.0
"""Evidence, its verification, and the Privacy CA's answers."""
