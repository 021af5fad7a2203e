# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

_vtpmmgr_guests() {
    local dir=$1 path guest
    for path in "$dir"/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml; do
        guest=${path##*/}
        [[ -e $path ]] && printf '%s\n' "${guest%.*}"
    done
}

_vtpmmgr() {
    local -A commands=(

    )
    local -A options=(
        ["vtpmmgr"]="--config --state --socket --socket-mode --control --admin --tis --owner-auth --srk-auth --tpmdriver --tpmlocality --tpmirq --seal-pcrs --nv-index --freshness --accept-rollback --dry-run --xen-lists --loglevel --version --help"
    )
    local -A values=(
        ["vtpmmgr --config"]="@folders"
        ["vtpmmgr --state"]="@folders"
        ["vtpmmgr --socket"]="@files"
        ["vtpmmgr --socket-mode"]="@nothing"
        ["vtpmmgr --control"]="@files"
        ["vtpmmgr --admin"]="@files"
        ["vtpmmgr --tis"]="@folders"
        ["vtpmmgr --owner-auth"]="@nothing"
        ["vtpmmgr --srk-auth"]="@nothing"
        ["vtpmmgr --tpmdriver"]="tpm_tis"
        ["vtpmmgr --tpmlocality"]="@nothing"
        ["vtpmmgr --tpmirq"]="@nothing"
        ["vtpmmgr --seal-pcrs"]="@nothing"
        ["vtpmmgr --nv-index"]="@nothing"
        ["vtpmmgr --freshness"]="nv counter none"
        ["vtpmmgr --loglevel"]="error warning info debug"
    )
    local current=${COMP_WORDS[COMP_CWORD]} path=vtpmmgr wanted= option= dir= word kind
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
            mapfile -t COMPREPLY < <(compgen -W "$(_vtpmmgr_guests "$dir")" -- "$current") ;;
        @nothing) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}
complete -F _vtpmmgr vtpmmgr
