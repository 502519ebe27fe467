# debian: a whole distribution, made as an installer makes it: the essential packages are
# unpacked side by side, then installed properly from within. The release is this machine's own.

tree=$(new_tree)
: >"$work/nothing"
debs=$(packages "$work/nothing" '?essential' apt mount passwd tzdata usr-is-merged)

# /bin is /usr/bin and so on; the packages take that for granted, but none of them makes it so.
for dir in bin sbin lib lib64; do
    mkdir -p "$tree/usr/$dir"
    ln -s "usr/$dir" "$tree/$dir"
done
unpack_debs "$debs" "$tree"

# The scripts of the first packages already want the users of the base system and a /dev/null.
cp "$tree/usr/share/base-passwd/passwd.master" "$tree/etc/passwd"
cp "$tree/usr/share/base-passwd/group.master" "$tree/etc/group"
mknod -m 666 "$tree/dev/null" c 1 3

# Nor may a package start a service here. It stays in the image: nobody boots a container.
printf '#!/bin/sh\nexit 101\n' >"$tree/usr/sbin/policy-rc.d"
chmod 755 "$tree/usr/sbin/policy-rc.d"

install_debs "$debs" "$tree"
tidy "$tree"
rm "$tree/dev/null"
echo '# Name a mirror here; this image was made without one of its own.' >"$tree/etc/apt/sources.list"

layer=$(layer_from_tree "$tree")
image debian '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["bash"]}' "$layer"
