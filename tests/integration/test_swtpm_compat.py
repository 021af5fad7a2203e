# SPDX-License-Identifier: Apache-2.0
"""Programs that know swtpm on this suite: its command line by a link of its name, and the tools
that come with it."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509

from protocol.tpm12.constants import NvAttributes, ReservedHandle, ReturnCode
from protocol.tpm12.storedcert import (
    EK_CERT_INDEX,
    PLATFORM_CERT_INDEX,
    decode_stored_cert,
)
from tests.integration.ports import free_port
from tests.integration.stack import Stack, running_stack, transact
from tests.integration.swtpm_link import (
    GET_TICKS,
    STARTED,
    STARTUP_CLEAR,
    Link,
    code_of,
    configure_localca,
    connect,
    end,
    ioctl,
    make_ek,
    make_link,
    read_ek,
    talk,
    wait_for,
    wait_gone,
)
from tests.integration.tcsd import running_tcsd
from tests.integration.waiting import wait_until
from tests.unit.tpm12.world import SeededRandom
from tpmcore import tss12
from tpmcore.errors import TpmError

SWTPM = "/usr/bin/swtpm"


@pytest.fixture(scope="module")
def stack(module_dir: Path) -> Iterator[Stack]:
    """A stack whose manager admits this user's TPMs."""
    module_dir.chmod(0o755)
    with running_stack(module_dir) as found:
        yield found


@pytest.fixture(scope="module")
def link(module_dir: Path, stack: Stack) -> Link:
    """The link."""
    return make_link(module_dir / "bin", stack.root / "run" / "vtpmmgr.sock")


@pytest.fixture
def state(module_dir: Path, request: pytest.FixtureRequest) -> Path:
    """A new folder for a TPM, which user tss can pass; with a short name."""
    number = len(list(module_dir.glob("D*")))
    folder = module_dir / f"D{number}"
    folder.mkdir(mode=0o755)
    return folder


