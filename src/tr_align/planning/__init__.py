"""What a run will need, before anything is computed: cells, memory, hours, calls, disk."""
