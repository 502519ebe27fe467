// What both floor programs share: failing loudly, small files, and the cgroup hierarchies of this machine.
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#define RUN "/run/mocker-floor"
#define must(call) ({ __auto_type result = (call); if (result == -1) fail(#call); result; })

static void fail(const char *call) {
    dprintf(2, "floor: %s: %s\n", call, strerror(errno));
    _exit(125);
}

static void put(const char *path, const char *text) {
    int file = must(open(path, O_WRONLY | O_CLOEXEC));
    must(write(file, text, strlen(text)));
    close(file);
}

static char *text_of(const char *path, char *space, size_t size) {
    int file = must(open(path, O_RDONLY | O_CLOEXEC));
    size_t length = 0;
    ssize_t got;
    while (length + 1 < size && (got = must(read(file, space + length, size - 1 - length))) > 0) length += got;
    close(file);
    space[length] = 0;
    return space;
}

// Where each hierarchy is mounted, and whether it is cgroup v2.
static struct { char at[64]; int unified; } hierarchies[32];
static int count;

static void find_hierarchies(void) {
    static char mounts[1 << 16];
    text_of("/proc/self/mountinfo", mounts, sizeof mounts);
    for (char *line = strtok(mounts, "\n"); line; line = strtok(NULL, "\n")) {
        char *kind = strstr(line, " - cgroup");
        if (!kind || count == 32 || sscanf(line, "%*s %*s %*s %*s %63s", hierarchies[count].at) != 1) continue;
        hierarchies[count++].unified = kind[9] == '2';
    }
}

// Moves a process into the container's group of every hierarchy.
static void enter_groups(const char *id, pid_t pid) {
    char path[256], number[16];
    sprintf(number, "%d", pid);
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s/cgroup.procs", hierarchies[i].at, id);
        put(path, number);
    }
}

// The rights that `runc spec` gives: three capabilities in every set but the inheritable one, and none to be gained.
static void drop_rights(void) {
    const int kept[] = { CAP_AUDIT_WRITE, CAP_KILL, CAP_NET_BIND_SERVICE };
    const unsigned mask = 1u << CAP_AUDIT_WRITE | 1u << CAP_KILL | 1u << CAP_NET_BIND_SERVICE;
    for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
        if (cap > 31 || !(mask >> cap & 1)) prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
    struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
    struct __user_cap_data_struct sets[2] = { { mask, mask, mask }, { 0, 0, 0 } };
    must(syscall(SYS_capset, &header, sets));
    for (int i = 0; i < 3; i++) must(prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, kept[i], 0, 0));
    must(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
}
