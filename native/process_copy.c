// Whether one process may read another's memory, as MPI does for long messages between ranks.
// Containers forbid it, and emulators and some kernels do not have it. Knows Linux; refuses to know MPI.

#define _GNU_SOURCE
#include <signal.h>
#include <stdbool.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attributes.h"

static const char known = 42;

static bool reads(pid_t other) {
    char got = 0;
    struct iovec here = {&got, 1}, there = {(void *)&known, 1};  // forked: it has the same address
    return process_vm_readv(other, &here, 1, &there, 1, 0) == 1 && got == known;
}

// Tries it with two children, which are to each other what ranks are. They call nothing but the kernel,
// so it is safe in a process with threads.
EXPORT bool dure_processes_may_copy(void) {
    const pid_t other = fork();
    if (other == 0) {
        for (;;) {
            pause();
        }
    }
    const pid_t reader = other < 0 ? -1 : fork();
    if (reader == 0) {
        _exit(reads(other) ? 0 : 1);
    }
    int status = 1;
    const bool told = reader > 0 && waitpid(reader, &status, 0) == reader;
    if (other > 0) {
        kill(other, SIGKILL);
        waitpid(other, NULL, 0);
    }
    return told && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
