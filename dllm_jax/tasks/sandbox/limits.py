"""What one program may use."""

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
  """Of one process that runs a program or a test.

  Attributes:
    cpu_seconds: the limit that counts: it does not depend on the machine's
      load.
    wall_seconds: a backstop for what sleeps; None is three times cpu_seconds.
    memory_bytes: of address space, about 60 MB of which is Python's own.
    file_bytes: of one file, and of all files together.
    num_files: open at once, and in all of /tmp; the latter eight times.
    num_threads: of the process.
  """

  cpu_seconds: float | int = 6.0
  wall_seconds: float | int | None = None
  memory_bytes: int = 2**30
  file_bytes: int = 2**24
  num_files: int = 64
  num_threads: int = 32

  def __post_init__(self):
    if not 0 < self.cpu_seconds <= 3600:
      raise ValueError(f'cpu_seconds must be in 0..3600: {self.cpu_seconds}')
    if self.wall_seconds is not None and self.wall_seconds < self.cpu_seconds:
      raise ValueError(
        f'wall_seconds must be at least cpu_seconds, {self.cpu_seconds}: '
        f'{self.wall_seconds}'
      )
    if self.memory_bytes < 2**27:
      raise ValueError('memory_bytes must be 2**27 or more: Python needs some')
    for name in ('file_bytes', 'num_files', 'num_threads'):
      if getattr(self, name) < 8:
        raise ValueError(f'{name} must be 8 or more: {getattr(self, name)}')

  @property
  def wall(self) -> float | int:
    """The backstop in seconds."""
    return self.wall_seconds or 3 * self.cpu_seconds
