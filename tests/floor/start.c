// The floor under a container's life: the kernel calls that the bundle of `runc spec` needs for /bin/true, and no more.
//
//   floor-start create|start|delete ROOTFS ID      as an OCI runtime is called: three processes, state in /run between
//   floor-start run ROOTFS ID                      the same in one
//
// No JSON, no checks, no messages: a runtime that takes one and a half times as long spends a third on all of that. Groups
// are made in every hierarchy, entered and removed; on cgroup v2 alone the device program is left out.
#include "floor.h"
#include <net/if.h>

static const char *rootfs, *id;

static void make_groups(void) {
    static const char *devices[] = { "c *:* m", "b *:* m", "c 1:3 rwm", "c 1:8 rwm", "c 1:7 rwm", "c 5:0 rwm",
                                     "c 1:5 rwm", "c 1:9 rwm", "c 136:* rwm", "c 5:2 rwm" };
    char path[256], from[256], text[256];
    for (int i = 0; i < count; i++) {
        const char *at = hierarchies[i].at, *name = strrchr(at, '/') + 1;
        snprintf(path, sizeof path, "%s/%s", at, id);
        must(mkdir(path, 0755));
        if (!strcmp(name, "cpuset") && !hierarchies[i].unified) {
            for (int file = 0; file < 2; file++) {
                snprintf(from, sizeof from, "%s/cpuset.%s", at, file ? "mems" : "cpus");
                snprintf(path, sizeof path, "%s/%s/cpuset.%s", at, id, file ? "mems" : "cpus");
                put(path, text_of(from, text, sizeof text));
            }
        } else if (!strcmp(name, "devices")) {
            snprintf(path, sizeof path, "%s/%s/devices.deny", at, id);
            put(path, "a");
            snprintf(path, sizeof path, "%s/%s/devices.allow", at, id);
            for (size_t rule = 0; rule < sizeof devices / sizeof *devices; rule++) put(path, devices[rule]);
        }
    }
}

static void remove_groups(void) {
    char path[256];
    for (int i = 0; i < count; i++) {
        snprintf(path, sizeof path, "%s/%s", hierarchies[i].at, id);
        while (rmdir(path) && errno == EBUSY) usleep(100);
    }
}

static void mount_cgroups(void) {
    const unsigned long plain = MS_NOSUID | MS_NOEXEC | MS_NODEV | MS_RELATIME;
    char source[256], target[64];
    must(mount("cgroup", "sys/fs/cgroup", "tmpfs", plain & ~MS_RELATIME, "mode=755"));
    for (int i = 0; i < count; i++) {
        snprintf(target, sizeof target, "%s", hierarchies[i].at + 1);
        snprintf(source, sizeof source, "%s/%s", hierarchies[i].at, id);
        must(mkdir(target, 0755));
        must(mount(source, target, NULL, MS_BIND, NULL));
        must(mount(NULL, target, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | plain, NULL));
    }
    must(mount(NULL, "sys/fs/cgroup", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY | plain, NULL));
}

static void make_mounts(void) {
    const unsigned long quiet = MS_NOSUID | MS_NOEXEC | MS_NODEV;
    must(mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL));
    must(mount(rootfs, rootfs, NULL, MS_BIND | MS_REC, NULL));
    must(chdir(rootfs));
    must(mount("proc", "proc", "proc", 0, NULL));
    must(mount("tmpfs", "dev", "tmpfs", MS_NOSUID | MS_STRICTATIME, "mode=755,size=65536k"));
    must(mkdir("dev/pts", 0755));
    must(mount("devpts", "dev/pts", "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620,gid=5"));
    must(mkdir("dev/shm", 0755));
    must(mount("shm", "dev/shm", "tmpfs", quiet, "mode=1777,size=65536k"));
    must(mkdir("dev/mqueue", 0755));
    must(mount("mqueue", "dev/mqueue", "mqueue", quiet, NULL));
    must(mount("sysfs", "sys", "sysfs", quiet | MS_RDONLY, NULL));
    mount_cgroups();
}

static void make_devices(void) {
    static const struct { const char *path; int major, minor; } nodes[] = {
        { "dev/null", 1, 3 }, { "dev/zero", 1, 5 }, { "dev/full", 1, 7 },
        { "dev/random", 1, 8 }, { "dev/urandom", 1, 9 }, { "dev/tty", 5, 0 } };
    static const char *links[][2] = { { "/proc/self/fd", "dev/fd" }, { "/proc/self/fd/0", "dev/stdin" },
        { "/proc/self/fd/1", "dev/stdout" }, { "/proc/self/fd/2", "dev/stderr" }, { "pts/ptmx", "dev/ptmx" } };
    for (int i = 0; i < 6; i++) must(mknod(nodes[i].path, S_IFCHR | 0666, makedev(nodes[i].major, nodes[i].minor)));
    for (int i = 0; i < 5; i++) must(symlink(links[i][0], links[i][1]));
}

