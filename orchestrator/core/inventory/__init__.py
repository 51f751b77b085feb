"""Read and check hosts files, and change a single value in one."""
