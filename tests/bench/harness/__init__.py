"""What the benchmarks share: running the command, measuring processes, making data, telling results."""
