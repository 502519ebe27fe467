# tool: an image with something in every field of its config, for tests. It says what came of them.

lower=$(base busybox)
tree=$(new_tree)
mkdir "$tree/bin"
cat >"$tree/bin/entry" <<'END'
#!/bin/sh
# entry: prints what it was run with, in a stable form, one fact a line.
echo "argc=$#"
for arg; do echo "arg=$arg"; done
echo "uid=$(id -u) gid=$(id -g) groups=$(id -G | tr ' ' '\n' | sort -n | paste -sd ' ' -)"
echo "pwd=$(pwd)"
env | sort | sed 's/^/env /'
END
chmod 755 "$tree/bin/entry"
upper=$(layer_from_tree "$tree")

# The user is a name and a group, which only the image's own /etc/passwd and /etc/group can
# turn into numbers. The working directory is not in the image: the runtime makes it.
image tool '{
    "User": "app:staff",
    "WorkingDir": "/work/dir",
    "Env": ["PATH=/usr/local/bin:/usr/bin:/bin", "GREETING=hello, world", "EMPTY="],
    "Entrypoint": ["/bin/entry"],
    "Cmd": ["default", "args"],
    "Labels": {"org.opencontainers.image.title": "tool", "demo.purpose": "tests"}
}' $lower "$upper"
