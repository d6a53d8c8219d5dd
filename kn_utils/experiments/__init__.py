"""What the notebooks ask a model; reads and writes no files."""
