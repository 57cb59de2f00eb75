"""The machine underneath: files, memory, processes, and arrays that may live on disk."""