def child_of(pid: int) -> int:
    """Return the one child of a process, whichever of its threads started it."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    (child,) = [word for one in lists for word in one.read_text().split()]
    return int(child)


def read_pcr(path: Path, index: int) -> bytes | None:
    """Return the value of a PCR; None if the command was lost with the vtpm."""
    with connect(path) as client:
        answer = transact(
            client, bytes.fromhex("00c1 0000000e 00000015") + index.to_bytes(4, "big")
        )
    code = code_of(answer)
    assert code in {0, ReturnCode.IOERROR}
    return None if code else answer[10:]


def test_a_scripts_line_gives_a_tpm_that_keeps_its_state(link: Link, state: Path) -> None:
    line = (
        *("socket", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={state}/sock"),
        *STARTED,
    )
    tpm = state / "sock"
    with link.daemon(*line, pid=state / "pid"):
        assert (state / "sock").stat().st_mode & 0o777 == 0o770
        with pytest.raises(TpmError) as refusal:
            read_ek(tpm)
        assert refusal.value.code == ReturnCode.NO_ENDORSEMENT
        ek = make_ek(tpm)
        refused = link.run("socket", "--tpmstate", f"dir={state}", *STARTED, fails=True)
        assert f"{state} is in use by another process" in refused.stderr
    assert not (state / "sock").exists()
    assert not (state / "pid").exists()
    with link.daemon(*line, pid=state / "pid"):
        assert read_ek(tpm) == ek
    told = link.run("socket", "--tpmstate", f"dir={state}", "--print-states").stdout
    assert '"name": "permall"' in told


def test_tpm_tools_at_its_socket_over_a_restart(link: Link, state: Path) -> None:
    line = (
        *("socket", "--tpmstate", f"dir={state}"),
        *("--server", f"type=unixio,path={state}/sock,mode=0666", *STARTED),
    )
    (state / "secret").write_text("sealed")
    with (
        link.daemon(*line, pid=state / "pid"),
        running_tcsd(state / "sock", state / "t") as tcsd,
    ):
        tcsd.run("tpm_createek")
        tcsd.run("tpm_takeownership", "-y", "-z")
        tcsd.run("tpm_sealdata", "-z", "-i", f"{state}/secret", "-o", "blob", "-p", "7")
    with (
        link.daemon(*line, pid=state / "pid"),
        running_tcsd(state / "sock", state / "t") as tcsd,
    ):
        assert "sealed" in tcsd.run("tpm_unsealdata", "-z", "-i", "blob")


def test_two_folders_are_two_tpms_and_a_killed_process_leaves_nothing_behind(
    link: Link, state: Path
) -> None:
    folders = [state / "a", state / "b"]
    keys = []
    for folder in folders:
        folder.mkdir()
        line = (
            *("socket", "--tpmstate", f"dir={folder}"),
            *("--server", f"type=unixio,path={folder}/sock", *STARTED),
        )
        with link.daemon(*line, pid=folder / "pid") as pid:
            keys.append(make_ek(folder / "sock"))
            sockets = Path((folder / ".vtpm.lock").read_text())
            assert sockets.stat().st_mode & 0o777 == 0o700
            end(pid, signal.SIGKILL)
        # At once: the vtpm of the killed one may still be about to stop.
        with link.daemon(*line, pid=folder / "pid"):
            assert read_ek(folder / "sock") == keys[-1]
            assert not sockets.exists()
    uuids = {(folder / "vtpm.uuid").read_text() for folder in folders}
    assert len(uuids) == 2
    assert keys[0] != keys[1]


def test_a_vtpm_that_is_killed_comes_back_as_it_was(link: Link, state: Path) -> None:
    line = (
        *("socket", "--tpmstate", f"dir={state}", "--server", f"type=unixio,path={state}/sock"),
        *STARTED,
    )
    with link.daemon(*line, pid=state / "pid") as pid:
        value = talk(state / "sock", tss12.extend(7, b"m" * 20))
        os.kill(child_of(pid), signal.SIGKILL)
        # What was on its way to the dying one is lost, and answered so.
        wait_until(lambda: read_pcr(state / "sock", 7) is not None, "an answer of the next vtpm")
        assert read_pcr(state / "sock", 7) == value


def test_swtpm_ioctl_at_its_control_channel(link: Link, state: Path) -> None:
    control = state / "ctrl"
    line = (
        *("socket", "--tpmstate", f"dir={state}", "--ctrl", f"type=unixio,path={control}"),
        *("--server", f"type=unixio,path={state}/sock", *STARTED),
        *("--locality", "reject-locality-4,allow-set-locality"),
    )
    set_locality = bytes.fromhex("00c1 0000000b 20001000")
    with link.daemon(*line, pid=state / "pid") as pid:
        assert "0x17fff" in ioctl(control, "-c")
        assert "tpmEstablished is 0" in ioctl(control, "-e")
        assert '"family":"1.2"' in ioctl(control, "--info", "1")
        ioctl(control, "-l", "4", fails=True)
        # PCR 21 is reset from locality 2 only; the locality holds for those who are connected.
        with connect(state / "sock") as client:
            run = partial(tss12.run_sync, partial(transact, client))
            with pytest.raises(TpmError):
                run(tss12.pcr_reset([21]))
            ioctl(control, "-l", "2")
            run(tss12.pcr_reset([21]))
            assert code_of(transact(client, set_locality + b"\x00")) == 0
            with pytest.raises(TpmError):
                run(tss12.pcr_reset([21]))
            assert code_of(transact(client, set_locality + b"\x04")) == ReturnCode.BAD_LOCALITY
        pidfd = os.pidfd_open(pid)
        ioctl(control, "-s")
        wait_gone(pidfd)
        os.close(pidfd)
    assert not control.exists()


def test_tcp_one_command_for_each_connection_or_many(link: Link, state: Path) -> None:
    for words, is_kept in ((("-p", "{}"), False), (("--server", "type=tcp,port={}"), True)):
        port = free_port()
        option, value = words
        line = ("socket", "--tpmstate", f"dir={state}", option, value.format(port), *STARTED)
        with link.daemon(*line, pid=state / "pid"):
            for _ in range(2):
                with socket.create_connection(("127.0.0.1", port), 60) as client:
                    assert code_of(transact(client, GET_TICKS)) == 0
                    if is_kept:
                        assert code_of(transact(client, GET_TICKS)) == 0
                    else:
                        assert client.recv(1) == b""


def test_inherited_connections_and_their_end(link: Link, state: Path) -> None:
    data, data_there = socket.socketpair()
    control, control_there = socket.socketpair()
    with data, control:
        with data_there, control_there:
            fds = (data_there.fileno(), control_there.fileno())
            process = link.start(
                *("socket", "--tpmstate", f"backend-uri=dir://{state},lock"),
                *("--server", f"type=tcp,fd={fds[0]}", "--ctrl", f"type=unixio,clientfd={fds[1]}"),
                *("--flags", "not-need-init", "--pid", f"file={state}/pid"),
                pass_fds=fds,
            )
        wait_for(state / "pid")
        data.settimeout(60)
        control.settimeout(60)
        assert code_of(transact(data, STARTUP_CLEAR)) == 0
        control.sendall(bytes.fromhex("00000001"))
        assert control.recv(8) == bytes.fromhex("00000000 00017fff")
        data.close()
        assert process.wait(60) == 0


def test_a_character_device(link: Link, state: Path) -> None:
    # The server's end of a device of vtpm_proxy is such a stream of whole messages.
    device, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with device:
        with there:
            process = link.start(
                *("chardev", "--tpmstate", f"dir={state}", *STARTED),
                *("--fd", str(there.fileno()), "--pid", f"file={state}/pid"),
                pass_fds=(there.fileno(),),
            )
        wait_for(state / "pid")
        device.settimeout(60)
        device.send(GET_TICKS)
        assert code_of(device.recv(4096)) == 0
        device.send(GET_TICKS[:7])
        assert code_of(device.recv(4096)) == ReturnCode.BAD_PARAM_SIZE
        device.send(bytes.fromhex("02c1 0000000a 00000002"))
        assert code_of(device.recv(4096)) == ReturnCode.BADTAG
    assert process.wait(60) == 0


REFUSED_BY_BOTH = (
    "",
    "bogus",
    "socket --bogus",
    "socket extra",
    "socket -v",
    "socket --tpmstate",
    "socket --tpmstate foo",
    "socket --tpmstate dir=/tmp,mode=0999",
    "socket --tpmstate dir=/tmp --ctrl type=unixio",
    "socket --tpmstate dir=/tmp --ctrl type=tcp",
    "socket --tpmstate dir=/tmp --ctrl type=pipe",
    "socket --tpmstate dir=/tmp --server type=foo",
    "socket --tpmstate dir=/tmp --server type=tcp,port=99999",
    "socket --tpmstate dir=/tmp --server type=tcp",
    "socket --tpmstate dir=/tmp --flags bogus -p 0",
    "socket --tpmstate dir=/tmp --locality bogus -p 0",
    "socket --tpmstate dir=/tmp --seccomp action=foo",
    "socket --tpmstate dir=/tmp --key file=/nonexistent",
    "socket --tpmstate dir=/tmp --key mode=aes-cbc",
    "socket --tpmstate dir=/tmp --key pwdfile=/dev/null,kdf=md5",
    "socket --tpmstate dir=/tmp --pid fd=999999",
    "socket --tpmstate dir=/tmp -p 99999",
    "socket --tpmstate dir=/tmp -f 999999",
    "socket --tpmstate dir=/tmp -f 1",
    "socket --tpmstate dir=/tmp --runas nobody-of-this-name -p 0",
    "socket --print-states",
    "socket --tpmstate dir=/nonexistent --print-states",
    "socket --tpmstate dir=/nonexistent --flags not-need-init -p 0",
    "chardev --tpmstate dir=/tmp",
)


@pytest.mark.parametrize("line", REFUSED_BY_BOTH)
def test_what_swtpm_refuses_is_refused_with_its_exit_code(link: Link, line: str) -> None:
    theirs = subprocess.run(
        [SWTPM, *line.split()], capture_output=True, stdin=subprocess.DEVNULL, timeout=60
    )
    assert theirs.returncode == 1
    assert link.run(*line.split(), fails=True).stderr.startswith("swtpm: ")


def test_a_socket_that_cannot_be_made_is_refused(link: Link, state: Path) -> None:
    place = "type=unixio,path=/nonexistent/s"
    refused = link.run("socket", "--tpmstate", f"dir={state}", "--server", place, fails=True)
    assert "Could not open UnixIO socket /nonexistent/s" in refused.stderr


def test_what_both_print(link: Link) -> None:
    for line in ("--version", "--help", "socket --help", "chardev -h"):
        theirs = subprocess.run([SWTPM, *line.split()], capture_output=True, timeout=60)
        assert theirs.returncode == 0
        assert link.run(*line.split()).stdout


def test_a_key_is_checked_and_told_to_be_of_no_use(link: Link, state: Path) -> None:
    key = state / "key"
    key.write_text("00112233445566778899aabbccddeeff")
    line = ("socket", "--tpmstate", f"dir={state}", "-p", str(free_port()), *STARTED)
    log = ("--log", f"file={state}/log,prefix=tpm: ")
    with link.daemon(*line, *log, "--key", f"file={key},remove=true", pid=state / "pid"):
        assert not key.exists()
    lines = (state / "log").read_text().splitlines()
    assert all(one.startswith(("tpm: ", "vtpm")) for one in lines)
    (told,) = [one for one in lines if "keys are not used" in one]
    assert "--key" in told
    assert "00112233" not in "".join(lines)


def test_without_a_manager_it_says_what_to_do(link: Link, state: Path) -> None:
    nowhere = Link(link.path, state / "nowhere")
    line = ("socket", "--tpmstate", f"dir={state}", "-p", str(free_port()), *STARTED)
    for more in ((), ("--daemon",)):
        refused = nowhere.run(*line, *more, fails=True)
        assert f"no manager at {state / 'nowhere'}" in refused.stderr
        assert "VTPM_MANAGER" in refused.stderr
    assert not (state / "vtpm.uuid").exists()
    # Before its socket: libvirt shows what is said until then to who starts the machine.
    control = f"type=unixio,path={state}/ctrl"
    refused = nowhere.run("socket", "--tpmstate", f"dir={state}", "--ctrl", control, fails=True)
    assert "no manager" in refused.stderr
    assert not (state / "ctrl").exists()


def test_a_user_that_the_configuration_does_not_list_gets_no_tpm(
    link: Link, state: Path, stack: Stack
) -> None:
    config = stack.root / "state" / "etc" / "vtpm.toml"
    before = config.read_text()
    line = ("socket", "--tpmstate", f"dir={state}", "-p", str(free_port()), *STARTED)
    try:
        config.write_text(before.replace(f"uids = [{os.geteuid()}]", "uids = [4711]"))
        stack.vtpmctl("reload")
        refused = link.run(*line, fails=True)
        assert "[compat]" in refused.stderr
        assert not (state / "vtpm.uuid").exists()
    finally:
        config.write_text(before)
        stack.vtpmctl("reload")
    with link.daemon(*line, pid=state / "pid"):
        pass


def test_a_folder_of_swtpm_itself_is_left_alone(link: Link, state: Path) -> None:
    kept = state / "tpm-00.permall"
    kept.write_bytes(b"a TPM of swtpm")
    line = ("socket", "--tpmstate", f"dir={state}", "-p", str(free_port()), *STARTED)
    assert "state of a TPM of swtpm itself" in link.run(*line, fails=True).stderr
    assert kept.read_bytes() == b"a TPM of swtpm"


def certificate_at(tpm: Path, index: int) -> tuple[x509.Certificate, NvAttributes]:
    """Return what is stored at an NV index, and its permissions."""
    public = talk(tpm, tss12.nv_public(index))
    data = b""
    while len(data) < public.data_size:
        size = min(512, public.data_size - len(data))
        data += talk(tpm, tss12.nv_read_value(index, size, offset=len(data)))
    found = x509.load_der_x509_certificate(decode_stored_cert(data))
    return found, NvAttributes(public.permission.attributes)


def modulus_of(certificate: x509.Certificate) -> bytes:
    """Return the modulus of the key that it certifies."""
    key = certificate.public_key()
    return key.public_numbers().n.to_bytes(256, "big")  # type: ignore[union-attr]


def test_swtpm_setup_and_vtpmctl_manufacture_leave_the_same(
    link: Link, state: Path, stack: Stack
) -> None:
    of_theirs, of_ours, ca = state / "theirs", state / "ours", state / "ca"
    of_theirs.mkdir()
    of_ours.mkdir()
    config = configure_localca(state / "localca")
    setup = subprocess.run(
        [
            *("swtpm_setup", "--config", str(config), "--tpmstate", str(of_theirs)),
            *("--createek", "--create-ek-cert"),
            *("--create-platform-cert", "--take-ownership", "--not-overwrite"),
        ],
        env=link.environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert setup.returncode == 0, setup
    vtpmctl = partial(
        subprocess.run,
        env=link.environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    command = [str(Path(sys.executable).with_name("vtpmctl"))]
    vtpmctl([*command, "ca", "init", "--dir", str(ca), "--name", "A CA"])
    order = [
        *(*command, "manufacture", "--tpmstate", str(of_ours), "--ca", str(ca)),
        *("--create-ek-cert", "--create-platform-cert", "--take-ownership"),
    ]
    made = vtpmctl(order).stdout
    assert "made: EK certificate at 0x1000f000" in made
    assert "made:" not in vtpmctl(order).stdout
    found = []
    # "ooo" is what swtpm_setup takes for a password.
    owners = (hashlib.sha1(b"ooo").digest(), bytes(20))
    for folder, owner in zip((of_theirs, of_ours), owners, strict=True):
        tpm = folder / "sock"
        line = (
            *("socket", "--tpmstate", f"dir={folder}", "--server", f"type=unixio,path={tpm}"),
            *STARTED,
        )
        with link.daemon(*line, pid=folder / "pid"):
            assert talk(tpm, tss12.is_owned())
            ek = talk(
                tpm,
                tss12.owner_read_internal_pub(
                    ReservedHandle.EK, owner_auth=owner, random=SeededRandom("3")
                ),
            )
            ek_cert, ek_permission = certificate_at(tpm, EK_CERT_INDEX)
            platform, permission = certificate_at(tpm, PLATFORM_CERT_INDEX)
            assert modulus_of(ek_cert) == modulus_of(platform) == ek.key
            found.append((ek_permission, permission, usage_of(ek_cert), usage_of(platform)))
    assert found[0] == found[1]
    assert found[0][2:] == ([1], [2])
    issuer = x509.load_pem_x509_certificate((ca / "ca.crt").read_bytes())
    ek_cert.verify_directly_issued_by(issuer)
    platform.verify_directly_issued_by(issuer)


def usage_of(certificate: x509.Certificate) -> list[int]:
    """Return the last numbers of the TCG's key usages (2.23.133.8.N) that a certificate has.

    By their bytes: the alternative names of swtpm_localca's platform certificates do not parse.
    """
    oids = {number: bytes([6, 5, 0x67, 0x81, 5, 8, number]) for number in (1, 2, 3)}
    return [number for number, oid in oids.items() if oid in certificate.tbs_certificate_bytes]
