/* Says on the console what the kernel found of its machine. */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int main(void)
{
    char line[256];
    FILE *memory = fopen("/proc/meminfo", "r");
    printf("processors %ld\n", sysconf(_SC_NPROCESSORS_ONLN));
    while (memory && fgets(line, sizeof line, memory))
        if (!strncmp(line, "MemTotal:", 9))
            printf("memory %s", line + 9);
    printf("nsm %s\n", access("/dev/nsm", R_OK | W_OK) ? "none" : "there");
    return 3;
}
