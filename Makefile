# SPDX-License-Identifier: Apache-2.0
# make up | test | soak | bench | lint | setup | install | uninstall | man | completions | conformance-doc | lock

SHELL := /bin/bash
BIN := .venv/bin
CODE := protocol tpmcore daemons tests bench systemd/install.py

# Where `make install` puts things; DESTDIR goes before all of it.
PREFIX ?= /opt/vtpm-suite
LOCAL ?= /usr/local
INSTALL = systemd/install.py --destdir "$(DESTDIR)" --prefix "$(PREFIX)" --local "$(LOCAL)"

# The tests start a thousand daemons; none of them is to compile the suite anew.
unexport PYTHONDONTWRITEBYTECODE

# What the tests and the benchmarks start, as Debian package = command, or = pattern of a file.
GUEST_PACKAGES := qemu-system-x86=qemu-system-x86_64 qemu-utils=qemu-img busybox-static=busybox \
    cpio=cpio linux-image-cloud-amd64=/boot/vmlinuz-*-cloud-amd64 \
    trousers=tcsd tpm-tools=tpm_version swtpm=swtpm
TEST_PACKAGES := $(GUEST_PACKAGES) tpm-quote-tools=tpm_mkuuid \
    systemd=systemd-analyze util-linux=unshare swtpm-tools=swtpm_ioctl zsh=zsh fish=fish \
    tshark=tshark
BENCH_PACKAGES := $(GUEST_PACKAGES) util-linux=taskset

.PHONY: setup up test lint unit integration soak bench fuzz corpus install uninstall man completions conformance-doc lock packages

setup: .venv/.installed
	@:

# Stamps, so that a finished setup costs nothing. The lock file names every version and its hashes; the
# project itself goes in editable, built by the setuptools of that file.
.venv/.locked: requirements.lock .ci/venv
	.ci/venv
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	touch $@

.venv/.installed: .venv/.locked pyproject.toml
	PYTHONWARNINGS=ignore $(BIN)/python -m pip install -q --disable-pip-version-check \
	    --no-deps --no-build-isolation -e .
	touch $@

up: setup
	$(BIN)/vtpmctl up $(ARGS)

test: setup packages lint unit integration

packages:
	@.ci/packages $(TEST_PACKAGES)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict $(CODE)
	$(BIN)/lint-imports --no-logo

unit: setup packages
	$(BIN)/pytest -q -n 2 tests/unit $(wildcard tests/conformance)

# Two workers, of which each takes whole files in the order that tests/integration/conftest.py gives them,
# and says why no more need be kept apart. What the daemons log in both is searched when both have ended.
integration: setup packages
	$(BIN)/pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests/integration

# Fifty kills of the manager in the middle of an operator's commands, fifty in changes of keys, and fifty
# moves of a guest to another manager and back.
soak: setup packages
	SOAK_ROUNDS=$(or $(ROUNDS),50) $(BIN)/pytest -q -rA tests/integration/test_manager_kills.py \
	    tests/integration/test_move.py

bench: setup
	@.ci/packages $(BENCH_PACKAGES)
	$(BIN)/python -m bench $(ARGS)

# Five million commands at the engine, then the front socket; ARGS="--commands 100000" for fewer.
fuzz: setup
	$(BIN)/python -m tests.fuzz $(ARGS)

# Seeds of the fuzzer, from what the unit tests send.
corpus: setup
	$(BIN)/python -m tests.fuzz.record

# The suite with its units, in an environment of its own that does not need this folder.
install: setup
	$(BIN)/python $(INSTALL) install

# What it installed is taken away; /etc/vtpm, /var/lib/vtpm and the users stay.
uninstall:
	python3 $(INSTALL) uninstall

# The manual pages, from the commands' own help.
man: setup
	$(BIN)/python -m docs.manpages

# What the TAB key does in bash, zsh and fish, from the commands' own options.
completions: setup
	$(BIN)/python -m docs.completions

# What of TPM 1.2 there is, compared and different: docs/conformance.md.
conformance-doc: setup
	$(BIN)/python -m tests.conformance.document

# Newer versions of everything: look at the difference, run the tests, commit.
lock: setup
	$(BIN)/pip-compile -q --upgrade --extra dev --allow-unsafe --strip-extras --generate-hashes \
	    --no-header --no-emit-index-url --no-emit-find-links --no-emit-trusted-host \
	    --no-emit-options --output-file requirements.lock pyproject.toml
	sed -i '1i # SPDX-License-Identifier: Apache-2.0\n# Written by `make lock` from pyproject.toml.' requirements.lock