static void guard_kernel_files(void) {
    static const char *masked[] = { "acpi", "asound", "kcore", "keys", "latency_stats", "timer_list", "timer_stats",
                                    "sched_debug", "scsi", "../sys/firmware" };
    static const char *readonly[] = { "bus", "fs", "irq", "sys", "sysrq-trigger" };
    char path[64];
    for (int i = 0; i < 10; i++) {
        snprintf(path, sizeof path, "/proc/%s", masked[i]);
        if (mount("/dev/null", path, NULL, MS_BIND, NULL) && errno == ENOTDIR)
            must(mount("tmpfs", path, "tmpfs", MS_RDONLY, NULL));
    }
    for (int i = 0; i < 5; i++) {
        snprintf(path, sizeof path, "/proc/%s", readonly[i]);
        if (!mount(path, path, NULL, MS_BIND | MS_REC, NULL))
            must(mount(NULL, path, NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    }
}

static void raise_loopback(void) {
    int sock = must(socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    struct ifreq request = { .ifr_name = "lo", .ifr_flags = IFF_UP };
    must(ioctl(sock, SIOCSIFFLAGS, &request));
    close(sock);
}

// Inside: everything up to execve. `line` carries a byte each way; `fifo` is where a created container waits.
static void become_container(int line, int fifo) {
    char byte;
    umask(0);
    raise_loopback();
    make_mounts();
    make_devices();
    must(read(line, &byte, 1)); // the groups are entered
    must(syscall(SYS_pivot_root, ".", "."));
    must(umount2(".", MNT_DETACH));
    must(mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND | MS_RDONLY, NULL));
    must(sethostname("runc", 4));
    guard_kernel_files();
    must(setsid());
    struct rlimit files = { 1024, 1024 };
    must(setrlimit(RLIMIT_NOFILE, &files));
    must(chdir("/"));
    umask(022);
    must(write(line, "r", 1));
    if (fifo >= 0) {
        char path[32];
        sprintf(path, "/proc/self/fd/%d", fifo);
        int gate = must(open(path, O_WRONLY | O_CLOEXEC)); // until start opens the other end
        must(write(gate, "s", 1));
    }
    must(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
    drop_rights();
    execl("/bin/true", "true", NULL);
    fail("execl");
}

static pid_t clone_container(int line[2], int fifo, int parent) {
    must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, line));
    struct clone_args args = { .flags = CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS | parent,
                               .exit_signal = parent ? 0 : SIGCHLD };
    pid_t pid = must(syscall(SYS_clone3, &args, sizeof args));
    if (!pid) become_container(line[1], fifo);
    close(line[1]);
    return pid;
}

static void start_in_groups(int line, pid_t pid) {
    char byte;
    enter_groups(id, pid);
    must(write(line, "g", 1));
    if (must(read(line, &byte, 1)) != 1) _exit(125);
}

static void create(void) {
    char path[256], number[16];
    int line[2];
    mkdir(RUN, 0700);
    snprintf(path, sizeof path, RUN "/%s", id);
    must(mkdir(path, 0700));
    must(chdir(path));
    must(mkfifo("fifo", 0600));
    int fifo = must(open("fifo", O_PATH | O_CLOEXEC));
    make_groups();
    pid_t pid = clone_container(line, fifo, CLONE_PARENT);
    start_in_groups(line[0], pid);
    sprintf(number, "%d", pid);
    close(must(open("pid.new", O_CREAT | O_WRONLY, 0600)));
    put("pid.new", number);
    must(rename("pid.new", "pid"));
}

static void start(void) {
    char path[256], byte;
    snprintf(path, sizeof path, RUN "/%s/fifo", id);
    int fifo = must(open(path, O_RDONLY | O_CLOEXEC));
    must(read(fifo, &byte, 1));
    must(read(fifo, &byte, 1)); // its end: the program runs
    must(unlink(path));
}

static void delete(void) {
    char path[256], number[16];
    snprintf(path, sizeof path, RUN "/%s", id);
    must(chdir(path));
    if (!kill(atoi(text_of("pid", number, sizeof number)), 0)) fail("the container runs");
    remove_groups();
    must(unlink("pid"));
    must(rmdir(path));
}

static int run(void) {
    int line[2], status;
    make_groups();
    pid_t pid = clone_container(line, -1, 0);
    start_in_groups(line[0], pid);
    must(waitpid(pid, &status, 0));
    remove_groups();
    return WEXITSTATUS(status);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    rootfs = argv[2], id = argv[3];
    find_hierarchies();
    if (!strcmp(argv[1], "create")) create();
    else if (!strcmp(argv[1], "start")) start();
    else if (!strcmp(argv[1], "delete")) delete();
    else return run();
    return 0;
}
