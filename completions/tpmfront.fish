# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

function __tpmfront_guests
    set -l dir (string replace -rf '.*--dir[= ](\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in $dir/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml
        string replace -r '.*/' '' -- $path | string replace -r '\.[^.]*$' ''
    end
end

complete -c tpmfront -f
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -a vtpm-proxy -d 'Make the guests vtpm a TPM device of this kernel, /dev/tpmN, for containers'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l guest -x -a '(__tpmfront_guests)' -d 'Which file of guests.d it is, see vtpm-guest.toml(5); needs --config'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l tpm -x -d 'Raw TPM byte stream; every command that comes through it has this locality default'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l socket-mode -x -d 'Permissions of the --tpm sockets; who may write may use the TPM'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l ctrl -r -F -d 'Control channel as swtpm has it, for QEMU and swtpm_ioctl'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l ctrl-mode -x -d 'Permissions of the --ctrl socket; who may write may use the TPM from any locality, power it off and take its state, encrypted'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l tcp -x -d 'Raw TPM byte stream over TCP, at 127.0.0.1 by default; every program of the machine may use it'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l tcp-any-address -d 'Let --tcp be at addresses that other machines reach'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l backend -r -F -d 'Socket of the guests vtpm (split driver)'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l uuid -x -d 'Which vTPM to ask for; must be given without --guest'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l name -x -d 'Name of the guest in the log'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l control -r -F -d 'Control socket for vtpmctl'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l version -d 'Show the version and exit'
complete -c tpmfront -n 'not __fish_seen_subcommand_from vtpm-proxy' -l help -d 'Show this message and exit'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l guest -x -a '(__tpmfront_guests)' -d 'Which file of guests.d it is, see vtpm-guest.toml(5); needs --config'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l backend -r -F -d 'Socket of the guests vtpm (split driver)'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l uuid -x -d 'Which vTPM to ask for; must be given without --guest'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l name -x -d 'Name of the guest in the log'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l locality -x -d 'A locality that the kernel may set for its commands; may be given several times'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l device -r -F -d 'The kernels device that makes TPM devices'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l user -x -d 'Whom to become once the device is made, which takes root'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c tpmfront -n '__fish_seen_subcommand_from vtpm-proxy' -l help -d 'Show this message and exit'
