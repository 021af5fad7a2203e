# SPDX-License-Identifier: Apache-2.0
"""Reading a configuration folder: what counts, and every mistake by file, key and reason."""

from __future__ import annotations

import os
from pathlib import Path
from uuid import UUID

import pytest

from daemons.runtime.config.findings import BadConfig
from daemons.runtime.config.folder import (
    FILE_LIMIT_BYTES,
    examine,
    load,
    load_guest,
    load_guest_defaults,
    load_machine,
    load_without_bad_guests,
)
from daemons.runtime.config.options import (
    CompatOptions,
    FrontOptions,
    Machine,
    ManagerOptions,
    VtpmOptions,
)
from daemons.runtime.config.values import (
    ChipStartup,
    EndorsementKey,
    LocalityRule,
    StartupKind,
)
from daemons.runtime.log import Level

U1, U2 = UUID("5e4ad2a3-1d6b-4f5c-a3a0-4ef0b1fb9a6c"), UUID(int=2)
USERS = {"vtpm-g1": 901, "vtpm-g2": 902}
MACHINE = """
[hwtpm]
startup = "state"
key_pool = 0

[manager]
locality = 3
interrupts = false
seal_pcrs = "0-3,10"
nv_index = 0x00012345
owner_auth = "file:/etc/vtpm/owner"
loglevel = "debug"

[vtpm]
hwinitpcr = "0-7"
maintcmds = true
localities = ["dom0=0,1,2", "*:vm_t=0"]

[front]
stream_mode = "0660"

[compat]
uids = [64055, 0]
manager = "/run/elsewhere.sock"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder without files, closed to others whatever the umask is."""
    etc = tmp_path / "etc"
    (etc / "guests.d").mkdir(parents=True)
    etc.chmod(0o755)
    (etc / "guests.d").chmod(0o755)
    return etc


