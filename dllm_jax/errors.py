"""Exceptions that a command turns into one line instead of a traceback."""


class UserError(Exception):
  """Something that the user can put right: a path, a value, a file.

  The message is one line: what is wrong, where, and what to do. Everything
  else that is raised is a bug in the program, and keeps its traceback.
  """


class UsageError(UserError):
  """The command line itself is wrong: a flag, a config key, a value."""
