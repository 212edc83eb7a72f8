"""The errors that ReadQG raises on purpose. Each message says what was found, where, and what to do next."""


class ReadQGError(Exception):
    """Base of every error that is the user's to mend; the command line prints it without a traceback."""


class ConfigError(ReadQGError):
    """A setting is missing, unknown or out of range."""


class InputError(ReadQGError):
    """A file or folder given as input cannot be used: names file, line or row, field, and what was found."""


class FolderError(ReadQGError):
    """An output folder was begun with something else, is incomplete, or is damaged."""


class ModelError(ReadQGError):
    """A model folder cannot be used: missing, pickled weights only, or not the kind that is needed."""


class RunError(ReadQGError):
    """A stage could not go on: too many rows failed, training collapsed, workers kept dying."""


def first_line(error: Exception) -> str:
    """Of what an error says; its class where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
