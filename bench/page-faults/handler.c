/*
 * A minimal page server: one client at a time, its RAM filled from one file of the
 * same size, WINDOW blocks for each fault, aligned.
 *
 *   handler SOCKET FILE WINDOW            serves faults
 *   handler SOCKET FILE WINDOW prefetch   also installs everything first, 1 MiB at a time
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define BLOCK 4096UL
#define PIECE (1UL << 20)

static unsigned char buffer[PIECE] __attribute__((aligned(4096)));

static void fail(const char *step)
{
	fprintf(stderr, "handler: %s: %s\n", step, strerror(errno));
	exit(1);
}

static int receive(int connection, unsigned long *base, unsigned long *size)
{
	char text[1024] = { 0 };
	struct iovec body = { .iov_base = text, .iov_len = sizeof(text) - 1 };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control;
	struct msghdr message = {
		.msg_iov = &body,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};
	int uffd;

	if (recvmsg(connection, &message, 0) <= 0)
		fail("recvmsg");
	memcpy(&uffd, CMSG_DATA(&control.header), sizeof(int));
	if (sscanf(text, "[{\"base_host_virt_addr\":%lu,\"size\":%lu", base, size) != 2)
		fail("handshake");
	return uffd;
}

/* This fails if the client has exited, which the caller's poll reports. */
static void install(int uffd, int file, unsigned long base, unsigned long offset, unsigned long length)
{
	struct uffdio_copy copy = {
		.dst = base + offset,
		.src = (unsigned long)buffer,
		.len = length,
	};

	if (pread(file, buffer, length, offset) != (ssize_t)length)
		fail("pread");
	while (ioctl(uffd, UFFDIO_COPY, &copy) < 0 && errno == EAGAIN)
		copy.copy = 0;
}

static void serve(int connection, int uffd, int file, unsigned long base, unsigned long window)
{
	struct pollfd waits[2] = {
		{ .fd = uffd, .events = POLLIN },
		{ .fd = connection, .events = POLLIN },
	};

	for (;;) {
		struct uffd_msg event;

		if (poll(waits, 2, -1) < 0)
			fail("poll");
		if (waits[1].revents)
			return;
		if (read(uffd, &event, sizeof(event)) != sizeof(event))
			continue;
		if (event.event == UFFD_EVENT_PAGEFAULT) {
			unsigned long offset = event.arg.pagefault.address - base;

			install(uffd, file, base, offset - offset % (window * BLOCK), window * BLOCK);
		}
	}
}

int main(int count, char **arguments)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	unsigned long window;
	int listener, file;

	if (count < 4) {
		fprintf(stderr, "usage: handler SOCKET FILE WINDOW [prefetch]\n");
		return 2;
	}
	strncpy(address.sun_path, arguments[1], sizeof(address.sun_path) - 1);
	window = strtoul(arguments[3], NULL, 10);
	file = open(arguments[2], O_RDONLY);
	listener = socket(AF_UNIX, SOCK_STREAM, 0);
	if (file < 0)
		fail(arguments[2]);
	if (bind(listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(listener, 1) < 0)
		fail(arguments[1]);
	puts("listening");
	fflush(stdout);
	for (;;) {
		unsigned long base, size;
		int connection = accept(listener, NULL, NULL);
		int uffd = receive(connection, &base, &size);

		if (count > 4)
			for (unsigned long offset = 0; offset < size; offset += PIECE)
				install(uffd, file, base, offset, PIECE);
		serve(connection, uffd, file, base, window);
		close(uffd);
		close(connection);
	}
}
