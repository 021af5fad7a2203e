# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

function __vtpm_guests
    set -l dir (string replace -rf '.*--dir[= ](\S+).*' '$1' -- (commandline -p | string collect))
    if test -z "$dir"
        set -q XDG_STATE_HOME; and set dir $XDG_STATE_HOME/vtpm; or set dir ~/.local/state/vtpm
    end
    for path in $dir/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml
        string replace -r '.*/' '' -- $path | string replace -r '\.[^.]*$' ''
    end
end

complete -c vtpm -f
complete -c vtpm -l config -x -a '(__fish_complete_directories)' -d 'Folder of vtpm.toml and guests.d, see vtpm.toml(5); what an option here says counts before it, and SIGHUP reads it again'
complete -c vtpm -l guest -x -a '(__vtpm_guests)' -d 'Which file of guests.d it is, see vtpm-guest.toml(5); needs --config'
complete -c vtpm -l state -x -a '(__fish_complete_directories)' -d 'Folder of the encrypted image; made if missing'
complete -c vtpm -l socket -r -F -d 'Where the front connects (split driver)'
complete -c vtpm -l manager -r -F -d 'Socket of vtpmmgr'
complete -c vtpm -l uuid -x -d 'Identity towards the manager and the front; must be given without --guest'
complete -c vtpm -l name -x -d 'Name of the guest in the log'
complete -c vtpm -l control -r -F -d 'Control socket for vtpmctl'
complete -c vtpm -l front-uid -x -d 'The only user id that may connect to --socket'
complete -c vtpm -l startup -x -a 'clear save deactivated' -d 'Type of the TPM_Startup that follows power-on'
complete -c vtpm -l hwinitpcr -x -d 'PCRs that start with the hardware TPMs value'
complete -c vtpm -l maintcmds -x -a '0 1' -d 'Whether the five maintenance commands answer'
complete -c vtpm -l locality -x -d 'Localities that clients with a label may use (security label of their socket, or uidNUMBER on systems without); *SUFFIX matches any label that ends so'
complete -c vtpm -l ek -x -a 'create none' -d 'Whether a new TPM gets its endorsement key at once'
complete -c vtpm -l nvlock -x -a '0 1' -d 'Whether a new TPM comes with its NV memory locked, so that permissions of areas count'
complete -c vtpm -l optin -x -a '0 1' -d 'Whether a new TPM comes enabled and activated'
complete -c vtpm -l loglevel -x -a 'error warning info debug' -d 'What is logged'
complete -c vtpm -l version -d 'Show the version and exit'
complete -c vtpm -l help -d 'Show this message and exit'