def write(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    path.chmod(0o644)
    return path


def write_guest(folder: Path, name: str, text: str | bytes) -> Path:
    return write(folder / "guests.d" / f"{name}.toml", text)


def found(folder: Path) -> list[str]:
    """Every finding, without the part of the path that is the same for all."""
    findings = examine(folder, USERS.get).findings
    return [str(finding).replace(f"{folder}/", "") for finding in findings]


def test_a_folder_without_files_is_the_defaults_and_no_guest(folder: Path) -> None:
    configuration = load(folder)
    assert configuration.machine == Machine()
    assert configuration.guests == {}


def test_every_key_of_the_machine_counts(folder: Path) -> None:
    write(folder / "vtpm.toml", MACHINE)
    machine = load_machine(folder)
    assert machine.hwtpm.startup is ChipStartup.STATE
    assert machine.hwtpm.key_pool == 0
    assert machine.manager == ManagerOptions(
        locality=3,
        interrupts=False,
        seal_pcrs=frozenset({0, 1, 2, 3, 10}),
        nv_index=0x12345,
        owner_auth="file:/etc/vtpm/owner",
        loglevel=Level.DEBUG,
    )
    assert machine.vtpm == VtpmOptions(
        hwinitpcr=frozenset(range(8)),
        maintcmds=True,
        localities=(
            LocalityRule("dom0", frozenset({0, 1, 2})),
            LocalityRule("*:vm_t", frozenset({0})),
        ),
    )
    assert machine.front == FrontOptions(stream_mode=0o660)
    assert machine.compat == CompatOptions(frozenset({0, 64055}), Path("/run/elsewhere.sock"))


def test_a_guest_has_what_its_file_says_and_else_what_the_machine_says(folder: Path) -> None:
    write(folder / "vtpm.toml", MACHINE)
    write_guest(folder, "g1", f'uuid = "{U1}"')
    write_guest(
        folder,
        "g2",
        f"""uuid = "{U2}"
        uid = 77
        label = "system_u:vm_r:vtpm_t"
        group = 3
        admin = true
        startup = "save"
        hwinitpcr = "none"
        maintcmds = false
        localities = []
        ek = "none"
        loglevel = "error"
        [front]
        stream = false
        """,
    )
    guests = load(folder, USERS.get).guests
    g1, g2 = guests["g1"], guests["g2"]
    assert (g1.identity.uuid, g1.identity.uid, g1.label) == (U1, 901, "g1")
    assert (g1.identity.group, g1.identity.admin) == (0, False)
    assert g1.vtpm == load_machine(folder).vtpm
    assert g1.front == FrontOptions(stream_mode=0o660)
    assert (g2.identity.uuid, g2.identity.uid, g2.label) == (U2, 77, "system_u:vm_r:vtpm_t")
    assert (g2.identity.group, g2.identity.admin) == (3, True)
    assert g2.vtpm == VtpmOptions(
        startup=StartupKind.SAVE, ek=EndorsementKey.NONE, loglevel=Level.ERROR
    )
    assert g2.front == FrontOptions(stream=False, stream_mode=0o660)


def test_a_guests_daemon_reads_its_own_file_and_needs_no_user_and_no_neighbour(
    folder: Path,
) -> None:
    write(folder / "vtpm.toml", MACHINE)
    write_guest(folder, "nouser", f'uuid = "{U1}"')
    write_guest(folder, "broken", "broken")
    guest = load_guest(folder, "nouser")
    assert guest.identity.uid is None
    assert guest.vtpm.hwinitpcr == frozenset(range(8))
    defaults = load_guest_defaults(folder, "nouser")
    assert (defaults.name, defaults.uuid) == ("nouser", U1)
    assert load_guest_defaults(folder, None).vtpm == guest.vtpm
    assert load_guest_defaults(None, None).vtpm == VtpmOptions()


@pytest.mark.parametrize(
    ("text", "finding"),
    [
        ("[hwtpm]\nstartup = 'save'", 'hwtpm.startup: must be "none", "clear", "state" or "deact'),
        ("[hwtpm]\nkey_pool = 65", "hwtpm.key_pool: must be a number from 0 to 64, not 65"),
        ("[hwtpm]\nkey_pool = true", "hwtpm.key_pool: must be a number from 0 to 64, not true"),
        ("[hwtpm]\nloglevel = 'all'", 'hwtpm.loglevel: must be "error", "warning", "info" or "d'),
        ("[manager]\nlocality = 5", "manager.locality: must be a number from 0 to 4, not 5"),
        ("[manager]\ninterrupts = 1", "manager.interrupts: must be true or false, not 1"),
        ("[manager]\nseal_pcrs = '0-24'", "manager.seal_pcrs: PCR 24: the last one is 23"),
        ("[manager]\nseal_pcrs = 7", "manager.seal_pcrs: must be a list of PCRs"),
        ("[manager]\nnv_index = 1", "manager.nv_index: NV index 0x1 is not within"),
        ("[manager]\nnv_index = '2'", "manager.nv_index: must be a number from 0x2"),
        ("[manager]\nlocalty = 2", "manager.localty: unknown key; did you mean locality?"),
        ("[manager]\nx = 2", "manager.x: unknown key; known are locality, interrupts"),
        ("[managr]", "managr: unknown key; did you mean manager?"),
        ("manager = 2", "manager: must be a table, [manager]"),
        ("[vtpm]\nstartup = 'state'", 'vtpm.startup: must be "clear", "save" or "deactivated"'),
        ("[vtpm]\nuuid = 'x'", "vtpm.uuid: unknown key"),
        ("[vtpm]\nhwinitpcr = 'x'", "vtpm.hwinitpcr: 'x' is not all, none, N or X-Y"),
        ("[vtpm]\nlocalities = 'a=0'", "vtpm.localities: must be a list of strings"),
        ("[vtpm]\nlocalities = ['a']", "vtpm.localities: 'a' is not <label>=<n>[,<n>...]"),
        ("[vtpm]\nlocalities = ['a=256']", "vtpm.localities: locality 256: the last one is 255"),
        ("[vtpm]\nek = true", 'vtpm.ek: must be "create" or "none", not true'),
        ("[compat]\nuids = 5", "compat.uids: must be a list of at most 64 user numbers, not 5"),
        ("[compat]\nuids = ['tss']", "compat.uids: must be a list of at most 64 user numbers"),
        ("[compat]\nuids = [true]", "compat.uids: must be a list of at most 64 user numbers"),
        ("[compat]\nuids = [4294967295]", "compat.uids: must be a list of at most 64 user numb"),
        ("[compat]\nmanager = 'x'", "compat.manager: must be an absolute path, not 'x'"),
        ("[front]\nstream_mode = 660", "front.stream_mode: must be permissions in octal, such as"),
        ("[front]\nstream_mode = '888'", "front.stream_mode: '888' is no file mode"),
        ("[front]\ntcp = 6545", "front.tcp: must be a list of ports or strings"),
        ("[front]\ntcp = [true]", "front.tcp: must be a list of ports or strings"),
        ("[front]\ntcp = ['localhost:1']", "front.tcp: 'localhost:1' is not [ADDRESS:]PORT"),
        ("[front]\ntcp = [6545, '6545=2']", "front.tcp: 127.0.0.1:6545 stands twice"),
        ("[front]\ntcp = ['0.0.0.0:6545']", "front.tcp: 0.0.0.0:6545 is open to other machines"),
    ],
)
def test_a_mistake_in_the_machines_file_is_named(folder: Path, text: str, finding: str) -> None:
    write(folder / "vtpm.toml", text)
    (only,) = found(folder)
    assert only.startswith(f"vtpm.toml: {finding}")
    with pytest.raises(BadConfig) as caught:
        load_machine(folder)
    assert caught.value.exit_code == 3


def test_a_guests_user_must_not_be_one_of_compat(folder: Path) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"\nuid = 1000')
    write(folder / "vtpm.toml", "[compat]\nuids = [1000]")
    (only,) = found(folder)
    assert only.startswith("guests.d/g1.toml: uid: 1000 is also in compat.uids")
    write(folder / "vtpm.toml", "[compat]\nuids = [1000]\n[manager]\nshared_uid = true")
    assert found(folder) == []


def test_a_secret_in_a_file_that_everybody_reads_is_refused_and_not_repeated(folder: Path) -> None:
    write(folder / "vtpm.toml", '[manager]\nowner_auth = ["text:hunter2"]\nsrk_auth = "file:x"')
    owner, srk = found(folder)
    assert "hunter2" not in owner
    write(folder / "vtpm.toml", '[manager]\nowner_auth = "text:hunter2"\nsrk_auth = "file:x"')
    owner, srk = found(folder)
    form = 'must be "well-known" or "file:" and an absolute path'
    assert owner.startswith(f"vtpm.toml: manager.owner_auth: {form}")
    assert srk.startswith(f"vtpm.toml: manager.srk_auth: {form}")
    assert "hunter2" not in owner


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        ((f'uuid = "{U1}"', ""), "uuid: is missing; it must be a uuid, 36 characters"),
        ((str(U1), "nonsense"), "uuid: 'nonsense' is no uuid"),
        ((str(U1), U1.hex), f"uuid: '{U1.hex}' must be written as {U1}"),
        ((f'"{U1}"', "5"), "uuid: must be a uuid, 36 characters, not 5"),
        (("uid = 1000", "uid = -1"), "uid: must be a number from 0 to 4294967294, not -1"),
        (("uid = 1000", 'uid = "root"'), "uid: must be a number from 0 to 4294967294, not 'root'"),
        (("uid = 1000", "uid = 4294967295"), "uid: must be a number from 0"),
        (("label = ", "lable = "), "lable: unknown key; did you mean label?"),
        (('"a:b:c"', '""'), "label: must be 1 to 127 printable ASCII characters"),
        (('"a:b:c"', '"' + "x" * 128 + '"'), "label: must be 1 to 127 printable ASCII"),
        (('"a:b:c"', '"line\\nfeed"'), "label: must be 1 to 127 printable ASCII"),
        (("admin = true", "admin = 1"), "admin: must be true or false, not 1"),
        (("group = 3", "group = 1.5"), "group: must be a number from 0 to 4294967294, not 1.5"),
        (("group = 3", "front = 3"), "front: must be a table, [front]"),
        (("group = 3", "front.strem = 3"), "front.strem: unknown key; did you mean stream?"),
        (("group = 3", "key_pool = 3"), "key_pool: unknown key"),
    ],
)
def test_a_mistake_in_a_guests_file_is_named(
    folder: Path, change: tuple[str, str], finding: str
) -> None:
    good = f'uuid = "{U1}"\nuid = 1000\nlabel = "a:b:c"\ngroup = 3\nadmin = true\n'
    write_guest(folder, "g1", good)
    assert found(folder) == []
    assert change[0] in good
    write_guest(folder, "g1", good.replace(*change))
    (only,) = found(folder)
    assert only.startswith(f"guests.d/g1.toml: {finding}")
    with pytest.raises(BadConfig):
        load_guest(folder, "g1")


