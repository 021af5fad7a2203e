# SPDX-License-Identifier: Apache-2.0
"""swtpm's command line: what is read out of it, and what is refused as swtpm refuses it."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from daemons.tpmfront.compat.command_line import CommandLine
from daemons.tpmfront.compat.errors import BadLine, UnreadableLine
from daemons.tpmfront.compat.grammar import REFUSED, options_of
from daemons.tpmfront.compat.options import (
    Channel,
    CompatOptions,
    Descriptor,
    Interface,
    KeyFile,
    LogPlace,
    PidPlace,
    Startup,
    TcpPlace,
    UnixPlace,
)

STATE = ("--tpmstate", "dir=/s")


def read(*words: str, environ: dict[str, str] | None = None) -> CompatOptions:
    """Return what a line of `swtpm socket` asks for."""
    return CommandLine(Interface.SOCKET, words).options(environ or {})


def test_a_line_of_libvirt() -> None:
    found = read(
        *("--ctrl", "type=unixio,path=/run/libvirt/qemu/swtpm/1-g-swtpm.sock,mode=0600"),
        *("--tpmstate", "dir=/var/lib/libvirt/swtpm/6a1f2b3c/tpm1.2,mode=0600"),
        *("--log", "file=/var/log/swtpm/libvirt/qemu/g-swtpm.log"),
        *("--terminate", "--migration", "release-lock-outgoing"),
        *("--pid", "file=/run/libvirt/qemu/swtpm/1-g-swtpm.pid"),
    )
    assert found.state == Path("/var/lib/libvirt/swtpm/6a1f2b3c/tpm1.2")
    assert found.control == Channel(
        UnixPlace(Path("/run/libvirt/qemu/swtpm/1-g-swtpm.sock"), 0o600)
    )
    assert found.data is None
    assert found.terminates
    assert found.needs_init
    assert found.log == LogPlace(Path("/var/log/swtpm/libvirt/qemu/g-swtpm.log"), level=1)
    assert found.pid == PidPlace(Path("/run/libvirt/qemu/swtpm/1-g-swtpm.pid"), None)
    assert found.without_effect == ("--migration",)


def test_a_line_of_a_script() -> None:
    found = read(
        *("--tpmstate", "dir=D", "--server", "type=unixio,path=D/sock"),
        *("--flags", "not-need-init,startup-clear", "--daemon", "--pid", "file=D/pid"),
    )
    assert found.data == Channel(UnixPlace(Path("D/sock"), 0o770))
    assert not found.needs_init
    assert found.startup is Startup.CLEAR
    assert found.is_daemon
    assert not found.terminates


def test_long_options_may_be_shortened_and_the_last_one_counts() -> None:
    found = read("--tpms", "dir=/a", "--tpmst=dir=/b", "--daem", "--fla", "not-need-init")
    assert found.state == Path("/b")
    assert found.is_daemon
    assert (found.needs_init, found.startup) == (False, Startup.NONE)


def test_of_a_name_that_is_given_twice_the_first_counts() -> None:
    assert read("--tpmstate", "dir=/a,dir=/b").state == Path("/a")


@pytest.mark.parametrize(
    ("words", "environ", "data"),
    [
        (("-p", "2321"), {}, Channel(TcpPlace(2321), disconnects=True)),
        (("--port", "0x911"), {}, Channel(TcpPlace(2321), disconnects=True)),
        (("--server", "port=2321"), {}, Channel(TcpPlace(2321))),
        (("--server", "type=tcp"), {"TPM_PORT": "2321"}, Channel(TcpPlace(2321))),
        (
            ("--server", "type=tcp,port=1,bindaddr=::1,ifname=lo,disconnect"),
            {},
            Channel(TcpPlace(1, "::1", "lo"), disconnects=True),
        ),
        (("-p", "1", "--server", "port=2"), {}, Channel(TcpPlace(2))),
        (("--server", "port=2", "-p", "1"), {}, Channel(TcpPlace(1), disconnects=True)),
        (
            ("--server", "type=unixio,path=/p,mode=0600,uid=7,gid=8"),
            {},
            Channel(UnixPlace(Path("/p"), 0o600, 7, 8)),
        ),
        (
            ("--server", "type=unixio,path=/p,uid=root,gid=root"),
            {},
            Channel(UnixPlace(Path("/p"), 0o770, 0, 0)),
        ),
    ],
)
def test_where_data_come_in(words: tuple[str, ...], environ: dict[str, str], data: Channel) -> None:
    assert read(*STATE, *words, environ=environ).data == data


def test_the_state_may_be_named_otherwise() -> None:
    assert read("--tpmstate", "backend-uri=dir:///a/b,lock").state == Path("/a/b")
    assert read(environ={"TPM_PATH": "/c"}).state == Path("/c")


def test_inherited_descriptors() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        fd = theirs.fileno()
        assert read(*STATE, "-f", str(fd)).data == Channel(Descriptor(fd), terminates=True)
        found = read(*STATE, "--server", f"type=tcp,fd={fd}")
        assert found.data == Channel(Descriptor(fd), terminates=True)
        assert found.terminates
        assert not read(*STATE, "--server", f"type=unixio,fd={fd}").terminates
        control = read(*STATE, "--ctrl", f"type=unixio,clientfd={fd},terminate").control
        assert control == Channel(Descriptor(fd), terminates=True)


@pytest.mark.parametrize(
    ("flags", "needs_init", "startup"),
    [
        ("startup-state", False, Startup.STATE),
        ("startup-deactivated", False, Startup.DEACTIVATED),
        ("startup-none", True, Startup.NONE),
        ("not-need-init,startup-none", False, Startup.NONE),
        ("disable-auto-shutdown", True, Startup.NONE),
        ("not-need-init=false", True, Startup.NONE),
        ("startup-state,startup-clear", False, Startup.CLEAR),
    ],
)
def test_what_flags_ask_for(flags: str, needs_init: bool, startup: Startup) -> None:
    found = read(*STATE, "--flags", flags)
    assert (found.needs_init, found.startup) == (needs_init, startup)


def test_locality_log_and_keys() -> None:
    found = read(
        *(*STATE, "--locality", "reject-locality-4,allow-set-locality"),
        *("--log", "file=-,level=5,prefix=x: ,truncate"),
        *("--key", "pwdfile=/k,mode=aes-256-cbc,kdf=sha512,remove=true"),
        *("--migration-key", "fd=9,format=binary"),
    )
    assert found.rejects_locality_4
    assert found.allows_set_locality
    assert found.log == LogPlace(is_off=True, level=5, prefix="x: ", truncates=True)
    assert found.keys == (
        ("key", KeyFile(Path("/k"), None, True, False, 32, True)),
        ("migration-key", KeyFile(None, 9, False, True, 16, False)),
    )


def test_a_character_device() -> None:
    found = CommandLine(Interface.CHARDEV, [*STATE, "-c", "/dev/tpms0"]).options({})
    assert (found.device, found.data) == (Path("/dev/tpms0"), None)
    with pytest.raises(BadLine, match="Missing character device or file descriptor"):
        CommandLine(Interface.CHARDEV, STATE).options({})


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("extra",), "Unknown parameter 'extra'"),
        (("--tpmstate", "foo"), "Error parsing tpmstate options: Unknown option 'foo'"),
        (("--tpmstate", "dir="), "Error parsing tpmstate options: Unknown option 'dir='"),
        (("--tpmstate", "mode=0600"), "dir or backend-uri parameters is required"),
        (("--tpmstate", "dir=/s,mode=0888"), "tpmstate options: mode: invalid mode type '0888'"),
        (("--tpmstate", "dir=/s,mode=01777"), "tpmstate options: mode: mode 01777 is invalid"),
        (("--tpmstate", "dir=/s,lock=maybe"), "tpmstate options: lock: invalid boolean 'maybe'"),
        (("--tpmstate", "backend-uri=file:s"), "only dir://DIR is supported"),
        (("--ctrl", "path=/p"), "Missing type parameter for control channel"),
        (("--ctrl", "type=unixio"), "Missing path and fd options for UnixIO control channel"),
        (("--ctrl", "type=tcp"), "Missing port and fd options for TCP control channel"),
        (("--ctrl", "type=tcp,port=65536"), "TCP control channel port outside valid range"),
        (("--ctrl", "type=pipe"), "Unsupported control channel type: pipe"),
        (("--ctrl", "type=unixio,fd=999"), "Bad filedescriptor 999 for control channel"),
        (("--ctrl", "type=unixio,path=/p,uid=nobody-here"), "User 'nobody-here' does not exist"),
        (("--ctrl", "type=unixio,path=/p,gid=nobody-here"), "Group 'nobody-here' does not exist"),
        (("--ctrl", "type=unixio,path=/p,uid=4294967295"), "uid 4294967295 outside valid range"),
        (("--server", "type=foo"), "Unsupported socket type: foo"),
        (("--server", "type=unixio"), "Missing path and fd options for UnixIO socket"),
        (("--server", "type=tcp"), "TPM_PORT is not set or contains an invalid integer value"),
        (("--server", "port=99999"), "TCP socket port outside valid range"),
        (("--server", "port=x"), "Error parsing server options: port: invalid number 'x'"),
        (("--server", "port=99999999999"), "number 99999999999 outside valid range"),
        (("-p", "99999"), "Port is outside valid range"),
        (("-p", "abc"), "Cannot parse socket port number 'abc'"),
        (("-f", "x"), "Cannot parse socket file descriptor"),
        (("-f", "999"), "Cannot stat file descriptor"),
        (("--flags", "bogus"), "Error parsing flags options: Unknown option 'bogus'"),
        (("--locality", "bogus"), "Error parsing locality options: Unknown option 'bogus'"),
        (("--migration", "bogus"), "Error parsing migration options: Unknown option 'bogus'"),
        (("--seccomp", "action=foo"), "Unsupported seccomp log action foo"),
        (("--pid", "fd=999"), "Bad filedescriptor 999 for pid file"),
        (("--log", "level=-1"), "invalid number '-1'"),
        (("--key", "mode=aes-cbc"), "Either file=, fd=, pwdfile=, or pwdfd= is required"),
        (("--key", "file=/k,mode=des"), "Unknown encryption mode 'des'"),
        (("--key", "file=/k,format=oct"), "Unknown key format 'oct'"),
        (("--key", "pwdfile=/k,kdf=md5"), "Unknown kdf 'md5'"),
        (("--tpm2",), "TPM 2.0 is not supported"),
        (("-R", "/"), "--chroot is not supported"),
        (("--pcap", "file=x"), "vtpmctl trace"),
        (("--print-info", "1"), "swtpm_ioctl --info"),
    ],
)
def test_what_makes_no_sense_is_refused(words: tuple[str, ...], reason: str) -> None:
    with pytest.raises(BadLine) as refusal:
        read(*STATE, *words)
    assert reason in str(refusal.value)


@pytest.mark.parametrize("words", [("--bogus",), ("-x",), ("--tpmstate",), ("--print",)])
def test_what_cannot_be_read_is_a_mistake_of_usage(words: tuple[str, ...]) -> None:
    with pytest.raises(UnreadableLine):
        read(*words)


def test_without_a_state_there_is_no_tpm() -> None:
    with pytest.raises(BadLine, match="--tpmstate is required"):
        read("-p", "1")


def test_a_descriptor_that_carries_no_commands_is_refused(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_CREAT | os.O_RDWR)
    try:
        with pytest.raises(BadLine, match="file descriptor type is not supported"):
            read(*STATE, "-f", str(fd))
        assert read(*STATE, "--pid", f"fd={fd}").pid == PidPlace(None, fd)
    finally:
        os.close(fd)


def test_every_refused_option_is_one_that_is_read() -> None:
    names = {one.name for interface in Interface for one in options_of(interface)}
    assert names >= set(REFUSED)
