#include <malloc.h>
#include <string.h>
#include <sys/prctl.h>

static const unsigned long slack = 5000000; // nanoseconds

__attribute__((constructor)) static void early(int argc, char **argv)
{
	if (argc < 2 || strcmp(argv[1], "init") != 0)
		return; // mote-runtime itself
	mallopt(M_ARENA_MAX, 1);
	prctl(PR_SET_TIMERSLACK, slack, 0, 0, 0);
}
