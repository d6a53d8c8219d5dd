"""Parameters, plan, command line and named results of whole runs; no torch."""
