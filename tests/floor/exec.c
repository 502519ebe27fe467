// The floor under `exec` of /bin/true in a running container: join its namespaces and groups, fork, give up rights, execve,
// wait. Nothing else.
//
//   floor-exec PID GROUP        the container's first process; its group's path below each hierarchy
#include "floor.h"

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    int line[2], status;
    char byte;
    find_hierarchies();
    must(pipe2(line, O_CLOEXEC));
    int init = must(syscall(SYS_pidfd_open, atoi(argv[1]), 0));
    // Groups first: their files are out of sight once the mount namespace is the container's. What forks, forks inside.
    enter_groups(argv[2], getpid());
    must(setns(init, CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS));
    pid_t pid = must(fork());
    if (!pid) {
        must(setsid());
        must(chdir("/"));
        struct rlimit files = { 1024, 1024 };
        must(setrlimit(RLIMIT_NOFILE, &files));
        must(syscall(SYS_close_range, 3, ~0u, CLOSE_RANGE_CLOEXEC));
        drop_rights();
        execl("/bin/true", "true", NULL);
        fail("execl");
    }
    close(line[1]);
    must(read(line[0], &byte, 1)); // closed by execve
    must(waitpid(pid, &status, 0));
    return WEXITSTATUS(status);
}
