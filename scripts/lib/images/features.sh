# features: forty small images on one base, each with one family of what a tar or a layer can hold, and a few real
# packages, to compare unpackers by. All stand in one layout, which keeps what they share once; the name of each is a
# tag: `umoci unpack --image features:names bundle`, `podman pull oci:features:names`.

need setcap=libcap2-bin setfattr=attr zstd=zstd

layout=$(new_layout)
entries=$(mktemp "$work/entries.XXXXXX")
tar=$work/features.tar

# begin: a new tree for the next layer. All is done from within it.
begin() { tree=$(cd "$top" && new_tree) && cd "$top/$tree"; }
top=$PWD

# settle: the same times everywhere, where times are not the matter.
settle() { find . -exec touch --no-dereference --date="@$epoch" {} +; }

# pack FORMAT [TAR-OPTION...] <NAMES: a layer of just these names, in this order, in one of tar's formats.
pack() (
    format=$1; shift
    case $format in posix) set -- "$@" --pax-option=exthdr.name=%d/PaxHeaders/%f,delete=atime,delete=ctime ;; esac
    cd "$top"
    tar --create --file="$tar" --directory="$tree" --format="$format" --numeric-owner --no-recursion --null \
        --files-from=- "$@"
    layer "$tar"
)
all() { find . -mindepth 1 -printf '%P\0' | sort -z; }
these() { printf '%s\0' "$@"; }

# feature NAME LAYER...: the image, on top of the base.
feature() (
    name=$1; shift
    cd "$top"
    for layer; do [ -s "$layer/diff_id" ] || die "features: $name was not packed"; done
    manifest "$layout" '{"Cmd":["true"]}' "$ground" "$@" |
        jq -c --arg name "$name" '. + {annotations: {"org.opencontainers.image.ref.name": $name}}' >>"$entries"
)

# What all stand on: a layer with something to hide, to link to and to change. Nothing in it can be run.
begin
mkdir -p lower/dir/sub lower/full/sub lower/turned etc tmp/of var/own
for file in gone kept linked changed dir/a dir/sub/b full/a full/sub/b turned/into other; do echo "$file" >lower/$file; done
ln -s /lower/dir lower/link
ln -s /run var/run
ln lower/linked lower/twin
chown 7:8 lower/kept var/own && chmod 2750 var/own && chmod 1777 tmp && chmod 640 lower/changed
setfattr -n user.lower -v yes var/own
settle
ground=$(all | pack posix --xattrs)

# The formats, oldest first. Only the last two know names of any length.
plain() { mkdir -p d/e; echo 1 >d/file; echo 2 >d/e/f; ln -s ../d d/link; ln d/file d/hard; : >d/empty; settle; }
long() {
    plain
    name=$(printf '%0120d' 7)
    mkdir -p "long/$name/$name"
    echo long >"long/$name/$name/$name"
    ln -s "$name/$name/$name" long/symlink
    ln "long/$name/$name/$name" "long/$name/hard-$name"
    settle
}
begin; plain;                                                             feature v7 "$(all | pack v7)"
begin; plain; mkdir -p "$(printf '%080d/%060d' 1 2)"
    echo x >"$(printf '%080d/%060d/%050d' 1 2 3)"; settle;                feature ustar "$(all | pack ustar)"
begin; long;                                                              feature oldgnu "$(all | pack oldgnu)"
begin; long;                                                              feature gnu "$(all | pack gnu)"
begin; long;                                                              feature pax "$(all | pack posix)"

# Names are bytes: only / and the zero byte cannot be in one.
begin
mkdir names && cd names
for name in ' ' '-rf' '*' '...' '..a' 'a\b' '"' "it's" '%41' 'ü' "$(printf 'u\314\210')" "$(printf 'caf\351')" \
    "$(printf '\377\376')" "$(printf 'tab\there')" "$(printf 'new\nline')" "$(printf '\033[31m')" 'trailing ' '.whx' 'x.wh.y'
do
    echo "$name" >"./$name"
    mkdir "./$name.d"
    ln -s "./$name" "./$name.l"
done
cd .. && settle
feature names "$(all | pack posix)"
feature names-gnu "$(all | pack gnu)"

