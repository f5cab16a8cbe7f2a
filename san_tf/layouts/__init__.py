"""Published benchmarks as they lie on a user's disk: found, checked, counted, and read without unpacking."""