def test_all_mistakes_of_all_files_are_reported_together(folder: Path) -> None:
    write(folder / "vtpm.toml", "[manager]\nlocality = 9\ninterupts = true\n[vtpm]\nek = 1\n")
    write_guest(folder, "g1", "uid = -1\ngruop = 1\n")
    write_guest(folder, "g2", "x = ")
    with pytest.raises(BadConfig) as caught:
        load(folder, USERS.get)
    where = [(finding.file.name, finding.key) for finding in caught.value.findings]
    assert where == [
        ("vtpm.toml", "manager.interupts"),
        ("vtpm.toml", "manager.locality"),
        ("vtpm.toml", "vtpm.ek"),
        ("g1.toml", "gruop"),
        ("g1.toml", "uuid"),
        ("g1.toml", "uid"),
        ("g2.toml", ""),
    ]
    assert str(caught.value).count("\n") == len(where) - 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (b"[manager]\nlocality = = 2\n", 2),
        (b"[manager]\n\n[manager]\n", 3),
        (b"[manager]\nlocality = 2\nlocality = 3\n", 3),
        (b'[manager]\nowner_auth = "', 2),
        (b"# ok\n# \xff\n", 2),
    ],
)
def test_what_is_no_toml_is_named_with_its_line(folder: Path, text: bytes, line: int) -> None:
    write(folder / "vtpm.toml", text)
    (finding,) = examine(folder).findings
    assert finding.line == line
    assert str(finding).startswith(f"{folder}/vtpm.toml:{line}: is no")


