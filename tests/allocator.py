"""The C library told to hand freed memory back at once, so that the peak of a process is what it asked for.

Otherwise glibc keeps what was freed, how much of it depends on how threads happened to take turns, and the same work
peaks at 12 MB or at 50.
"""

HANDED_BACK = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
"""For the environment of the child process."""
