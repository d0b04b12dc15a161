"""What a person sees, on narrow screens too."""

import io
import os
import re
import signal

import pytest
from rich import console as rich_console

from dllm_jax.runtime import console, signals

SHOWN = ('free/correct', 'guided/correct', 'eval/accuracy', 'policy/ratio_max')


@pytest.mark.parametrize('width', [80, 100, 160])
def test_a_narrow_screen_cuts_the_metrics_not_the_count(width):
  screen = console.Console(show=SHOWN)
  screen._rich = rich_console.Console(
    file=io.StringIO(), force_terminal=True, width=width
  )
  with screen.stage('control (more sft)', 6300, 3000) as bar:
    bar.add(metrics=dict.fromkeys(SHOWN, 0.0312))
  seen = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', screen._rich.file.getvalue())
  line = [x for x in re.split(r'[\r\n]', seen) if '3001' in x][-1]
  assert line.startswith('control (more sft) ')
  assert ' 3001/6300 ' in line and re.search(r'eta \S*:', line)
  assert len(line) <= width


def test_lines_of_a_log_are_not_wrapped():
  out = io.StringIO()
  console.Console(file=out).line('x ' * 100)
  assert out.getvalue().count('\n') == 1


def screen_text(file) -> str:
  file.flush()
  file.buffer.seek(0)
  return file.buffer.read().decode('ascii')


def test_what_the_encoding_lacks_is_replaced():
  file = io.TextIOWrapper(io.BytesIO(), encoding='ascii')
  screen = console.Console(file=file)
  screen.line('12.5 % ± 1.0')
  screen.table('┌', ['naïve'], [['½']])
  seen = screen_text(file)
  assert seen.startswith('12.5 % ? 1.0\n')
  assert 'na?ve' in seen


def test_a_pipe_without_a_reader_stops_the_output_and_not_the_run():
  reader, writer = os.pipe()
  os.close(reader)
  file = open(writer, 'w')  # noqa: SIM115
  screen = console.Console(file=file)
  for _ in range(2):
    screen.line('x' * 100_000)
    with screen.stage('work', 1) as bar:
      bar.add()
  file.close()  # nothing is left that could not be written


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_stops_the_output_and_not_the_run():
  with open('/dev/full', 'w') as file:
    console.Console(file=file).line('x')


def test_a_closed_output_shows_nothing(monkeypatch):
  file = io.StringIO()
  file.close()
  console.Console(file=file).line('x')
  monkeypatch.setattr('sys.stdout', None)
  console.Console().line('x')


def test_a_bar_raises_an_interrupt_that_got_lost(monkeypatch):
  monkeypatch.setattr(signals, '_interrupts', [signal.SIGINT])
  with console.Console(quiet=True).stage('work', 2) as bar:
    for step in (bar.add, lambda: bar.add(0)):
      with pytest.raises(KeyboardInterrupt):
        step()


FRAMES = [('a', ''), ('░░', 'dim')], [('a\nb\x1b[2J', ''), ('[bold]', 'bold')]


def test_frames_of_a_log_are_lines():
  out = io.StringIO()
  with console.Console(file=out).frames() as show:
    for frame in FRAMES:
      show(frame)
  assert out.getvalue() == 'a░░\na↵b\ufffd[2J[bold]\n'


def test_frames_of_a_terminal_replace_each_other(monkeypatch):
  monkeypatch.setattr(console, 'FRAME_SECONDS', 0.0)
  screen = console.Console()
  screen._rich = rich_console.Console(
    file=io.StringIO(), force_terminal=True, width=40
  )
  with screen.frames() as show:
    for frame in FRAMES:
      show(frame)
  seen = screen._rich.file.getvalue()
  assert '\x1b[2J' not in seen and 'b\ufffd[2J' in seen
  assert '\x1b[2K' in seen  # a frame is wiped before the next
  last = re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', seen.split('\x1b[1A')[-1])
  assert last.split() == ['a', 'b\ufffd[2J[bold]']
