# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

_vtpmctl_guests() {
    local dir=$1 path guest
    for path in "$dir"/state/guests/* /etc/vtpm/guests/*.conf /etc/vtpm/guests.d/*.toml; do
        guest=${path##*/}
        [[ -e $path ]] && printf '%s\n' "${guest%.*}"
    done
}

_vtpmctl() {
    local -A commands=(
        ["vtpmctl"]="doctor guest hwtpm status up"
        ["vtpmctl guest"]="reset"
        ["vtpmctl hwtpm"]="power-cycle"
    )
    local -A options=(
        ["vtpmctl"]="--help"
        ["vtpmctl doctor"]="--dir --system --json --help"
        ["vtpmctl guest"]="--help"
        ["vtpmctl guest reset"]="--dir --help"
        ["vtpmctl hwtpm"]="--help"
        ["vtpmctl hwtpm power-cycle"]="--dir --help"
        ["vtpmctl status"]="--dir --system --json --watch --interval --help"
        ["vtpmctl up"]="--dir --guest --hwinitpcr --ek --owner-auth --srk-auth --loglevel --help"
    )
    local -A values=(
        ["vtpmctl doctor --dir"]="@folders"
        ["vtpmctl guest reset --dir"]="@folders"
        ["vtpmctl guest reset 0"]="@guests"
        ["vtpmctl hwtpm power-cycle --dir"]="@folders"
        ["vtpmctl status --dir"]="@folders"
        ["vtpmctl status --interval"]="@nothing"
        ["vtpmctl up --dir"]="@folders"
        ["vtpmctl up --guest"]="@guests"
        ["vtpmctl up --hwinitpcr"]="@nothing"
        ["vtpmctl up --ek"]="create none"
        ["vtpmctl up --owner-auth"]="@nothing"
        ["vtpmctl up --srk-auth"]="@nothing"
        ["vtpmctl up --loglevel"]="error info debug"
    )
    local current=${COMP_WORDS[COMP_CWORD]} path=vtpmctl wanted= option= dir= word kind
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
            mapfile -t COMPREPLY < <(compgen -W "$(_vtpmctl_guests "$dir")" -- "$current") ;;
        @nothing) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}
complete -F _vtpmctl vtpmctl
