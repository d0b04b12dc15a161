"""Signals wait for the end of a step."""

import contextlib
import signal
import subprocess
import sys
import textwrap

import pytest

from dllm_jax.runtime import signals


@pytest.fixture(autouse=True)
def no_interrupt_yet(monkeypatch):
  monkeypatch.setattr(signals, '_interrupts', [])


@pytest.mark.parametrize(
  'number', [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT]
)
def test_a_signal_only_asks(number, capfd):
  before = signal.getsignal(number)
  with signals.StopRequest() as stop:
    assert not stop.requested
    signal.raise_signal(number)
    assert stop.requested
    signal.raise_signal(signal.SIGTERM)
  assert signal.getsignal(number) is before
  name = signal.Signals(number).name
  more = 'again' if number == signal.SIGINT else 'twice'
  said = f'{name}: stopping once all is saved (Ctrl-C {more}: at once, unsaved)'
  assert capfd.readouterr().err.split('\n') == ['', said, '']  # once


def test_only_the_second_interrupt_interrupts():
  # A job in the background of a script starts with SIGINT ignored.
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with pytest.raises(KeyboardInterrupt):
    with signals.StopRequest():
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGTERM)
      signal.raise_signal(signal.SIGINT)
      signal.raise_signal(signal.SIGINT)
  assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_nothing_breaks_into_a_shield():
  signal.signal(signal.SIGINT, signal.default_int_handler)
  with signals.StopRequest() as stop:
    with stop.shield():
      for number in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
        signal.raise_signal(number)
    assert stop.requested
    with pytest.raises(KeyboardInterrupt):
      signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize('within_stop', [False, True])
def test_a_lost_interrupt_is_raised_by_the_next_check(monkeypatch, within_stop):
  monkeypatch.setattr(signals, '_NOTICE', '')
  before = signal.signal(signal.SIGINT, signals.interrupt)
  stop = signals.StopRequest() if within_stop else contextlib.nullcontext()
  try:
    signals.check_interrupt()
    with stop:
      if within_stop:
        signal.raise_signal(signal.SIGINT)
        signals.check_interrupt()  # the first only asks
      with contextlib.suppress(KeyboardInterrupt):  # as C++ code may
        signal.raise_signal(signal.SIGINT)
      assert signals.interrupted()
      with pytest.raises(KeyboardInterrupt):
        signals.check_interrupt()
  finally:
    signal.signal(signal.SIGINT, before)


def test_a_process_under_sigterm_ends_its_step():
  code = """
    import time
    from dllm_jax.runtime import signals
    with signals.StopRequest() as stop:
      print('ready', flush=True)
      while not stop.requested:
        time.sleep(0.01)
    print('saved')
  """
  with subprocess.Popen(
    [sys.executable, '-c', textwrap.dedent(code)], stdout=subprocess.PIPE
  ) as process:
    assert process.stdout.readline() == b'ready\n'
    process.terminate()
    assert process.stdout.read() == b'saved\n'
  assert process.returncode == 0