def test_hostile_files_are_findings(folder: Path) -> None:
    write(folder / "vtpm.toml", b"#" * (FILE_LIMIT_BYTES + 1))
    write_guest(folder, "deep", b"x = " + b"[" * 20_000)
    write_guest(folder, "digits", b"group = " + b"1" * 5_000)
    os.mkfifo(folder / "guests.d" / "pipe.toml")
    (folder / "guests.d" / "folder.toml").mkdir()
    (folder / "guests.d" / "gone.toml").symlink_to(folder / "nowhere")
    assert found(folder) == [
        f"vtpm.toml: is longer than {FILE_LIMIT_BYTES} bytes",
        "guests.d/deep.toml: is no TOML of ours: nested too deeply",
        "guests.d/digits.toml: is no TOML of ours: a number is too long",
        "guests.d/folder.toml: is not a regular file",
        "guests.d/gone.toml: No such file or directory",
        "guests.d/pipe.toml: is not a regular file",
    ]


def test_a_uuid_of_two_guests_is_named_for_both_and_neither_counts(folder: Path) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"')
    write_guest(folder, "g2", f'uuid = "{U1}"')
    write_guest(folder, "g3", f'uuid = "{U2}"\nuid = 3')
    assert found(folder) == [
        f"guests.d/g1.toml: uuid: {U1} is also that of g2",
        f"guests.d/g2.toml: uuid: {U1} is also that of g1",
    ]
    configuration, findings = load_without_bad_guests(folder, USERS.get)
    assert list(configuration.guests) == ["g3"]
    assert len(findings) == 2


def test_a_uid_of_two_guests_is_a_finding_unless_the_machine_allows_it(folder: Path) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"')
    write_guest(folder, "g3", f'uuid = "{U2}"\nuid = 901')
    assert found(folder) == [
        "guests.d/g1.toml: uid: 901 is also that of g3; nothing else separates them",
        "guests.d/g3.toml: uid: 901 is also that of g1; nothing else separates them",
    ]
    write(folder / "vtpm.toml", "[manager]\nshared_uid = true\n")
    assert list(load(folder, USERS.get).guests) == ["g1", "g3"]


def test_a_tcp_port_of_two_guests_is_named_for_both(folder: Path) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"\nfront.tcp = [6545]')
    write_guest(folder, "g3", f'uuid = "{U2}"\nuid = 3\nfront.tcp = ["127.0.0.1:6545=2", 6546]')
    assert found(folder) == [
        "guests.d/g1.toml: front.tcp: 127.0.0.1:6545 is also that of g3",
        "guests.d/g3.toml: front.tcp: 127.0.0.1:6545 is also that of g1",
    ]
    write_guest(folder, "g3", f'uuid = "{U2}"\nuid = 3\nfront.tcp = ["[::1]:6545=2"]')
    assert [str(one) for one in load(folder, USERS.get).guests["g3"].front.tcp] == ["[::1]:6545=2"]


