"""Pictures: in memory, in files, in a caller's own forms, and resized."""
