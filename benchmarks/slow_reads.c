/* Storage that answers late: a library to preload, whose `pread` waits
   SLOW_READS_MS milliseconds before it reads from a shard of records. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef ssize_t (*reader)(int, void *, size_t, off_t);

static ssize_t late(const char *name, int file, void *to, size_t n, off_t at) {
  char link[64], path[4096];
  snprintf(link, sizeof link, "/proc/self/fd/%d", file);
  ssize_t length = readlink(link, path, sizeof path - 1);
  path[length < 0 ? 0 : length] = 0;
  const char *wait = getenv("SLOW_READS_MS");
  if (wait && strstr(path, ".array_record")) usleep(1000 * atoi(wait));
  return ((reader)dlsym(RTLD_NEXT, name))(file, to, n, at);
}

ssize_t pread(int file, void *to, size_t n, off_t at) {
  return late("pread", file, to, n, at);
}

ssize_t pread64(int file, void *to, size_t n, off_t at) {
  return late("pread64", file, to, n, at);
}
