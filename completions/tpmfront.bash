# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

_tpmfront_guests() {
    local dir=$1 path guest
    for path in "$dir"/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml; do
        guest=${path##*/}
        [[ -e $path ]] && printf '%s\n' "${guest%.*}"
    done
}

_tpmfront() {
    local -A commands=(
        ["tpmfront"]="swtpm-compat vtpm-proxy"
        ["tpmfront swtpm-compat"]="chardev socket"
    )
    local -A options=(
        ["tpmfront"]="--config --guest --tpm --socket-mode --ctrl --ctrl-mode --tcp --tcp-any-address --backend --uuid --name --control --loglevel --version --help"
        ["tpmfront swtpm-compat"]="--help"
        ["tpmfront swtpm-compat chardev"]="--tpmstate --ctrl --chardev -c --fd -f --vtpm-proxy --flags --locality --key --migration-key --migration --log --pid --daemon -d --runas -r --chroot -R --seccomp --tpm2 --profile --print-profiles --print-info --pcap --print-capabilities --print-states --help -h"
        ["tpmfront swtpm-compat socket"]="--tpmstate --ctrl --server --port -p --fd -f --terminate -t --flags --locality --key --migration-key --migration --log --pid --daemon -d --runas -r --chroot -R --seccomp --tpm2 --profile --print-profiles --print-info --pcap --print-capabilities --print-states --help -h"
        ["tpmfront vtpm-proxy"]="--config --guest --backend --uuid --name --locality --device --user --loglevel --help"
    )
    local -A values=(
        ["tpmfront --config"]="@folders"
        ["tpmfront --guest"]="@guests"
        ["tpmfront --tpm"]="@nothing"
        ["tpmfront --socket-mode"]="@nothing"
        ["tpmfront --ctrl"]="@files"
        ["tpmfront --ctrl-mode"]="@nothing"
        ["tpmfront --tcp"]="@nothing"
        ["tpmfront --backend"]="@files"
        ["tpmfront --uuid"]="@nothing"
        ["tpmfront --name"]="@nothing"
        ["tpmfront --control"]="@files"
        ["tpmfront --loglevel"]="error warning info debug"
        ["tpmfront swtpm-compat chardev --tpmstate"]="@nothing"
        ["tpmfront swtpm-compat chardev --ctrl"]="@nothing"
        ["tpmfront swtpm-compat chardev --chardev"]="@nothing"
        ["tpmfront swtpm-compat chardev -c"]="@nothing"
        ["tpmfront swtpm-compat chardev --fd"]="@nothing"
        ["tpmfront swtpm-compat chardev -f"]="@nothing"
        ["tpmfront swtpm-compat chardev --flags"]="@nothing"
        ["tpmfront swtpm-compat chardev --locality"]="@nothing"
        ["tpmfront swtpm-compat chardev --key"]="@nothing"
        ["tpmfront swtpm-compat chardev --migration-key"]="@nothing"
        ["tpmfront swtpm-compat chardev --migration"]="@nothing"
        ["tpmfront swtpm-compat chardev --log"]="@nothing"
        ["tpmfront swtpm-compat chardev --pid"]="@nothing"
        ["tpmfront swtpm-compat chardev --runas"]="@nothing"
        ["tpmfront swtpm-compat chardev -r"]="@nothing"
        ["tpmfront swtpm-compat chardev --chroot"]="@nothing"
        ["tpmfront swtpm-compat chardev -R"]="@nothing"
        ["tpmfront swtpm-compat chardev --seccomp"]="@nothing"
        ["tpmfront swtpm-compat chardev --profile"]="@nothing"
        ["tpmfront swtpm-compat chardev --print-info"]="@nothing"
        ["tpmfront swtpm-compat chardev --pcap"]="@nothing"
        ["tpmfront swtpm-compat socket --tpmstate"]="@nothing"
        ["tpmfront swtpm-compat socket --ctrl"]="@nothing"
        ["tpmfront swtpm-compat socket --server"]="@nothing"
        ["tpmfront swtpm-compat socket --port"]="@nothing"
        ["tpmfront swtpm-compat socket -p"]="@nothing"
        ["tpmfront swtpm-compat socket --fd"]="@nothing"
        ["tpmfront swtpm-compat socket -f"]="@nothing"
        ["tpmfront swtpm-compat socket --flags"]="@nothing"
        ["tpmfront swtpm-compat socket --locality"]="@nothing"
        ["tpmfront swtpm-compat socket --key"]="@nothing"
        ["tpmfront swtpm-compat socket --migration-key"]="@nothing"
        ["tpmfront swtpm-compat socket --migration"]="@nothing"
        ["tpmfront swtpm-compat socket --log"]="@nothing"
        ["tpmfront swtpm-compat socket --pid"]="@nothing"
        ["tpmfront swtpm-compat socket --runas"]="@nothing"
        ["tpmfront swtpm-compat socket -r"]="@nothing"
        ["tpmfront swtpm-compat socket --chroot"]="@nothing"
        ["tpmfront swtpm-compat socket -R"]="@nothing"
        ["tpmfront swtpm-compat socket --seccomp"]="@nothing"
        ["tpmfront swtpm-compat socket --profile"]="@nothing"
        ["tpmfront swtpm-compat socket --print-info"]="@nothing"
        ["tpmfront swtpm-compat socket --pcap"]="@nothing"
        ["tpmfront vtpm-proxy --config"]="@folders"
        ["tpmfront vtpm-proxy --guest"]="@guests"
        ["tpmfront vtpm-proxy --backend"]="@files"
        ["tpmfront vtpm-proxy --uuid"]="@nothing"
        ["tpmfront vtpm-proxy --name"]="@nothing"
        ["tpmfront vtpm-proxy --locality"]="@nothing"
        ["tpmfront vtpm-proxy --device"]="@files"
        ["tpmfront vtpm-proxy --user"]="@nothing"
        ["tpmfront vtpm-proxy --loglevel"]="error warning info debug"
    )
    local current=${COMP_WORDS[COMP_CWORD]} path=tpmfront wanted= option= dir= word kind
    local -i index place=0
    [[ $current == '=' ]] && current=
    # The words before the cursor: subcommands lead down, an option may want the next word.
    for ((index = 1; index < COMP_CWORD; index++)); do
        word=${COMP_WORDS[index]}
        if [[ $word == '=' && $wanted ]]; then
            continue
        elif [[ $wanted ]]; then
            [[ $option == --dir ]] && dir=${word/#\~/$HOME}
            wanted=
        elif [[ $word == -* ]]; then
            option=$word wanted=${values["$path $word"]-}
        elif [[ " ${commands[$path]-} " == *" $word "* ]]; then
            path+=" $word"
        else
            place+=1
        fi
    done
    COMPREPLY=()
    if [[ $wanted ]]; then
        kind=$wanted
    elif [[ $current == -* ]]; then
        kind=${options[$path]-}
    elif [[ ${commands[$path]-} ]]; then
        kind=${commands[$path]}
    else
        kind=${values["$path $place"]-@nothing}
    fi
    case $kind in
        @folders)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
        @files)
            compopt -o filenames 2>/dev/null
            mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
        @guests)
            : "${dir:=${XDG_STATE_HOME:-$HOME/.local/state}/vtpm}"
            mapfile -t COMPREPLY < <(compgen -W "$(_tpmfront_guests "$dir")" -- "$current") ;;
        @nothing) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}
complete -F _tpmfront tpmfront
