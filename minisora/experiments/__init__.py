"""The report's claims, and the choices behind our recipe, as experiments: one file each, run by
`minisora reproduce NAME`."""
