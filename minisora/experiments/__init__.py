"""The report's claims, and the choices behind our recipe, as experiments: one file a question, run
by `minisora reproduce NAME`. Each has `RUNS`, its rows, and `run` and `table`."""
