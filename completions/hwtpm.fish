# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

function __hwtpm_guests
    set -l dir (string replace -rf '.*--dir[= ](\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in $dir/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml
        string replace -r '.*/' '' -- $path | string replace -r '\.[^.]*$' ''
    end
end

complete -c hwtpm -f
complete -c hwtpm -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c hwtpm -l state -x -a '(__fish_complete_directories)' -d 'Folder of the chips own memory; made at the first start, mode 0700'
complete -c hwtpm -l run -x -a '(__fish_complete_directories)' -d 'Folder of locality0.sock to locality4.sock and control.sock'
complete -c hwtpm -l startup -x -a 'none clear state deactivated' -d 'What firmware tells the TPM after power-on'
complete -c hwtpm -l socket-mode -x -d 'Permissions of a localitys socket, such as 2=660; 600 where none is given'
complete -c hwtpm -l key-pool -x -d 'How many RSA keys are made ahead of time'
complete -c hwtpm -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c hwtpm -l version -d 'Show the version and exit'
complete -c hwtpm -s h -l help -d 'Show this message and exit'
