"""The one exception that is the user's to mend: the command line prints it and ends with exit code
2."""


class InputError(ValueError):
    """Bad input, said in one clear sentence with the numbers and what to do."""


def check_counts(least: int, **counts: int) -> None:
    """Raises InputError, naming it, if one of the numbers is smaller than `least`."""
    for name, count in counts.items():
        if count < least:
            raise InputError(f"{name} must be {least} or more, got {count}")


def check_shares(**shares: float) -> None:
    """Raises InputError, naming it, if one of the numbers is not between 0 and 1."""
    for name, share in shares.items():
        if not 0 <= share <= 1:
            raise InputError(f"{name} is a share, from 0 to 1, got {share}")
