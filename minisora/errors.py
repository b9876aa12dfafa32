"""The one exception that is the user's to mend: the command line prints it and ends with exit code
2."""


class InputError(ValueError):
    """Bad input, said in one clear sentence with the numbers and what to do."""
