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
        ["vtpmctl"]="config doctor group guest hwtpm manager reload saa status up vtpm"
        ["vtpmctl config"]="check"
        ["vtpmctl group"]="activate delete list new quote recover-begin recover-finish register rekey show update"
        ["vtpmctl guest"]="add list remove reset restart start stop"
        ["vtpmctl hwtpm"]="power-cycle"
        ["vtpmctl manager"]="accept-rollback identity pcrs pubek rekey rekey-counter rekey-nv status"
        ["vtpmctl saa"]="keygen pubkey recover recover-begin register-begin register-finish show sign-config"
        ["vtpmctl vtpm"]="delete edit list new show"
    )
    local -A options=(
        ["vtpmctl"]="--version --help"
        ["vtpmctl config"]="--help"
        ["vtpmctl config check"]="--config --dir --help"
        ["vtpmctl doctor"]="--dir --system --json --help"
        ["vtpmctl group"]="--help"
        ["vtpmctl group activate"]="--blob --out --json --dir --system --help"
        ["vtpmctl group delete"]="--yes --json --dir --system --help"
        ["vtpmctl group list"]="--json --dir --system --help"
        ["vtpmctl group new"]="--agent-pub --label --privacy-ca --out --json --dir --system --help"
        ["vtpmctl group quote"]="--nonce --pcrs --json --dir --system --help"
        ["vtpmctl group recover-begin"]="--identity --challenge --out --json --dir --system --help"
        ["vtpmctl group recover-finish"]="--json --dir --system --help"
        ["vtpmctl group register"]="--request --out --json --dir --system --help"
        ["vtpmctl group rekey"]="--json --dir --system --help"
        ["vtpmctl group show"]="--json --dir --system --help"
        ["vtpmctl group update"]="--raw --json --dir --system --help"
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
        ["vtpmctl manager"]="--help"
        ["vtpmctl manager accept-rollback"]="--owner-auth --srk-auth --yes --json --dir --system --help"
        ["vtpmctl manager identity"]="--label --privacy-ca --out --json --dir --system --help"
        ["vtpmctl manager pcrs"]="--pcrs --json --dir --system --help"
        ["vtpmctl manager pubek"]="--out --json --dir --system --help"
        ["vtpmctl manager rekey"]="--json --dir --system --help"
        ["vtpmctl manager rekey-counter"]="--json --dir --system --help"
        ["vtpmctl manager rekey-nv"]="--json --dir --system --help"
        ["vtpmctl manager status"]="--json --dir --system --help"
        ["vtpmctl reload"]="--dir --system --help"
        ["vtpmctl saa"]="--help"
        ["vtpmctl saa keygen"]="--out --passphrase --json --help"
        ["vtpmctl saa pubkey"]="--key --passphrase --out --json --help"
        ["vtpmctl saa recover"]="--key --passphrase --state --request --escrow --config --pcrs-file --out --json --help"
        ["vtpmctl saa recover-begin"]="--key --passphrase --group --identity --ek --pcrs --out --state --json --help"
        ["vtpmctl saa register-begin"]="--key --passphrase --group --pcrs --out --state --json --help"
        ["vtpmctl saa register-finish"]="--key --passphrase --state --answer --aik --config --pcrs-file --out --json --help"
        ["vtpmctl saa show"]="--agent-pub --json --help"
        ["vtpmctl saa sign-config"]="--key --passphrase --group --sequence --config --pcrs-file --label --kernel --out --json --help"
        ["vtpmctl status"]="--dir --system --json --watch --interval --help"
        ["vtpmctl up"]="--dir --guest --hwinitpcr --ek --owner-auth --srk-auth --watchdog --loglevel --help"
        ["vtpmctl vtpm"]="--help"
        ["vtpmctl vtpm delete"]="--yes --json --dir --system --help"
        ["vtpmctl vtpm edit"]="--admin --no-admin --json --dir --system --help"
        ["vtpmctl vtpm list"]="--group --json --dir --system --help"
        ["vtpmctl vtpm new"]="--group --uuid --json --dir --system --help"
        ["vtpmctl vtpm show"]="--json --dir --system --help"
    )
    local -A values=(
        ["vtpmctl config check --config"]="@folders"
        ["vtpmctl config check --dir"]="@folders"
        ["vtpmctl doctor --dir"]="@folders"
        ["vtpmctl group activate --blob"]="@files"
        ["vtpmctl group activate --out"]="@files"
        ["vtpmctl group activate --dir"]="@folders"
        ["vtpmctl group activate 0"]="@nothing"
        ["vtpmctl group delete --yes"]="@nothing"
        ["vtpmctl group delete --dir"]="@folders"
        ["vtpmctl group delete 0"]="@nothing"
        ["vtpmctl group list --dir"]="@folders"
        ["vtpmctl group list 0"]="@nothing"
        ["vtpmctl group new --agent-pub"]="@files"
        ["vtpmctl group new --label"]="@nothing"
        ["vtpmctl group new --privacy-ca"]="@files"
        ["vtpmctl group new --out"]="@folders"
        ["vtpmctl group new --dir"]="@folders"
        ["vtpmctl group quote --nonce"]="@nothing"
        ["vtpmctl group quote --pcrs"]="@nothing"
        ["vtpmctl group quote --dir"]="@folders"
        ["vtpmctl group quote 0"]="@nothing"
        ["vtpmctl group recover-begin --identity"]="@files"
        ["vtpmctl group recover-begin --challenge"]="@files"
        ["vtpmctl group recover-begin --out"]="@files"
        ["vtpmctl group recover-begin --dir"]="@folders"
        ["vtpmctl group recover-begin 0"]="@nothing"
        ["vtpmctl group recover-finish --dir"]="@folders"
        ["vtpmctl group recover-finish 0"]="@nothing"
        ["vtpmctl group recover-finish 1"]="@files"
        ["vtpmctl group register --request"]="@files"
        ["vtpmctl group register --out"]="@files"
        ["vtpmctl group register --dir"]="@folders"
        ["vtpmctl group register 0"]="@nothing"
        ["vtpmctl group rekey --dir"]="@folders"
        ["vtpmctl group rekey 0"]="@nothing"
        ["vtpmctl group show --dir"]="@folders"
        ["vtpmctl group show 0"]="@nothing"
        ["vtpmctl group update --dir"]="@folders"
        ["vtpmctl group update 0"]="@nothing"
        ["vtpmctl group update 1"]="@files"
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
        ["vtpmctl manager accept-rollback --owner-auth"]="@nothing"
        ["vtpmctl manager accept-rollback --srk-auth"]="@nothing"
        ["vtpmctl manager accept-rollback --yes"]="@nothing"
        ["vtpmctl manager accept-rollback --dir"]="@folders"
        ["vtpmctl manager identity --label"]="@nothing"
        ["vtpmctl manager identity --privacy-ca"]="@files"
        ["vtpmctl manager identity --out"]="@files"
        ["vtpmctl manager identity --dir"]="@folders"
        ["vtpmctl manager pcrs --pcrs"]="@nothing"
        ["vtpmctl manager pcrs --dir"]="@folders"
        ["vtpmctl manager pubek --out"]="@files"
        ["vtpmctl manager pubek --dir"]="@folders"
        ["vtpmctl manager rekey --dir"]="@folders"
        ["vtpmctl manager rekey-counter --dir"]="@folders"
        ["vtpmctl manager rekey-nv --dir"]="@folders"
        ["vtpmctl manager status --dir"]="@folders"
        ["vtpmctl reload --dir"]="@folders"
        ["vtpmctl saa keygen --out"]="@files"
        ["vtpmctl saa keygen --passphrase"]="@nothing"
        ["vtpmctl saa pubkey --key"]="@files"
        ["vtpmctl saa pubkey --passphrase"]="@nothing"
        ["vtpmctl saa pubkey --out"]="@files"
        ["vtpmctl saa recover --key"]="@files"
        ["vtpmctl saa recover --passphrase"]="@nothing"
        ["vtpmctl saa recover --state"]="@files"
        ["vtpmctl saa recover --request"]="@files"
        ["vtpmctl saa recover --escrow"]="@files"
        ["vtpmctl saa recover --config"]="@nothing"
        ["vtpmctl saa recover --pcrs-file"]="@files"
        ["vtpmctl saa recover --out"]="@files"
        ["vtpmctl saa recover-begin --key"]="@files"
        ["vtpmctl saa recover-begin --passphrase"]="@nothing"
        ["vtpmctl saa recover-begin --group"]="@nothing"
        ["vtpmctl saa recover-begin --identity"]="@files"
        ["vtpmctl saa recover-begin --ek"]="@files"
        ["vtpmctl saa recover-begin --pcrs"]="@nothing"
        ["vtpmctl saa recover-begin --out"]="@files"
        ["vtpmctl saa recover-begin --state"]="@files"
        ["vtpmctl saa register-begin --key"]="@files"
        ["vtpmctl saa register-begin --passphrase"]="@nothing"
        ["vtpmctl saa register-begin --group"]="@nothing"
        ["vtpmctl saa register-begin --pcrs"]="@nothing"
        ["vtpmctl saa register-begin --out"]="@files"
        ["vtpmctl saa register-begin --state"]="@files"
        ["vtpmctl saa register-finish --key"]="@files"
        ["vtpmctl saa register-finish --passphrase"]="@nothing"
        ["vtpmctl saa register-finish --state"]="@files"
        ["vtpmctl saa register-finish --answer"]="@files"
        ["vtpmctl saa register-finish --aik"]="@files"
        ["vtpmctl saa register-finish --config"]="@nothing"
        ["vtpmctl saa register-finish --pcrs-file"]="@files"
        ["vtpmctl saa register-finish --out"]="@files"
        ["vtpmctl saa show --agent-pub"]="@files"
        ["vtpmctl saa show 0"]="@files"
        ["vtpmctl saa sign-config --key"]="@files"
        ["vtpmctl saa sign-config --passphrase"]="@nothing"
        ["vtpmctl saa sign-config --group"]="@nothing"
        ["vtpmctl saa sign-config --sequence"]="@nothing"
        ["vtpmctl saa sign-config --config"]="@nothing"
        ["vtpmctl saa sign-config --pcrs-file"]="@files"
        ["vtpmctl saa sign-config --label"]="@nothing"
        ["vtpmctl saa sign-config --kernel"]="@nothing"
        ["vtpmctl saa sign-config --out"]="@files"
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
        ["vtpmctl vtpm delete --yes"]="@nothing"
        ["vtpmctl vtpm delete --dir"]="@folders"
        ["vtpmctl vtpm delete 0"]="@nothing"
        ["vtpmctl vtpm edit --dir"]="@folders"
        ["vtpmctl vtpm edit 0"]="@nothing"
        ["vtpmctl vtpm list --group"]="@nothing"
        ["vtpmctl vtpm list --dir"]="@folders"
        ["vtpmctl vtpm new --group"]="@nothing"
        ["vtpmctl vtpm new --uuid"]="@nothing"
        ["vtpmctl vtpm new --dir"]="@folders"
        ["vtpmctl vtpm show --dir"]="@folders"
        ["vtpmctl vtpm show 0"]="@nothing"
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
