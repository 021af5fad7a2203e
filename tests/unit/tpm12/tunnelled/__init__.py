# SPDX-License-Identifier: Apache-2.0
"""What other tests ask of a TPM, once more with every command inside a transport session.

Each module here takes over the tests of one beside this folder; MODE is how the parameters are
encrypted.
"""
