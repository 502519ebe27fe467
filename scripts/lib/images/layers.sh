# layers: what a layer can do to those below it and what a tar file can hold, each once, in
# ten layers. /bin/check in it looks at the outcome from inside: an `ok` or `not ok` a line.

need setcap=libcap2-bin

layers=$(base busybox)
add() { layers="$layers $1"; }
tar=$work/layers.tar

# 1. What the layers above will change.
tree=$(new_tree)
mkdir -p "$tree/t/opaque/sub" "$tree/t/dir-then-file" "$tree/bin"
for file in gone first file-then-dir opaque/old opaque/sub/old dir-then-file/old; do
    echo "lower $file" >"$tree/t/$file"
done
cat >"$tree/bin/check" <<'END'
#!/bin/sh
# check: is the root file system what the layers make of it?
status=0
is() {
    what=$1; shift
    if "$@"; then echo "ok $what"; else echo "not ok $what"; status=1; fi
}
holds() { [ "$(cat "$1" 2>/dev/null)" = "$2" ]; }
mode() { [ "$(stat -c "$1" "$2")" = "$3" ]; }

is 'a whiteout removes a file'                  [ ! -e /t/gone ]
is 'no whiteout shows as a file'                [ -z "$(find /t -name '.wh.*')" ]
is 'an opaque directory hides what was there'   [ "$(find /t/opaque ! -type d)" = /t/opaque/new ]
is 'a hard link reaches into a lower layer'     holds /t/second 'lower first'
is 'and is one file with its target'            [ /t/second -ef /t/first ]
is 'a parent left out is made'                  holds /usr/share/y 'y'
is 'a parent left out keeps what it holds'      holds /tmp/x 'x'
is 'and its mode'                               mode %a /tmp 1777
is 'a file becomes a directory'                 holds /t/file-then-dir/new 'upper'
is 'a directory becomes a file'                 holds /t/dir-then-file 'upper'
is 'a directory that is a symlink is written through' holds /var/run/lock/x 'x'
is 'setuid survives'                            mode %a /t/setuid 4755
is 'a device node is one'                       mode '%F %t:%T' /t/null 'character special file 1:3'
is 'a fifo is one'                              [ -p /t/fifo ]
is 'a name need not be UTF-8'                   holds "$(printf '/t/caf\351')" 'not UTF-8'
is 'an owner beyond octal fits'                 mode %u:%g /t/owner 3000000:3000000
is 'two gzip members are one tar file'          holds /t/members/b 'second'
is 'padding after the end is no error'          holds /t/padded 'padded'
exit $status
END
chmod 755 "$tree/bin/check"
add "$(layer_from_tree "$tree")"

# 2. Whiteouts: an empty file `.wh.NAME` removes NAME, `.wh..wh..opq` all that was in its directory.
tree=$(new_tree)
mkdir -p "$tree/t/opaque"
: >"$tree/t/.wh.gone"
: >"$tree/t/opaque/.wh..wh..opq"
echo 'new' >"$tree/t/opaque/new"
add "$(layer_from_tree "$tree")"

# 3. A hard link alone, its target a layer below: archived together, then the target taken out.
tree=$(new_tree)
mkdir "$tree/t"
echo 'lower first' >"$tree/t/first"
ln "$tree/t/first" "$tree/t/second"
printf 't/first\0t/second\0' | tar_names "$tree" "$tar"
tar --delete --file="$tar" t/first
add "$(layer "$tar")"

# 4. Files only, none of the directories they are in.
tree=$(new_tree)
mkdir -p "$tree/tmp" "$tree/usr/share"
echo x >"$tree/tmp/x"
echo y >"$tree/usr/share/y"
names "$tree" ! -type d | tar_names "$tree" "$tar"
add "$(layer "$tar")"

# 5. A file in place of a directory and the reverse.
tree=$(new_tree)
mkdir -p "$tree/t/file-then-dir"
echo upper >"$tree/t/file-then-dir/new"
echo upper >"$tree/t/dir-then-file"
add "$(layer_from_tree "$tree")"

# 6. Through a symlink: in busybox, /var/run is one to /run, which is not there yet.
tree=$(new_tree)
mkdir -p "$tree/run" "$tree/var/run/lock"
echo x >"$tree/var/run/lock/x"
printf 'run\0var/run/lock/x\0' | tar_names "$tree" "$tar"
add "$(layer "$tar")"

# 7. What is not plain: setuid, a capability (an extended attribute, in a PAX header), nodes, names, owners.
tree=$(new_tree)
mkdir "$tree/t"
for file in setuid capable owner; do echo "$file" >"$tree/t/$file"; done
chown 3000000:3000000 "$tree/t/owner"
chmod 4755 "$tree/t/setuid"
chmod 755 "$tree/t/capable"
setcap cap_net_bind_service+ep "$tree/t/capable"
mknod -m 666 "$tree/t/null" c 1 3
mkfifo -m 644 "$tree/t/fifo"
echo 'not UTF-8' >"$tree/t/$(printf 'caf\351')"
names "$tree" | tar_names "$tree" "$tar" --xattrs --xattrs-include=security.capability
add "$(layer "$tar")"

# 8. Two gzip members, as parallel compressors write them: gunzip takes one after the other.
tree=$(new_tree)
mkdir -p "$tree/t/members"
echo first >"$tree/t/members/a"
echo second >"$tree/t/members/b"
names "$tree" | tar_names "$tree" "$tar"
layer=$(layer "$tar")
{ head -c 700 "$tar" | gzip -n; tail -c +701 "$tar" | gzip -n; } >"$layer/blob"
add "$layer"

# 9. Zeros after the end of the archive. They count for the diff_id: one must read on to the last byte.
tree=$(new_tree)
mkdir "$tree/t"
echo padded >"$tree/t/padded"
names "$tree" | tar_names "$tree" "$tar"
head -c 100000 /dev/zero >>"$tar"
add "$(layer "$tar")"

image layers '{"Env":["PATH=/usr/bin:/bin"],"Cmd":["/bin/check"]}' $layers
