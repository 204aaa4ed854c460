//go:build cgo && seccomp

// Calls to libseccomp that build a filter come here first (the linker's --wrap). They are recorded; compiling is put
// off until the program is asked for, and skipped when the cache has one for exactly this sequence of calls.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CALL_INIT = 1, CALL_ARCH, CALL_ATTR, CALL_RULE, CALL_RULE_EXACT };

struct call {
	uint32_t kind;
	uint32_t a;
	uint32_t b;
	uint32_t argc;
};

struct entry { // in the cache file: followed by the calls and the program
	uint32_t calls;
	uint32_t program;
};

static char *cache, *record;
static size_t cache_size, record_size, record_room;
static scmp_filter_ctx recorded; // the filter that the record is of
static int broken;               // out of memory: pass everything through
static int compile_to = -1;

// Only roots of this process' own tree write the cache; it is read before any container's files can be seen.
__attribute__((constructor(101))) static void load(int argc, char **argv)
{
	const char *mark = "mote-runtime:";
	if (argc < 2 || strcmp(argv[1], "init") != 0 || strncmp(argv[0], mark, strlen(mark)) != 0)
		return;
	int fd = open(argv[0] + strlen(mark), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && st.st_uid == 0 && (st.st_mode & 022) == 0 && st.st_size > 0 && st.st_size < (4 << 20)) {
		char *buffer = malloc(st.st_size);
		if (buffer && read(fd, buffer, st.st_size) == st.st_size) {
			cache = buffer;
			cache_size = st.st_size;
		} else {
			free(buffer);
		}
	}
	close(fd);
}

void mote_seccomp_compile_to(int fd) { compile_to = fd; }

static int active(void) { return !broken && (cache || compile_to >= 0); }

static void note(uint32_t kind, uint32_t a, uint32_t b, unsigned int argc, const struct scmp_arg_cmp *args)
{
	struct call call = {kind, a, b, argc};
	size_t need = sizeof(call) + argc * 24;
	if (record_size + need > record_room) {
		size_t room = (record_room + need) * 2;
		char *grown = realloc(record, room);
		if (!grown) {
			broken = 1;
			return;
		}
		record = grown;
		record_room = room;
	}
	memcpy(record + record_size, &call, sizeof(call));
	record_size += sizeof(call);
	for (unsigned int i = 0; i < argc; i++) { // field by field: padding has no defined value
		uint32_t head[2] = {args[i].arg, args[i].op};
		uint64_t data[2] = {args[i].datum_a, args[i].datum_b};
		memcpy(record + record_size, head, 8);
		memcpy(record + record_size + 8, data, 16);
		record_size += 24;
	}
}

scmp_filter_ctx __real_seccomp_init(uint32_t action);
scmp_filter_ctx __wrap_seccomp_init(uint32_t action)
{
	scmp_filter_ctx ctx = __real_seccomp_init(action);
	if (ctx && active()) {
		recorded = ctx;
		record_size = 0;
		note(CALL_INIT, action, 0, 0, NULL);
	}
	return ctx;
}

int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __wrap_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch)
{
	if (active() && ctx == recorded)
		note(CALL_ARCH, arch, 0, 0, NULL);
	return __real_seccomp_arch_add(ctx, arch);
}

int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __wrap_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value)
{
	if (active() && ctx == recorded)
		note(CALL_ATTR, attr, value, 0, NULL);
	return __real_seccomp_attr_set(ctx, attr, value);
}

int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int argc, const struct scmp_arg_cmp *args);
int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int argc, const struct scmp_arg_cmp *args)
{
	if (active() && ctx == recorded) {
		note(CALL_RULE, action, syscall, argc, args);
		if (cache && !broken)
			return 0;
	}
	return __real_seccomp_rule_add_array(ctx, action, syscall, argc, args);
}

int __real_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int argc, const struct scmp_arg_cmp *args);
int __wrap_seccomp_rule_add_exact_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int argc, const struct scmp_arg_cmp *args)
{
	if (active() && ctx == recorded) {
		note(CALL_RULE_EXACT, action, syscall, argc, args);
		if (cache && !broken)
			return 0;
	}
	return __real_seccomp_rule_add_exact_array(ctx, action, syscall, argc, args);
}

// replay makes the calls that were put off.
static int replay(void)
{
	size_t at = 0;
	while (at + sizeof(struct call) <= record_size) {
		struct call call;
		memcpy(&call, record + at, sizeof(call));
		at += sizeof(call);
		struct scmp_arg_cmp args[6];
		for (unsigned int i = 0; i < call.argc && i < 6; i++) {
			uint32_t head[2];
			uint64_t data[2];
			memcpy(head, record + at + i * 24, 8);
			memcpy(data, record + at + i * 24 + 8, 16);
			args[i].arg = head[0];
			args[i].op = head[1];
			args[i].datum_a = data[0];
			args[i].datum_b = data[1];
		}
		at += call.argc * 24;
		int rc = 0;
		if (call.kind == CALL_RULE)
			rc = __real_seccomp_rule_add_array(recorded, call.a, (int)call.b, call.argc, args);
		else if (call.kind == CALL_RULE_EXACT)
			rc = __real_seccomp_rule_add_exact_array(recorded, call.a, (int)call.b, call.argc, args);
		if (rc)
			return rc;
	}
	return 0;
}

static int write_all(int fd, const char *data, size_t size)
{
	while (size > 0) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return -errno;
		data += n;
		size -= n;
	}
	return 0;
}

int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

static int compile(const scmp_filter_ctx ctx)
{
	int memory = memfd_create("bpf", MFD_CLOEXEC), rc;
	if (memory < 0)
		return -errno;
	off_t size = 0;
	char *program = MAP_FAILED;
	rc = __real_seccomp_export_bpf(ctx, memory);
	if (rc == 0 && (size = lseek(memory, 0, SEEK_END)) > 0)
		program = mmap(NULL, size, PROT_READ, MAP_SHARED, memory, 0);
	if (rc == 0 && program == MAP_FAILED)
		rc = -ENOMEM;
	if (rc == 0) {
		struct entry entry = {record_size, size};
		rc = write_all(compile_to, (char *)&entry, sizeof(entry));
		if (rc == 0)
			rc = write_all(compile_to, record, record_size);
		if (rc == 0)
			rc = write_all(compile_to, program, size);
	}
	close(memory);
	return rc;
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd)
{
	if (!active() || ctx != recorded) {
		if (broken && cache && ctx == recorded)
			return -ENOMEM; // rules were put off and the record is incomplete: no filter is better than half a one
		return __real_seccomp_export_bpf(ctx, fd);
	}
	if (compile_to >= 0) {
		int rc = compile(ctx);
		return rc ? rc : __real_seccomp_export_bpf(ctx, fd);
	}
	size_t at = 0;
	while (at + sizeof(struct entry) <= cache_size) {
		struct entry entry;
		memcpy(&entry, cache + at, sizeof(entry));
		at += sizeof(entry);
		if (entry.calls > cache_size - at || entry.program > cache_size - at - entry.calls)
			break;
		if (entry.calls == record_size && memcmp(cache + at, record, record_size) == 0)
			return write_all(fd, cache + at + entry.calls, entry.program);
		at += entry.calls + entry.program;
	}
	int rc = replay();
	return rc ? rc : __real_seccomp_export_bpf(ctx, fd);
}
