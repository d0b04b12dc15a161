"""Headless Chromium for tests, by the WebDriver protocol: HTTP and JSON.

Debian has both programs as `chromium-driver`; where one is missing, tests that
use `open_browser` are skipped.
"""

import base64
import contextlib
import json
import pathlib
import shutil
import subprocess
import tempfile
import urllib.request
from typing import Any

import pytest

KEYS = {'left': '\ue012', 'right': '\ue014', 'home': '\ue011', 'end': '\ue010'}
KEYS |= {'space': ' ', 'tab': '\ue004'}
_ELEMENT = 'element-6066-11e4-a52e-4f735466cecf'
_ARGUMENTS = [
  '--headless=new',
  '--no-sandbox',  # which root does not get
  '--disable-gpu',
  '--disable-dev-shm-usage',
  '--hide-scrollbars',
]


class Browser:
  """One window."""

  def __init__(self, port: int):
    self._root = f'http://127.0.0.1:{port}/session'
    options = {
      'browserName': 'chrome',
      'goog:chromeOptions': {
        'binary': shutil.which('chromium'),
        'args': _ARGUMENTS,
      },
      'goog:loggingPrefs': {'browser': 'ALL', 'performance': 'ALL'},
    }
    self._session = ''
    made = self._call('', {'capabilities': {'alwaysMatch': options}})
    self._session = '/' + made['sessionId']

  def _call(self, path: str, body: Any = None, method: str = 'POST') -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(
      self._root + self._session + path,
      data,
      {'Content-Type': 'application/json'},
      method=method,
    )
    with urllib.request.urlopen(request, timeout=60) as answer:
      return json.load(answer)['value']

  def close(self) -> None:
    self._call('', method='DELETE')

  def open(self, path: pathlib.Path) -> None:
    """Loads a file, by its file:// address."""
    self._call('/url', {'url': path.resolve().as_uri()})

  def run(self, script: str, *args) -> Any:
    """What a script of the body of a function returns."""
    return self._call('/execute/sync', {'script': script, 'args': list(args)})

  def click(self, selector: str) -> None:
    found = self._call('/element', {'using': 'css selector', 'value': selector})
    self._call(f'/element/{found[_ELEMENT]}/click', {})

  def press(self, *keys: str) -> None:
    """Keys, by the names of `KEYS` or as they are, to what has the focus."""
    presses = [
      {'type': kind, 'value': KEYS.get(key, key)}
      for key in keys
      for kind in ('keyDown', 'keyUp')
    ]
    source = {'type': 'key', 'id': 'keyboard', 'actions': presses}
    self._call('/actions', {'actions': [source]})

  def devtools(self, command: str, **parameters) -> Any:
    """A command of the DevTools protocol."""
    body = {'cmd': command, 'params': parameters}
    return self._call('/goog/cdp/execute', body)

  def log(self, kind: str = 'browser') -> list[dict[str, Any]]:
    """What was logged since the last call: messages and errors.

    'performance' has the events of the DevTools protocol instead.
    """
    found = self._call('/se/log', {'type': kind})
    if kind == 'browser':
      return found
    return [json.loads(entry['message'])['message'] for entry in found]

  def resize(self, width: int, height: int = 900) -> None:
    self.devtools(
      'Emulation.setDeviceMetricsOverride',
      width=width,
      height=height,
      deviceScaleFactor=1,
      mobile=width < 600,
    )

  def prefer(self, **features: str) -> None:
    """Media features, such as prefers_color_scheme='dark'."""
    given = [
      {'name': name.replace('_', '-'), 'value': value}
      for name, value in features.items()
    ]
    self.devtools('Emulation.setEmulatedMedia', features=given)

  def picture(self, path: pathlib.Path, *, whole: bool = False) -> None:
    """A screenshot as PNG, of the window or of the whole page."""
    shot = self.devtools(
      'Page.captureScreenshot', format='png', captureBeyondViewport=whole
    )
    path.write_bytes(base64.b64decode(shot['data']))


@contextlib.contextmanager
def open_browser():
  """A `Browser`, in a process of its own for the time of the block."""
  for program in ('chromium', 'chromedriver'):
    if shutil.which(program) is None:
      pytest.skip(f'{program} is not installed (Debian: chromium-driver)')
  with tempfile.TemporaryFile('w+') as out:
    process = subprocess.Popen(
      ['chromedriver', '--port=0'],
      stdout=subprocess.PIPE,
      stderr=out,
      text=True,
    )
    try:
      browser = Browser(_port(process))
      try:
        yield browser
      finally:
        browser.close()
    finally:
      process.terminate()
      process.wait()
      process.stdout.close()


def _port(process: subprocess.Popen) -> int:
  """The port that chromedriver says it took."""
  for line in process.stdout:
    if 'started successfully on port' in line:
      return int(line.rsplit(maxsplit=1)[1].rstrip('.'))
  raise RuntimeError('chromedriver did not start')
