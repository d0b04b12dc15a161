"""What a person sees of a long run: a progress bar with ETA, or plain lines.

On a terminal a bar with the newest metrics; elsewhere (a log file, CI) one
line every `LINE_SECONDS`, so that progress shows there too.

The screen never ends a run: see `Output`.
"""

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from rich import console as rich_console
from rich import live, progress, table
from rich import text as rich_text

from dllm_jax.runtime import signals

LINE_SECONDS = 15.0
METRICS_SHOWN = 4
BAR_WIDTH = 12
FRAME_SECONDS = 0.08  # for which a frame is shown
TIMES_WIDTH = 7 + 3 + 7 + 6  # elapsed, 'eta', remaining, gaps


class Output:
  """A text stream to which writing never fails.

  What its encoding lacks is replaced by '?'. Once it cannot be written, its
  reader gone or its disk full, the rest is dropped.
  """

  def __init__(self, file):
    self._file = file

  def __getattr__(self, name: str):
    return getattr(self._file, name)

  def write(self, text: str) -> None:
    encoding = self._file.encoding or 'utf-8'
    self._try(
      self._file.write, text.encode(encoding, 'replace').decode(encoding)
    )

  def flush(self) -> None:
    self._try(self._file.flush)

  def _try(self, method: Callable, *args) -> None:
    try:
      method(*args)
    except (OSError, ValueError):  # ValueError: the file was closed
      discard(self._file)


def discard(file) -> None:
  """Sends what is still written to a stream, or buffered in it, nowhere."""
  with contextlib.suppress(OSError, ValueError):
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, file.fileno())
    os.close(nowhere)


class Bar:
  """Progress of one stage; raises the KeyboardInterrupt that got lost."""

  def __init__(self, advance, done: int):
    self._advance, self._done = advance, done

  def add(
    self, count: int = 1, metrics: Mapping[str, float] | None = None
  ) -> None:
    """More units done; 0 changes nothing. `metrics` replace those shown."""
    signals.check_interrupt()
    if count:
      self._done += count
      self._advance(self._done, metrics)


class Console:
  """Prints to one stream, for all that a command shows."""

  def __init__(
    self, *, show: Sequence[str] = (), file=None, quiet: bool = False
  ):
    """Opens a stream.

    Args:
      show: names of the metrics of a progress line, in order of interest.
      file: a text stream; None is the standard output, if it is open.
      quiet: print nothing; of several processes only one prints.
    """
    file = sys.stdout if file is None else file
    self._rich = rich_console.Console(
      file=None if file is None else Output(file),
      highlight=False,
      quiet=quiet or file is None,
    )
    self._show = tuple(show)

  def line(self, text: str) -> None:
    """A line that stays."""
    self._rich.print(text, markup=False, soft_wrap=True)

  @contextlib.contextmanager
  def stage(self, title: str, total: int, done: int = 0) -> Iterator[Bar]:
    """A bar from `done` to `total` for the time of the block."""
    if self._rich.quiet or not self._rich.is_terminal:
      yield Bar(_Lines(self, title, total, done), done)
      return
    columns = (
      progress.TextColumn('{task.description}'),
      progress.BarColumn(bar_width=BAR_WIDTH),
      progress.MofNCompleteColumn(),
      progress.TimeElapsedColumn(),
      progress.TextColumn('eta'),
      progress.TimeRemainingColumn(),
      progress.TextColumn('{task.fields[metrics]}'),
    )
    # Metrics get the remaining columns: rich would drop the count.
    count = 2 * len(str(total)) + 1
    room = self._rich.width - len(title) - BAR_WIDTH - count - TIMES_WIDTH
    with progress.Progress(*columns, console=self._rich) as live:
      bar = live.add_task(title, total=total, completed=done, metrics='')

      def advance(done, metrics):
        fields = {'metrics': self.brief(metrics, room)} if metrics else {}
        live.update(bar, completed=done, **fields)

      yield Bar(advance, done)

  @contextlib.contextmanager
  def frames(
    self,
  ) -> Iterator[Callable[[Sequence[tuple[str, str]]], None]]:
    """A function that shows a text in place of the previous one.

    The text is given as (part, rich style). The last one stays; if the output
    is no terminal, each is a line, without what is struck out. A model may have
    written the text, so control characters are shown as a mark.
    """
    if not self._rich.is_terminal:

      def print_line(parts):
        signals.check_interrupt()
        kept = (part for part, style in parts if 'strike' not in style)
        text = printable(''.join(kept))
        self.line(text.replace('\n', '↵'))

      yield print_line
      return
    with live.Live(console=self._rich, auto_refresh=False) as view:

      def show(parts):
        signals.check_interrupt()
        text = rich_text.Text()
        for part, style in parts:
          text.append(printable(part), style)
        view.update(text, refresh=True)
        time.sleep(FRAME_SECONDS)

      yield show

  def brief(self, metrics: Mapping[str, float], room: int = 1000) -> str:
    """The first few of the metrics to show, in at most `room` columns."""
    names = [name for name in self._show if name in metrics]
    text = ''
    for name in names[:METRICS_SHOWN]:
      longer = f'{text}  {name} {metrics[name]:.3g}'.strip()
      if len(longer) > room:
        break
      text = longer
    return text

  def table(
    self, title: str, header: Sequence[str], rows: Sequence[Sequence[str]]
  ) -> None:
    """A table; the first column is left-aligned, numbers are right-aligned."""
    view = table.Table(title=title, title_justify='left')
    for i, name in enumerate(header):
      view.add_column(name, justify='right' if i else 'left')
    for row in rows:
      view.add_row(*row)
    self._rich.print(view)


def printable(text: str) -> str:
  """The text with a mark for control characters, except newline and tab."""
  return ''.join(
    c if c.isprintable() or c in '\n\t' else '\ufffd' for c in text
  )


class _Lines:
  """A line every `LINE_SECONDS`, for output that is not a terminal."""

  def __init__(self, console: Console, title: str, total: int, done: int):
    self._console, self._title, self._total = console, title, total
    self._began = self._last = time.monotonic()
    self._first = done
    self._metrics = {}

  def __call__(self, done: int, metrics: Mapping[str, float] | None) -> None:
    self._metrics = metrics or self._metrics
    now = time.monotonic()
    if now - self._last < LINE_SECONDS and done < self._total:
      return
    self._last = now
    speed = (done - self._first) / max(now - self._began, 1e-9)
    left = (self._total - done) / max(speed, 1e-9)
    self._console.line(
      f'{self._title}  {done}/{self._total}  eta {left:.0f} s  '
      f'{self._console.brief(self._metrics)}'
    )