# A component of 255 bytes, and a path just short of what the kernel takes at once.
begin
component=$(printf '%0255d' 5) deep=$component
while [ ${#deep} -lt 3500 ]; do deep=$deep/$component; done
mkdir -p "$deep"
echo far >"$deep/file" && ln "$deep/file" near && ln -s "$deep/file" link && settle
feature long-names "$(all | pack posix)"
feature long-names-gnu "$(all | pack gnu)"

# Sparse files: holes in front, between (more pieces than a header has room for) and behind; nothing but a hole.
begin
mkdir sparse
for piece in $(seq 1 2 60); do echo "piece $piece" | dd of=sparse/many bs=64k seek="$piece" conv=notrunc status=none; done
truncate -s 8M sparse/many
truncate -s 3M sparse/hole
echo end | dd of=sparse/end bs=1M seek=2 status=none
: >sparse/empty
settle
feature sparse-gnu "$(all | pack gnu --sparse)"
for version in 0.0 0.1 1.0; do feature "sparse-pax-$version" "$(all | pack posix --sparse --sparse-version=$version)"; done

# Hard links: in one layer, whatever is linked; to a lower layer's file, archived together and then taken out.
begin
mkdir h
echo x >h/file && ln -s file h/symlink && mkfifo h/fifo && mknod h/null c 1 3
for kind in file symlink fifo null; do ln h/$kind "h/$kind-2"; ln h/$kind "$kind-3"; done
settle
feature hard-links "$(all | pack posix)"
begin
mkdir lower && echo linked >lower/linked && ln lower/linked lower/up && ln lower/linked lower/upper && settle
layer=$(all | pack posix)
cd "$top" && tar --delete --file="$tar" lower/linked
feature hard-links-lower "$(layer "$tar")"

# Nodes; modes with all their bits; owners.
begin
mkdir n
mknod -m 666 n/null c 1 3 && mknod -m 600 n/disk b 8 17 && mknod n/large c 4095 1048575 && mkfifo -m 620 n/fifo
chown 5:6 n/* && settle
feature nodes "$(all | pack posix)"
begin
for mode in 0 4 40 111 200 400 644 755 777 1777 2755 3770 4755 5711 6755 7777; do
    echo "$mode" >"f$mode" && mkdir "d$mode" && echo in >"d$mode/f"
    chown "1$mode:2$mode" "f$mode" "d$mode"
    chmod "$mode" "f$mode" "d$mode"
done
settle
feature modes "$(all | pack posix)"

# Ids that octal has no room for: base-256, or PAX.
begin
for id in 0 65534 2097151 2097152 3000000 2147483647 2147483648 4294967294; do
    echo $id >f$id && mkdir d$id && ln -s f$id l$id && chown -h $id:$((4294967294 - id)) f$id d$id l$id
done
settle
feature ids-gnu "$(all | pack gnu)"
feature ids-pax "$(all | pack posix)"

# Times: before 1970, with a fraction, beyond 32 bits; of directories and links, too.
begin
mkdir times
for time in 0 1 -1 -1000000000.25 1234567890.123456789 2147483648 4294967296 9999999999.999999999; do
    echo $time >times/f$time && mkdir times/d$time && echo in >times/d$time/f && ln -s x times/l$time
    touch -h --date="@$time" times/d$time/f times/f$time times/d$time times/l$time
done
touch --date=@1000000000.5 times .
feature times-pax "$(all | pack posix)"
feature times-gnu "$(all | pack gnu)"

# Extended attributes: capabilities (of version 3, too: for the root of one user namespace), any bytes, access lists.
attributes="--xattrs --xattrs-include=security.capability --xattrs-include=user.* --xattrs-include=trusted.*"
begin
for file in v2 v3 owned; do echo $file >$file && chmod 755 $file; done
chown 1:2 owned
setcap cap_net_raw,cap_net_admin+ep v2
setcap cap_chown+eip owned
setfattr -n security.capability -v 0x0100000300200000000000000000000000000000a0860100 v3
settle
feature capabilities "$(all | pack posix $attributes)"
begin
mkdir x && echo x >x/file && ln -s file x/link && mkfifo x/fifo
for name in x x/file; do
    setfattr -n user.text -v 'a=b' $name
    setfattr -n user.bytes -v 0x000a3d0affc3280061 $name
    setfattr -n user.long -v "$(printf '%01000d' 1)" $name
done
for name in x x/file x/link x/fifo; do setfattr -h -n trusted.mine -v $name $name; done
settle
feature xattrs "$(all | pack posix $attributes)"
begin
mkdir acl acl/inherits && echo x >acl/file
list=0x0200000001000700ffffffff020006000500000004000500ffffffff10000700ffffffff20000500ffffffff
setfattr -n system.posix_acl_access -v $list acl/file
setfattr -n system.posix_acl_default -v $list acl/inherits
echo x >acl/inherits/file && setfattr -x system.posix_acl_access acl/inherits/file && chmod 644 acl/inherits/file
settle
feature access-lists "$(all | pack posix --xattrs '--xattrs-include=system.posix_acl_*')"

# Whiteouts: of files, links, whole directories, of what is not there; all of a directory; of what the layer has itself.
begin
mkdir -p lower/dir/sub
for name in lower/.wh.gone lower/.wh.link lower/.wh.turned lower/.wh.nothing lower/dir/.wh.a lower/dir/sub/.wh.b; do : >$name; done
settle
feature whiteouts "$(all | pack posix)"
feature whiteouts-without-parents "$(find . -name '.wh.*' -printf '%P\0' | sort -z | pack posix)"
begin
mkdir -p lower/full lower/dir && : >lower/full/.wh..wh..opq && : >lower/dir/.wh..wh..opq && echo new >lower/full/new && settle
feature opaque "$(all | pack posix)"
feature opaque-last "$(these lower lower/full lower/full/new lower/full/.wh..wh..opq | pack posix)"
begin
mkdir -p lower/dir
for name in gone own1 own2 dir; do : >lower/.wh.$name; done
for name in gone own1 own2 dir/new; do echo own >lower/$name; done
settle
feature whiteouts-of-own-before "$(these lower lower/.wh.gone lower/.wh.own1 lower/.wh.dir lower/gone lower/own1 lower/dir lower/dir/new | pack posix)"
feature whiteouts-of-own-after "$(these lower lower/gone lower/own2 lower/.wh.gone lower/.wh.own2 | pack posix)"
begin; mkdir lower && : >lower/.wh.dir && : >lower/.wh.gone && settle; away=$(all | pack posix)
begin; mkdir -p lower/dir && echo again >lower/dir/a && echo again >lower/gone && settle
feature away-and-back "$away" "$(all | pack posix)"

# One kind of thing in place of another; other attributes alone; directories that no entry names.
begin
mkdir -p lower/gone lower/link
echo file >lower/dir && ln -s kept lower/turned && ln -s nowhere lower/kept && echo in >lower/gone/in && echo in >lower/link/in
settle
feature other-kinds "$(all | pack posix)"
begin
mkdir -p lower/dir var/own tmp
echo changed >lower/changed && chmod 600 lower/changed && chown 9:9 lower/changed lower/dir && chmod 711 lower/dir
setfattr -n user.upper -v yes var/own && settle
touch --date=@1700000000.75 lower/dir tmp
feature attributes "$(all | pack posix --xattrs)"
begin
mkdir -p tmp/of/x var/own/x new/a/b && echo x >tmp/of/x/f && echo x >var/own/x/f && echo x >new/a/b/c && settle
feature parents-unnamed "$(find . ! -type d -printf '%P\0' | sort -z | pack posix)"
begin
mkdir -p run var/run/lock && echo x >var/run/lock/x && settle
feature through-a-link "$(these run var/run/lock var/run/lock/x | pack posix)"

# The same name more than once: the last one is it.
begin
echo first >twice && mkdir dir && chmod 700 dir && echo x >dir/kept && settle && all >"$top/$work/names"
pack posix <"$top/$work/names" >/dev/null
echo second >twice && chmod 755 dir && settle && cd "$top"
tar --append --file="$tar" --directory="$tree" --format=posix --numeric-owner --no-recursion twice dir
feature twice "$(layer "$tar")"

# How it is wrapped: not at all, in two members, padded; zstd in two frames. A header for all that follows.
begin; plain; layer=$(all | pack posix); cd "$top"
halves() { head -c 700 "$tar" | $1; tail -c +701 "$tar" | $1; }
halves 'gzip -n' >"$layer/blob";                                           feature gzip-members "$layer"
layer=$(layer "$tar" zstd); halves 'zstd -qc' >"$layer/blob";              feature zstd-frames "$layer"
head -c 100000 /dev/zero >>"$tar";                                        feature padded "$(layer "$tar")"
layer=$(layer "$tar"); cp "$tar" "$layer/blob"; echo >"$layer/compression"
feature uncompressed "$layer"
cd "$top/$tree"; feature global-header "$(all | pack posix --pax-option=comment=for-all)"
begin; feature empty "$(all | pack posix)"

# Many: layers, files in one directory.
layers=
for number in $(seq 30); do begin; mkdir lower; echo $number >lower/changed; echo $number >$number; settle; layers="$layers $(all | pack posix)"; done
feature many-layers $layers
begin; mkdir many && cd many && seq 2000 | split -l 1 -a 4 - file && cd .. && settle
feature many-files "$(all | pack posix)"

# Real packages. (What dpkg's scripts would do, the one capability, is done by hand.)
cd "$top"
debs=$(packages_alone iputils-ping sudo ca-certificates perl-base python3.11-minimal libpython3.11-minimal locales)
for package in iputils-ping sudo ca-certificates perl-base python locales; do
    begin; cd "$top"
    chosen=$(new_tree)
    case $package in python) ln "$debs"/*python3* "$chosen" ;; *) ln "$debs/${package}"_* "$chosen" ;; esac
    unpack_debs "$chosen" "$tree"
    [ $package != iputils-ping ] || setcap cap_net_raw+ep "$(find "$tree" -name ping -type f)"
    cd "$tree"; feature "$package" "$(all | pack posix $attributes)"
done

cd "$top"
jq -sc --arg type "$index_type" '{schemaVersion: 2, mediaType: $type, manifests: .}' "$entries" >"$layout/index.json"
[ ! -e features ] || mv features "$(mktemp -d "$work/old.XXXXXX")"
mv "$layout" features
