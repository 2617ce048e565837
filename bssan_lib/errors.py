"""Errors that the command line prints without a traceback. It exits with 2 for those that a user can fix."""


class NotebookError(Exception):
    """A notebook failed, and the cause is not in the user's data or settings. The exit code is 1."""


class BssanError(Exception):
    """The message names what was expected, what was found, where (file, line, row) and what to do."""


class DataError(BssanError):
    """A data folder, file, row or image that cannot be used."""


class ConfigError(BssanError):
    """A configuration key or value that does not exist or does not fit."""


class CheckpointError(BssanError):
    """A checkpoint that is incomplete, damaged or made for other data."""


class RunError(BssanError):
    """A run folder that is in use, cannot be written, or was made with other settings."""


class TrainingError(BssanError):
    """Training that cannot continue, for example because the loss is NaN."""


class ExerciseError(BssanError):
    """A student's function gives a wrong result; the message says what is wrong."""
