# busybox: one static program under some 270 names, which in the layer are hard links to it.

tree=$(new_tree)
package=$(new_tree)
debs=$(packages_alone busybox-static)
unpack_debs "$debs" "$package"

mkdir -p "$tree/bin" "$tree/dev" "$tree/etc" "$tree/home" "$tree/root" "$tree/usr/bin" "$tree/var/www"
chmod 700 "$tree/root"
mkdir -m 1777 "$tree/tmp"
ln -s /run "$tree/var/run"
cp "$package"/*bin/busybox "$tree/bin/busybox"
"$tree/bin/busybox" --list | while read -r applet; do
    [ "$applet" = busybox ] || ln "$tree/bin/busybox" "$tree/bin/$applet"
done

# Users are lines in files: the kernel knows numbers only. `app` is also in staff and audio.
cat >"$tree/etc/passwd" <<'END'
root:x:0:0:root:/root:/bin/sh
nobody:x:65534:65534:nobody:/:/bin/false
app:x:1000:1000:an ordinary user:/home/app:/bin/sh
END
cat >"$tree/etc/group" <<'END'
root:x:0:
audio:x:29:app
staff:x:50:app
app:x:1000:
nogroup:x:65534:
END
mkdir "$tree/home/app"
chown 1000:1000 "$tree/home/app"

layer=$(layer_from_tree "$tree")
image busybox '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["sh"]}' "$layer"
