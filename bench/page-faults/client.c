/*
 * Acts as a VMM for the benchmark of page servers: RAM in shared memory, as in QEMU, and its
 * userfaultfd passed to the server. Each block of the build starts with its number.
 *
 *   client SOCKET BLOCKS faults STRIDE OFFSET   touches every STRIDE-th block, beginning with
 *                                               OFFSET, in a random order; prints nanoseconds
 *                                               for each, as a JSON array
 *   client SOCKET BLOCKS prefetch               waits for the last block; prints
 *                                               nanoseconds since the handshake
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#define BLOCK 4096UL

static void fail(const char *step)
{
	fprintf(stderr, "client: %s: %s\n", step, strerror(errno));
	exit(1);
}

static uint64_t now(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1000000000UL + time.tv_nsec;
}

static int connect_to(const char *path)
{
	struct sockaddr_un server = { .sun_family = AF_UNIX };
	int connection = socket(AF_UNIX, SOCK_STREAM, 0);

	strncpy(server.sun_path, path, sizeof(server.sun_path) - 1);
	if (connection < 0 || connect(connection, (struct sockaddr *)&server, sizeof(server)) < 0)
		fail("connect");
	return connection;
}

static void hand_over(int connection, int uffd, void *address, size_t length)
{
	char text[256];
	struct iovec body = { .iov_base = text };
	union {
		struct cmsghdr header;
		char bytes[CMSG_SPACE(sizeof(int))];
	} control = { 0 };
	struct msghdr message = {
		.msg_iov = &body,
		.msg_iovlen = 1,
		.msg_control = &control,
		.msg_controllen = sizeof(control),
	};

	body.iov_len = snprintf(text, sizeof(text),
				"[{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":0,\"page_size\":4096}]",
				(unsigned long)address, length);
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &uffd, sizeof(int));
	if (sendmsg(connection, &message, MSG_NOSIGNAL) != (ssize_t)body.iov_len)
		fail("sendmsg");
}

static void touch(const volatile unsigned char *memory, size_t blocks, size_t stride, size_t offset)
{
	size_t count = blocks / stride;
	uint32_t *order = malloc(count * sizeof(*order));
	uint64_t *times = malloc(count * sizeof(*times));

	for (size_t at = 0; at < count; at++)
		order[at] = at * stride + offset;
	srand(1);
	for (size_t at = count; at > 1; at--) {
		size_t other = rand() % at;
		uint32_t kept = order[at - 1];

		order[at - 1] = order[other];
		order[other] = kept;
	}
	for (size_t at = 0; at < count; at++) {
		uint64_t began = now();
		uint32_t number = *(const volatile uint32_t *)(memory + order[at] * BLOCK);

		times[at] = now() - began;
		if (number != order[at]) {
			fprintf(stderr, "client: block %u holds %u\n", order[at], number);
			exit(1);
		}
	}
	for (size_t at = 0; at < count; at++)
		printf("%c%lu", at == 0 ? '[' : ',', times[at]);
	printf("]\n");
}

static void await_last(unsigned char *memory, size_t blocks, uint64_t began)
{
	unsigned char *last = memory + (blocks - 1) * BLOCK;
	struct timespec pause = { .tv_nsec = 50000 };
	unsigned char present = 0;

	while (!(present & 1)) {
		if (mincore(last, BLOCK, &present) < 0)
			fail("mincore");
		if (!(present & 1))
			nanosleep(&pause, NULL);
	}
	printf("%lu\n", now() - began);
	for (size_t block = 0; block < blocks; block++)
		if (*(uint32_t *)(memory + block * BLOCK) != block)
			fail("wrong block");
}

int main(int count, char **arguments)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register range = { .mode = UFFDIO_REGISTER_MODE_MISSING };
	size_t blocks = count > 3 ? strtoul(arguments[2], NULL, 10) : 0;
	int prefetch = count == 4 && strcmp(arguments[3], "prefetch") == 0;
	int faults = count == 6 && strcmp(arguments[3], "faults") == 0;
	int memory_fd = memfd_create("ram", 0);
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
	unsigned char *memory;
	uint64_t began;
	int connection;

	if (blocks == 0 || !(prefetch || faults)) {
		fprintf(stderr, "usage: client SOCKET BLOCKS faults STRIDE OFFSET | prefetch\n");
		return 2;
	}
	if (memory_fd < 0 || ftruncate(memory_fd, blocks * BLOCK) < 0)
		fail("memfd_create");
	memory = mmap(NULL, blocks * BLOCK, PROT_READ | PROT_WRITE, MAP_SHARED, memory_fd, 0);
	if (memory == MAP_FAILED)
		fail("mmap");
	range.range.start = (unsigned long)memory;
	range.range.len = blocks * BLOCK;
	if (uffd < 0 || ioctl(uffd, UFFDIO_API, &api) < 0)
		fail("userfaultfd");
	if (ioctl(uffd, UFFDIO_REGISTER, &range) < 0)
		fail("UFFDIO_REGISTER");
	connection = connect_to(arguments[1]);
	began = now();
	hand_over(connection, uffd, memory, blocks * BLOCK);
	if (prefetch)
		await_last(memory, blocks, began);
	else
		touch(memory, blocks, strtoul(arguments[4], NULL, 10), strtoul(arguments[5], NULL, 10));
	return 0;
}
