# apt.sh: Debian packages into a directory instead of onto this machine. Sourced; wants $work.
#
# apt works out what is missing and fetches it from wherever this machine fetches its own
# packages, by its settings and keys. It is only shown another /var/lib/dpkg/status, the file
# that says what is installed: an empty one asks for a whole system, a tree's own for the rest.

# fetch COMMAND [ARGUMENT...]: has apt-get download packages; prints the directory they are in.
fetch() (
    cache=$(mktemp -d "$work/apt.XXXXXX")
    mkdir -p "$cache/archives/partial"
    cd "$cache/archives" || exit
    command=$1; shift
    set -- apt-get -qq --yes --no-install-recommends --download-only -o Dir::Cache="$PWD/.." \
        -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$command" "$@"

    # Lists that are missing or old (the package has a newer version by now) are fetched anew, once.
    "$@" >../log 2>&1 || {
        apt-get -qq update >../log 2>&1 && "$@" >../log 2>&1
    } || { cat ../log >&2; die "apt could not fetch packages"; }
    rm -rf partial lock
    echo "$cache/archives"
)

# packages STATUS NAME...: fetches them and all they need that STATUS lacks.
packages() ( status=$PWD/$1; shift; fetch install -o Dir::State::status="$status" "$@" )

# packages_alone NAME...: fetches just these.
packages_alone() ( fetch download "$@" )

# unpack_debs DIR TREE: what the packages hold and no more: none of their scripts is run.
unpack_debs() (
    for deb in "$1"/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" >"$work/deb.tar"
        tar --extract --file="$work/deb.tar" --directory="$2" --preserve-permissions --numeric-owner \
            --keep-directory-symlink --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
            --exclude='./usr/share/locale/*'
    done
)

# install_debs DIR TREE: installs the packages in the tree, with the tree's own dpkg.
install_debs() (
    mv "$1" "$2/debs"
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C SOURCE_DATE_EPOCH="$epoch" \
        DEBIAN_FRONTEND=noninteractive DEBCONF_NONINTERACTIVE_SEEN=true \
        chroot "$2" sh -c 'exec dpkg --force-unsafe-io --force-depends --log=/dev/null --path-exclude="/usr/share/doc/*" \
            --path-exclude="/usr/share/man/*" --path-exclude="/usr/share/locale/*" --install /debs/*.deb' \
        </dev/null >"$work/dpkg.log" 2>&1 || { cat "$work/dpkg.log" >&2; die "dpkg could not install packages"; }
    rm -r "$2/debs"
)

# tidy TREE: removes what differs from one installation to the next: logs, caches, backups.
tidy() (
    cd "$1" || exit
    find run tmp var/tmp var/log var/lib/apt/lists var/cache/apt var/cache/ldconfig -mindepth 1 ! -type d -delete
    rm -f etc/.pwd.lock etc/passwd- etc/group- etc/shadow- etc/gshadow- var/lib/dpkg/*-old \
        var/lib/dpkg/lock* var/lib/dpkg/triggers/Lock var/cache/debconf/*-old
)
