/*
 * Lets a page server fill QEMU's guest RAM on demand, as Firecracker does itself.
 *
 * Preloaded into QEMU. When QEMU maps the file that TORPOR_UFFD_MEMORY names, the
 * mapping is registered with a new userfaultfd, and one message with that
 * descriptor goes to the Unix socket TORPOR_UFFD_SOCKET: a JSON array with one
 * region (see Firecracker's docs/snapshotting/handling-page-faults-on-snapshot-resume.md).
 *
 * The userfaultfd and the connection stay open for the life of the process: if the page server
 * exits, vCPUs wait instead of reading zeros. On any failure QEMU exits, because a guest
 * without its memory must not run.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

static int registered;

static void fail(const char *step)
{
	fprintf(stderr, "uffd-shim: %s: %s\n", step, strerror(errno));
	_exit(1);
}

static int is_guest_memory(int fd)
{
	const char *path = getenv("TORPOR_UFFD_MEMORY");
	struct stat wanted, mapped;

	return path && !registered && stat(path, &wanted) == 0 && fstat(fd, &mapped) == 0 &&
	       wanted.st_dev == mapped.st_dev && wanted.st_ino == mapped.st_ino;
}

/* Includes faults of the kernel: QEMU reads disk blocks straight into guest RAM. */
static int register_memory(void *address, size_t length)
{
	struct uffdio_api api = { .api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE };
	struct uffdio_register range = {
		.range = { .start = (unsigned long)address, .len = length },
		.mode = UFFDIO_REGISTER_MODE_MISSING,
	};
	int uffd = syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

	if (uffd < 0)
		fail("userfaultfd");
	if (ioctl(uffd, UFFDIO_API, &api) < 0)
		fail("UFFDIO_API");
	if (ioctl(uffd, UFFDIO_REGISTER, &range) < 0)
		fail("UFFDIO_REGISTER");
	return uffd;
}

static void send_to_page_server(int uffd, void *address, size_t length)
{
	const char *path = getenv("TORPOR_UFFD_SOCKET");
	struct sockaddr_un server = { .sun_family = AF_UNIX };
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
	int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	errno = ENAMETOOLONG;
	if (!path || strlen(path) >= sizeof(server.sun_path))
		fail("TORPOR_UFFD_SOCKET");
	strcpy(server.sun_path, path);
	if (connection < 0 || connect(connection, (struct sockaddr *)&server, sizeof(server)) < 0)
		fail("connecting to the page server");
	body.iov_len = snprintf(text, sizeof(text),
				"[{\"base_host_virt_addr\":%lu,\"size\":%zu,\"offset\":0,\"page_size\":4096}]",
				(unsigned long)address, length);
	control.header.cmsg_level = SOL_SOCKET;
	control.header.cmsg_type = SCM_RIGHTS;
	control.header.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&control.header), &uffd, sizeof(int));
	if (sendmsg(connection, &message, MSG_NOSIGNAL) != (ssize_t)body.iov_len)
		fail("sending the userfaultfd");
}

typedef void *(*mmap_function)(void *, size_t, int, int, int, off_t);

static void *map(const char *name, void *address, size_t length, int protection, int flags, int fd,
		 off_t offset)
{
	mmap_function next = (mmap_function)dlsym(RTLD_NEXT, name);
	void *mapped = next(address, length, protection, flags, fd, offset);

	if (mapped != MAP_FAILED && fd >= 0 && is_guest_memory(fd)) {
		registered = 1;
		send_to_page_server(register_memory(mapped, length), mapped, length);
	}
	return mapped;
}

void *mmap(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	return map("mmap", address, length, protection, flags, fd, offset);
}

void *mmap64(void *address, size_t length, int protection, int flags, int fd, off_t offset)
{
	return map("mmap64", address, length, protection, flags, fd, offset);
}
