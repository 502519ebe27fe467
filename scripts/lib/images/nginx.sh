# nginx: the layer of debian, untouched and so shared, and one on top with what installing
# nginx changed. Taking that difference is what a build does after each of its steps.

lower=$(base debian)
tree=$(new_tree)
for layer in $lower; do gzip -dc "$layer/blob" | tar -xp --numeric-owner -C "$tree"; done
names "$tree" | sort -z >"$work/before"
mknod -m 666 "$tree/dev/null" c 1 3

# From here on whatever changes gets a later ctime, the one time stamp nobody can set back.
sleep 0.1
touch "$work/start"
sleep 0.1
debs=$(packages "$tree/var/lib/dpkg/status" nginx)
install_debs "$debs" "$tree"
tidy "$tree"
rm "$tree/dev/null"

# The usual arrangement: pages from /usr/share/nginx/html, and the logs are the container's output.
rm "$tree/etc/nginx/sites-enabled/default"
cat >"$tree/etc/nginx/conf.d/default.conf" <<'END'
server {
    listen 80;
    location / {
        root /usr/share/nginx/html;
        index index.html;
    }
}
END
cat >"$tree/usr/share/nginx/html/index.html" <<'END'
<!DOCTYPE html>
<html>
<head><title>Welcome to nginx!</title></head>
<body>
<h1>Welcome to nginx!</h1>
<p>This page comes out of a container: its own root, its own network, its own processes, and the kernel you already had.</p>
</body>
</html>
END
ln -sf /dev/stdout "$tree/var/log/nginx/access.log"
ln -sf /dev/stderr "$tree/var/log/nginx/error.log"

# What is new or changed goes into the layer. What is gone would need a mark there, a whiteout
# (layers.sh has some), but packages add and do not take away.
names "$tree" | sort -z >"$work/after"
[ -z "$(comm -z -23 "$work/before" "$work/after" | tr '\0' ' ')" ] || die "installing nginx removed files of debian's"

tar=$work/nginx.tar
names "$tree" -cnewer "$work/start" | tar_names "$tree" "$tar"
upper=$(layer "$tar")
image nginx '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
    "Entrypoint":[],"Cmd":["nginx","-g","daemon off;"],"ExposedPorts":{"80/tcp":{}},"StopSignal":"SIGQUIT"}' $lower "$upper"
