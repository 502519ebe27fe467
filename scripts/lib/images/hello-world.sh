# hello-world: the smallest useful image, one file. A static program needs no libraries, and
# so no distribution: a container is a process, not a little machine.

need musl-gcc=musl-tools

cat >"$work/hello.c" <<'C'
#include <unistd.h>

static const char message[] =
    "\nHello from Docker!\n"
    "This message shows that your installation appears to be working correctly.\n"
    "\n"
    "In truth it was mocker, and no daemon had a hand in it. For these lines\n"
    " 1. mocker-pull fetched the manifest, the config and one layer of this image from\n"
    "    a registry, and checked the sha256 of each;\n"
    " 2. the layer was unpacked into the store while it arrived, and overlayfs laid a\n"
    "    writable directory over it;\n"
    " 3. mocker-net joined a new network namespace to a bridge by a veth pair;\n"
    " 4. mocker-cgroup made a control group, which bounds what this process may use;\n"
    " 5. mocker-exec unshared its namespaces, made the overlay its root by pivot_root,\n"
    "    dropped the capabilities it does not need;\n"
    " 6. and became this program by execve.\n"
    "\n"
    "To see each of these calls with its reason, add --explain. For a whole system, try:\n"
    " $ mocker run -it debian bash\n"
    "\n";

int main(void)
{
    return write(1, message, sizeof message - 1) != sizeof message - 1;
}
C

tree=$(new_tree)
musl-gcc -static -Os -s -o "$tree/hello" "$work/hello.c"
layer=$(layer_from_tree "$tree")
image hello-world '{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"Cmd":["/hello"]}' "$layer"
