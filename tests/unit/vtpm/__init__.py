# SPDX-License-Identifier: Apache-2.0
"""The vTPM daemon without processes: image, commit plan, start, per-request rules."""
