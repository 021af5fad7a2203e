# SPDX-License-Identifier: Apache-2.0
# Written by docs/completions.py from the options of the command.

_vtpm_guests() {
    local dir=$1 path guest
    for path in "$dir"/state/etc/guests.d/*.toml /etc/vtpm/guests.d/*.toml; do
        guest=${path##*/}
        [[ -e $path ]] && printf '%s\n' "${guest%.*}"
    done
}

_vtpm() {
    local -A commands=(

    )
    local -A options=(
        ["vtpm"]="--config --guest --state --socket --manager --uuid --name --control --front-uid --startup --hwinitpcr --maintcmds --locality --ek --nvlock --optin --loglevel --version --help"
    )
    local -A values=(
        ["vtpm --config"]="@folders"
        ["vtpm --guest"]="@guests"
        ["vtpm --state"]="@folders"
        ["vtpm --socket"]="@files"
        ["vtpm --manager"]="@files"
        ["vtpm --uuid"]="@nothing"
        ["vtpm --name"]="@nothing"
        ["vtpm --control"]="@files"
        ["vtpm --front-uid"]="@nothing"
        ["vtpm --startup"]="clear save deactivated"
        ["vtpm --hwinitpcr"]="@nothing"
        ["vtpm --maintcmds"]="0 1"
        ["vtpm --locality"]="@nothing"
        ["vtpm --ek"]="create none"
        ["vtpm --nvlock"]="0 1"
        ["vtpm --optin"]="0 1"
        ["vtpm --loglevel"]="error warning info debug"
    )
    local current=${COMP_WORDS[COMP_CWORD]} path=vtpm wanted= option= dir= word kind
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
            mapfile -t COMPREPLY < <(compgen -W "$(_vtpm_guests "$dir")" -- "$current") ;;
        @nothing) ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W "$kind" -- "$current") ;;
    esac
}
complete -F _vtpm vtpm
