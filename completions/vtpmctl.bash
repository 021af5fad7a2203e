# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

_vtpmctl_guests() {
    local dir=$1 path guest
    for path in "$dir"/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml; do
        guest=${path##*/}
        [[ -e $path ]] && printf '%s\n' "${guest%.*}"
    done
}

_vtpmctl() {
    local -A commands=(
        ["vtpmctl"]="config doctor guest hwtpm reload status up"
        ["vtpmctl config"]="check"
        ["vtpmctl guest"]="add list remove reset restart start stop"
        ["vtpmctl hwtpm"]="power-cycle"
    )
    local -A options=(
        ["vtpmctl"]="--version --help"
        ["vtpmctl config"]="--help"
        ["vtpmctl config check"]="--config --dir --help"
        ["vtpmctl doctor"]="--dir --system --json --help"
        ["vtpmctl guest"]="--help"
        ["vtpmctl guest add"]="--uuid --group --label --admin --locality --hwinitpcr --startup --maintcmds --ek --dir --system --help"
        ["vtpmctl guest list"]="--json --dir --system --help"
        ["vtpmctl guest remove"]="--delete-state --yes --dir --system --help"
        ["vtpmctl guest reset"]="--dir --system --help"
        ["vtpmctl guest restart"]="--dir --system --help"
        ["vtpmctl guest start"]="--dir --system --help"
        ["vtpmctl guest stop"]="--dir --system --help"
        ["vtpmctl hwtpm"]="--help"
        ["vtpmctl hwtpm power-cycle"]="--dir --help"
        ["vtpmctl reload"]="--dir --system --help"
        ["vtpmctl status"]="--dir --system --json --watch --interval --help"
        ["vtpmctl up"]="--dir --guest --hwinitpcr --ek --owner-auth --srk-auth --watchdog --loglevel --help"
    )
    local -A values=(
        ["vtpmctl config check --config"]="@folders"
        ["vtpmctl config check --dir"]="@folders"
        ["vtpmctl doctor --dir"]="@folders"
        ["vtpmctl guest add --uuid"]="@nothing"
        ["vtpmctl guest add --group"]="@nothing"
        ["vtpmctl guest add --label"]="@nothing"
        ["vtpmctl guest add --locality"]="@nothing"
        ["vtpmctl guest add --hwinitpcr"]="@nothing"
        ["vtpmctl guest add --startup"]="clear save deactivated"
        ["vtpmctl guest add --ek"]="create none"
        ["vtpmctl guest add --dir"]="@folders"
        ["vtpmctl guest add 0"]="@guests"
        ["vtpmctl guest list --dir"]="@folders"
        ["vtpmctl guest remove --yes"]="@guests"
        ["vtpmctl guest remove --dir"]="@folders"
        ["vtpmctl guest remove 0"]="@guests"
        ["vtpmctl guest reset --dir"]="@folders"
        ["vtpmctl guest reset 0"]="@guests"
        ["vtpmctl guest restart --dir"]="@folders"
        ["vtpmctl guest restart 0"]="@guests"
        ["vtpmctl guest start --dir"]="@folders"
        ["vtpmctl guest start 0"]="@guests"
        ["vtpmctl guest stop --dir"]="@folders"
        ["vtpmctl guest stop 0"]="@guests"
        ["vtpmctl hwtpm power-cycle --dir"]="@folders"
        ["vtpmctl reload --dir"]="@folders"
        ["vtpmctl status --dir"]="@folders"
        ["vtpmctl status --interval"]="@nothing"
        ["vtpmctl up --dir"]="@folders"
        ["vtpmctl up --guest"]="@guests"
        ["vtpmctl up --hwinitpcr"]="@nothing"
        ["vtpmctl up --ek"]="create none"
        ["vtpmctl up --owner-auth"]="@nothing"
        ["vtpmctl up --srk-auth"]="@nothing"
        ["vtpmctl up --watchdog"]="@nothing"
        ["vtpmctl up --loglevel"]="error warning info debug"
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
