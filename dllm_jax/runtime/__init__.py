"""What a job needs of its machines: mesh, processes, signals, console."""
