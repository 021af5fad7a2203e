# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

function __vtpmmgr_guests
    set -l dir (string replace -rf '.*--dir[= ](\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in $dir/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml
        string replace -r '.*/' '' -- $path | string replace -r '\.[^.]*$' ''
    end
end

complete -c vtpmmgr -f
complete -c vtpmmgr -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c vtpmmgr -l state -x -a '(__fish_complete_directories)' -d 'Folder of the database; made if missing'
complete -c vtpmmgr -l socket -r -F -d 'Where vTPMs connect (split driver)'
complete -c vtpmmgr -l socket-mode -x -d 'Permissions of that socket'
complete -c vtpmmgr -l control -r -F -d 'Control socket for vtpmctl'
complete -c vtpmmgr -l admin -r -F -d 'Socket for management commands, of root and this processs user'
complete -c vtpmmgr -l tis -x -a '(__fish_complete_directories)' -d 'Folder of the hardware TPMs locality sockets'
complete -c vtpmmgr -l owner-auth -x -d 'Secret of the hardware TPMs owner'
complete -c vtpmmgr -l srk-auth -x -d 'Secret of its storage root key, in the same forms'
complete -c vtpmmgr -l tpmdriver -x -a 'tpm_tis' -d 'Driver of the hardware TPM'
complete -c vtpmmgr -l tpmlocality -x -d 'Locality at which it is used, and to which the root secret is sealed'
complete -c vtpmmgr -l tpmirq -x -d '0 polls the chip; a number, or probe, waits for its interrupts if it has any'
complete -c vtpmmgr -l seal-pcrs -x -d 'PCRs of the hardware TPM to which a new root secret is sealed'
complete -c vtpmmgr -l nv-index -x -d 'NV area of the hardware TPM that names the newest state of the database'
complete -c vtpmmgr -l freshness -x -a 'nv counter none' -d 'How an older copy of the database is noticed'
complete -c vtpmmgr -l accept-rollback -d 'Do not serve'
complete -c vtpmmgr -l dry-run -d 'With --accept-rollback'
complete -c vtpmmgr -l xen-lists -d 'Take configuration lists that are signed as in Xen'
complete -c vtpmmgr -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c vtpmmgr -l version -d 'Show the version and exit'
complete -c vtpmmgr -l help -d 'Show this message and exit'
