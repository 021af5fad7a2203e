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
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -a swtpm-compat -d 'Run a TPM by swtpms command line, for programs that start swtpm'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -a vtpm-proxy -d 'Make the guests vtpm a TPM device of this kernel, /dev/tpmN, for containers'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l guest -x -a '(__tpmfront_guests)' -d 'Which file of guests.d it is, see vtpm-guest.toml(5); needs --config'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l tpm -x -d 'Raw TPM byte stream; every command that comes through it has this locality default'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l socket-mode -x -d 'Permissions of the --tpm sockets; who may write may use the TPM'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l ctrl -r -F -d 'Control channel as swtpm has it, for QEMU and swtpm_ioctl'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l ctrl-mode -x -d 'Permissions of the --ctrl socket; who may write may use the TPM from any locality, power it off and take its state, encrypted'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l tcp -x -d 'Raw TPM byte stream over TCP, at 127.0.0.1 by default; every program of the machine may use it'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l tcp-any-address -d 'Let --tcp be at addresses that other machines reach'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l backend -r -F -d 'Socket of the guests vtpm (split driver)'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l uuid -x -d 'Which vTPM to ask for; must be given without --guest'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l name -x -d 'Name of the guest in the log'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l control -r -F -d 'Control socket for vtpmctl'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l version -d 'Show the version and exit'
complete -c tpmfront -n 'not __fish_seen_subcommand_from swtpm-compat vtpm-proxy' -l help -d 'Show this message and exit'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and not __fish_seen_subcommand_from chardev socket' -a chardev -d 'Serve a TPM at a character device, with the options of swtpm chardev'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and not __fish_seen_subcommand_from chardev socket' -a socket -d 'Serve a TPM at sockets, with the options of swtpm socket'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and not __fish_seen_subcommand_from chardev socket' -l help -d 'Show this message and exit'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l tpmstate -x -d 'Folder of the TPM, which must exist, also as backend-uri=dir//DIR; or environment TPM_PATH'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l ctrl -x -d 'Control channel, as QEMU and swtpm_ioctl speak it'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l chardev -s c -x -d 'Character device'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l fd -s f -x -d 'Data channel, or character device, is this inherited descriptor; the process ends with its client'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l vtpm-proxy -d 'Refused; the vtpm-proxy command of tpmfront makes such a device'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l flags -x -d not-need-init
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l locality -x -d reject-locality-4
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l key -x -d 'Checked as swtpm does, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l migration-key -x -d 'The same'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l migration -x -d 'incoming, release-lock-outgoing; checked, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l log -x -d 'Where the log goes'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l pid -x -d 'Where the process id is written when the TPM can be used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l daemon -s d -d 'Return when the TPM can be used, and serve in the background'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l runas -s r -x -d 'Become this user first'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l chroot -s R -x -d 'Refused; RootDirectory= of systemd does it'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l seccomp -x -d 'Checked, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l tpm2 -d Refused
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l profile -x -d Refused
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l print-profiles -d 'Refused, likewise'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l print-info -x -d 'Refused; swtpm_ioctl --info asks a TPM that runs'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l pcap -x -d 'Refused; vtpmctl trace records'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l print-capabilities -d 'Print what there is, as JSON, and end'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l print-states -d 'Print what is in the folder of --tpmstate, as JSON, and end'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from chardev' -l help -s h -d 'Print this and end'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l tpmstate -x -d 'Folder of the TPM, which must exist, also as backend-uri=dir//DIR; or environment TPM_PATH'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l ctrl -x -d 'Control channel, as QEMU and swtpm_ioctl speak it'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l server -x -d 'Data channel, for raw TPM commands; named as that of --ctrl'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l port -s p -x -d 'Data channel at this TCP port of 127.0.0.1, each connection for one command; or environment TPM_PORT'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l fd -s f -x -d 'Data channel, or character device, is this inherited descriptor; the process ends with its client'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l terminate -s t -d 'End when the client of the data channel has gone'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l flags -x -d not-need-init
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l locality -x -d reject-locality-4
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l key -x -d 'Checked as swtpm does, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l migration-key -x -d 'The same'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l migration -x -d 'incoming, release-lock-outgoing; checked, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l log -x -d 'Where the log goes'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l pid -x -d 'Where the process id is written when the TPM can be used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l daemon -s d -d 'Return when the TPM can be used, and serve in the background'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l runas -s r -x -d 'Become this user first'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l chroot -s R -x -d 'Refused; RootDirectory= of systemd does it'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l seccomp -x -d 'Checked, and not used'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l tpm2 -d Refused
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l profile -x -d Refused
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l print-profiles -d 'Refused, likewise'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l print-info -x -d 'Refused; swtpm_ioctl --info asks a TPM that runs'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l pcap -x -d 'Refused; vtpmctl trace records'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l print-capabilities -d 'Print what there is, as JSON, and end'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l print-states -d 'Print what is in the folder of --tpmstate, as JSON, and end'
complete -c tpmfront -n '__fish_seen_subcommand_from swtpm-compat; and __fish_seen_subcommand_from socket' -l help -s h -d 'Print this and end'
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
