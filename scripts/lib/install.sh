# install.sh: the commands a script needs, installed where they are missing. Sourced; wants $lib,
# the directory this file is in.

PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need COMMAND=PACKAGE...: afterwards each command is there, or the script has ended. What only
# "recommends" another package comes without it, so name both: need cc='gcc libc6-dev'.
need() {
    missing='' why=''
    for pair; do
        command -v "${pair%%=*}" >/dev/null && continue
        missing="$missing ${pair#*=}" why="$why ${pair%%=*}"
    done
    [ -n "$missing" ] || return 0

    echo "${0##*/}: installing$missing (for$why)" >&2
    if [ "$(id -u)" = 0 ]; then
        "$lib/apt-quietly" $missing
    elif command -v sudo >/dev/null; then
        sudo "$lib/apt-quietly" $missing
    else
        echo "${0##*/}: cannot: neither root nor sudo here. As root: apt-get install$missing" >&2
        exit 1
    fi
}
