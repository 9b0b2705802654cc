"""The user's mistakes: each is one line on stderr and exit status 2 (see `common.cli`)."""


class UserError(Exception):
    """A mistake of the user's.

    The message is one line that names the file or option, what was found and what was expected.
    """


class DataError(UserError):
    """A file, or what it contains, is not what the paper's format asks for."""


class OptionError(UserError):
    """An option's value, or a combination of options, cannot be honoured."""


class RunError(UserError):
    """A run folder is finished, locked by another process, or belongs to another configuration."""


class TrainingDivergedError(UserError):
    """The loss is no longer a finite number."""


class ServingError(UserError):
    """A model server does not answer, or not as the model's passport says."""
