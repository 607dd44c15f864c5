// The floor of exchange.py: one exchange between two processes over a bare TCP socket.
//
// Both sides send `bytes` and receive `bytes`, again and again, without ever sleeping. Prints the
// mean seconds of one exchange.
//
//     socket_floor listen PORT BYTES REPEATS
//     socket_floor connect ADDRESS PORT BYTES REPEATS

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static struct sockaddr_in endpoint(const char *address, const char *port) {
    struct sockaddr_in result = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
    if (inet_pton(AF_INET, address, &result.sin_addr) != 1) {
        fprintf(stderr, "%s is not an IPv4 address\n", address);
        exit(1);
    }
    return result;
}

static int listen_once(const char *port) {
    struct sockaddr_in self = endpoint("0.0.0.0", port);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    int yes = 1;
    if (listener < 0) fail("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes);
    if (bind(listener, (struct sockaddr *)&self, sizeof self) != 0) fail("bind");
    if (listen(listener, 1) != 0) fail("listen");
    int peer = accept(listener, NULL, NULL);
    if (peer < 0) fail("accept");
    close(listener);
    return peer;
}

static int connect_to(const char *address, const char *port) {
    struct sockaddr_in peer = endpoint(address, port);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connection < 0) fail("socket");
    if (connect(connection, (struct sockaddr *)&peer, sizeof peer) != 0) fail("connect");
    return connection;
}

static size_t moved(ssize_t result, const char *what) {
    if (result > 0) return (size_t)result;
    if (result < 0 && (errno == EAGAIN || errno == EINTR)) return 0;
    fail(what);
    return 0;
}

static void exchange(int peer, const char *out, char *in, size_t bytes) {
    size_t sent = 0, received = 0;
    while (sent < bytes || received < bytes) {
        if (sent < bytes)
            sent += moved(send(peer, out + sent, bytes - sent, MSG_DONTWAIT | MSG_NOSIGNAL), "send");
        if (received < bytes)
            received += moved(recv(peer, in + received, bytes - received, MSG_DONTWAIT), "recv");
    }
}

int main(int argc, char **argv) {
    int listens = argc == 5 && strcmp(argv[1], "listen") == 0;
    if (!listens && !(argc == 6 && strcmp(argv[1], "connect") == 0)) {
        fprintf(stderr, "usage: socket_floor listen PORT BYTES REPEATS\n"
                        "       socket_floor connect ADDRESS PORT BYTES REPEATS\n");
        return 2;
    }
    size_t bytes = (size_t)atol(argv[argc - 2]);
    int repeats = atoi(argv[argc - 1]);
    int peer = listens ? listen_once(argv[2]) : connect_to(argv[2], argv[3]);
    int yes = 1;
    if (setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes) != 0) fail("TCP_NODELAY");
    char *out = calloc(bytes, 1), *in = calloc(bytes, 1);
    if (out == NULL || in == NULL) fail("calloc");

    for (int i = 0; i < repeats / 10; i++) exchange(peer, out, in, bytes);
    double start = now();
    for (int i = 0; i < repeats; i++) exchange(peer, out, in, bytes);
    printf("%.9g\n", (now() - start) / repeats);
    return 0;
}