def test_a_guests_own_word_opens_tcp_to_other_machines(folder: Path) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"\nfront.tcp = ["0.0.0.0:6545"]')
    (only,) = found(folder)
    assert only.startswith("guests.d/g1.toml: front.tcp: 0.0.0.0:6545 is open to other machines")
    text = f'uuid = "{U1}"\nfront.tcp = ["0.0.0.0:6545"]\nfront.tcp_any_address = true'
    write_guest(folder, "g1", text)
    assert found(folder) == []


def test_a_guest_without_user_is_a_finding(folder: Path) -> None:
    write_guest(folder, "g7", f'uuid = "{U1}"')
    assert found(folder) == [
        "guests.d/g7.toml: uid: is missing, and there is no system user vtpm-g7"
    ]


def test_a_name_that_is_none_is_a_finding_and_files_of_others_are_none(folder: Path) -> None:
    write_guest(folder, "a b", f'uuid = "{U1}"')
    for name in ("g1.toml~", "g1.toml.dpkg-old", ".g1.toml.new", "README"):
        write(folder / "guests.d" / name, "not ours")
    (only,) = found(folder)
    assert only.startswith("guests.d/a b.toml: 'a b' is no guest name")


def test_a_line_break_in_a_name_does_not_make_two_findings_of_one(folder: Path) -> None:
    write(folder / "vtpm.toml", '"a\\nb" = 1')
    write_guest(folder, "a\nb\udc80", "")
    machine, guest = found(folder)
    assert machine.startswith("vtpm.toml: a\\nb: unknown key")
    assert guest.startswith("guests.d/a\\nb\\udc80.toml: ")


@pytest.mark.parametrize("mode", [0o664, 0o646, 0o666])
def test_a_file_that_others_can_write_is_a_finding(folder: Path, mode: int) -> None:
    write(folder / "vtpm.toml", MACHINE).chmod(mode)
    write_guest(folder, "g1", f'uuid = "{U1}"').chmod(mode)
    reason = f"may be written by others than its owner (mode {mode:04o})"
    assert found(folder) == [f"vtpm.toml: {reason}", f"guests.d/g1.toml: {reason}"]


def test_a_folder_that_others_can_write_is_a_finding_for_who_reads_one_guest_too(
    folder: Path,
) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"')
    (folder / "guests.d").chmod(0o777)
    (only,) = found(folder)
    assert f"folder {folder}/guests.d may be written".replace(f"{folder}/", "") in only
    with pytest.raises(BadConfig, match="may be written by others"):
        load_guest(folder, "g1")
    with pytest.raises(BadConfig, match="may be written by others"):
        load_without_bad_guests(folder)


def test_a_file_of_another_user_is_a_finding(folder: Path) -> None:
    assert os.geteuid() == 0, "only root can give a file away"
    os.chown(write(folder / "vtpm.toml", MACHINE), 12345, 0)
    assert found(folder) == ["vtpm.toml: belongs to uid 12345; it must be root or 0"]


def test_a_folder_that_is_missing_is_a_finding(tmp_path: Path) -> None:
    with pytest.raises(BadConfig, match="No such file"):
        load_machine(tmp_path / "nowhere")
    with pytest.raises(BadConfig, match="No such file"):
        load_without_bad_guests(tmp_path / "nowhere")


def test_a_start_goes_on_without_bad_guests_and_not_without_the_machines_file(
    folder: Path,
) -> None:
    write_guest(folder, "g1", f'uuid = "{U1}"')
    write_guest(folder, "bad", "bad")
    configuration, findings = load_without_bad_guests(folder, USERS.get)
    assert list(configuration.guests) == ["g1"]
    assert [finding.file.name for finding in findings] == ["bad.toml"]
    write(folder / "vtpm.toml", "bad")
    with pytest.raises(BadConfig) as caught:
        load_without_bad_guests(folder, USERS.get)
    assert [finding.file.name for finding in caught.value.findings] == ["vtpm.toml"]


def test_a_guests_daemon_hears_of_mistakes_in_both_of_its_files(folder: Path) -> None:
    write(folder / "vtpm.toml", "[vtpm]\nek = 1")
    write_guest(folder, "g1", "uuid = 1")
    with pytest.raises(BadConfig) as caught:
        load_guest(folder, "g1")
    assert [finding.key for finding in caught.value.findings] == ["vtpm.ek", "uuid"]
    with pytest.raises(BadConfig, match="no guest name"):
        load_guest(folder, "../vtpm")
    with pytest.raises(BadConfig, match="No such file"):
        load_guest(folder, "nobody")
