"""Problems a user can mend. The command line prints them without a traceback and exits with 2."""


class BssanError(Exception):
    """Says what was expected, what came, where (file, line, row) and what to do."""


class DataError(BssanError):
    """A data folder, file, row or picture that cannot be used."""


class ConfigError(BssanError):
    """A configuration key or value that does not exist or does not fit."""


class CheckpointError(BssanError):
    """A checkpoint that is incomplete, damaged or made for other data."""


class RunError(BssanError):
    """A run folder that is in use, cannot be written, or was made with other settings."""


class TrainingError(BssanError):
    """Training that cannot go on, such as a loss that is not a number."""
