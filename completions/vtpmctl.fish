# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

function __vtpmctl_guests
    set -l dir (string replace -rf '.*--dir[= ](\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in $dir/state/guests/* /etc/vtpm/guests/*.conf /etc/vtpm/guests.d/*.toml
        string replace -r '.*/' '' -- $path | string replace -r '\.[^.]*$' ''
    end
end

complete -c vtpmctl -f
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -a doctor -d 'Look for what keeps a suite from serving, and say what to do about it'
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -a guest -d 'Handle one guest'
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -a hwtpm -d 'Handle the hardware TPM'
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -a status -d 'Show the daemons and the guests of a running suite'
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -a up -d 'Run hwtpm, vtpmmgr and a vTPM with its front for each guest, in the foreground'
complete -c vtpmctl -n 'not __fish_seen_subcommand_from doctor guest hwtpm status up' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from doctor' -l dir -x -a '(__fish_complete_directories)' -d 'Folder of the stack'
complete -c vtpmctl -n '__fish_seen_subcommand_from doctor' -l system -d 'The units of systemd, whatever runs in the default folder'
complete -c vtpmctl -n '__fish_seen_subcommand_from doctor' -l json -d 'The findings as JSON'
complete -c vtpmctl -n '__fish_seen_subcommand_from doctor' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from guest; and not __fish_seen_subcommand_from reset' -a reset -d 'Reset the TPM of a guest as a reboot of the guest does'
complete -c vtpmctl -n '__fish_seen_subcommand_from guest; and not __fish_seen_subcommand_from reset' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from guest; and __fish_seen_subcommand_from reset' -x -a '(__vtpmctl_guests)'
complete -c vtpmctl -n '__fish_seen_subcommand_from guest; and __fish_seen_subcommand_from reset' -l dir -x -a '(__fish_complete_directories)' -d 'Folder of the stack'
complete -c vtpmctl -n '__fish_seen_subcommand_from guest; and __fish_seen_subcommand_from reset' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from hwtpm; and not __fish_seen_subcommand_from power-cycle' -a power-cycle -d 'Switch the chip off and on'
complete -c vtpmctl -n '__fish_seen_subcommand_from hwtpm; and not __fish_seen_subcommand_from power-cycle' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from hwtpm; and __fish_seen_subcommand_from power-cycle' -l dir -x -a '(__fish_complete_directories)' -d 'Folder of the stack'
complete -c vtpmctl -n '__fish_seen_subcommand_from hwtpm; and __fish_seen_subcommand_from power-cycle' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l dir -x -a '(__fish_complete_directories)' -d 'Folder of the stack'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l system -d 'The units of systemd, whatever runs in the default folder'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l json -d 'Everything that is known, as JSON'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l watch -d 'Look again and again, until Ctrl-C'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l interval -x -d 'How often --watch looks'
complete -c vtpmctl -n '__fish_seen_subcommand_from status' -l help -d 'Show this message and exit'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l dir -x -a '(__fish_complete_directories)' -d 'Folder of the stack'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l guest -x -a '(__vtpmctl_guests)' -d 'A guest; may be repeated'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l hwinitpcr -x -d 'PCRs that each vTPM takes over from the hardware TPM'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l ek -x -a 'create none' -d 'Whether a new vTPM gets its endorsement key at once'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l owner-auth -x -d 'Owner of the hardware TPM'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l srk-auth -x -d 'Storage root key of the hardware TPM, in the same forms'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l loglevel -x -a 'error info debug' -d 'What all daemons log, to standard error'
complete -c vtpmctl -n '__fish_seen_subcommand_from up' -l help -d 'Show this message and exit'
