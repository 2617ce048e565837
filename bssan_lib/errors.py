"""Errors that the command line prints without a traceback. It exits with 2 for those that a user can fix."""


class NotebookError(Exception):
    """A notebook failed for a reason that the user's data and settings do not explain. The exit code is 1."""


class BssanError(Exception):
    """Names what was expected, what came, where (file, line, row) and what to do."""


class DataError(BssanError):
    """A data folder, file, row or picture that cannot be used."""


class ConfigError(BssanError):
    """A configuration key or value that does not exist or does not fit."""


class CheckpointError(BssanError):
    """A checkpoint that is incomplete, damaged or made for other data."""


class RunError(BssanError):
    """A run folder that is in use, cannot be written, or was made with other settings."""


class TrainingError(BssanError):
    """Training that cannot continue, such as a loss that is not a number."""


class ExerciseError(BssanError):
    """A student's function that is not right yet, with what is wrong."""
