"""Exceptions that a command turns into one line instead of a traceback."""


class UserError(Exception):
  """Something that the user can put right: a path, a value, a file.

  The message is one line: what is wrong, where, and what to do. Everything
  else that is raised is a bug in the program, and keeps its traceback.

  Attributes:
    code: that a command exits with.
  """

  code = 1


class UsageError(UserError):
  """The command line itself is wrong: a flag, a config key, a value."""

  code = 2


class AbsentError(UserError):
  """Other processes are missing: all of them should be started again."""

  code = 4
