# SPDX-License-Identifier: Apache-2.0
"""Files in every format version that was ever released, which later versions must keep reading.

One folder per version: `permanent`, `volatile`, `slot` and `chip.state` as `docs/formats.md` has
them, and `facts.json`, which says what is in them. They are made once by `make.py` of that version
and never again: a change of a format gets a new folder, and the old ones stay as they are.
`blob-1.0` and `blob-1.1` have a pair of state blobs each, with PCR 4 extended once; their keys are
SHA-256 of their descriptors.
"""
