"""Facts, prompts and published data sets: tables in, tables out; no torch."""
