"""What attacks could reach outside of a sandbox, and what became of it."""

import contextlib
import os
import pathlib
import secrets
import select
import socket
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parents[3]
# Where a file with the mark in its name would be an effect.
FOLDERS = ('/', '/tmp', '/var/tmp', '/dev/shm', '/run', '/home', '/mnt', '/usr')
VARIABLE = 'DLLM_CANARY'


class Surroundings:
  """Canaries: a secret in the environment and in a file, sockets, a process.

  Attributes:
    places: the words between '@' signs in the attacks.
  """

  def __init__(self, folder: pathlib.Path):
    secret = f'canary-{secrets.token_hex(8)}'
    os.environ[VARIABLE] = secret
    self._folder = folder
    self._mark = f'dllm-mark-{secrets.token_hex(8)}'
    self._home = folder / 'home'
    self._home.mkdir()
    self._file = folder / 'file-of-the-host'
    self._file.write_text('untouched')
    secret_file = folder / f'secret-{secrets.token_hex(8)}'
    secret_file.write_text(secret)
    gold = folder / 'gold.jsonl'
    gold.write_text('{"solution": "..."}')
    for path in (folder, self._home, self._file, secret_file, gold):
      path.chmod(0o777 if path.is_dir() else 0o666)
    self._process = subprocess.Popen(['sleep', '3600'], start_new_session=True)
    self._limits = self._read_process()
    self._sockets = self._listen()
    tcp, udp = (self._sockets[k].getsockname()[1] for k in ('tcp', 'udp'))
    self.places = {
      'SECRET_FILE': str(secret_file),
      'SECRET_NAME': secret_file.name,
      'SECRET': secret,
      'MARK': self._mark,
      'HOST_FILE': str(self._file),
      'GOLD_FILE': str(gold),
      'HOME': str(self._home),
      'REPO': str(REPO),
      'PORT': str(tcp),
      'UDP': str(udp),
      'UNIX': str(folder / 'socket'),
      'ABSTRACT': self._mark,
      'PID': str(self._process.pid),
      'TRAINER': str(os.getpid()),
    }

  def effects(self) -> list[str]:
    """What the attacks did outside, each in a few words."""
    found = [f'a file {path}' for path in self._marked()]
    if self._file.read_text() != 'untouched' or self._file.stat().st_mtime == 0:
      found.append('the file of the host was changed')
    if self._process.poll() is not None:
      found.append('the process was ended')
    elif self._read_process() != self._limits:
      found.append('the process was stopped or changed')
    ready, _, _ = select.select(list(self._sockets.values()), [], [], 0)
    found += [f'a connection to {s.getsockname()}' for s in ready]
    shared = pathlib.Path('/proc/sysvipc/shm')
    if shared.exists() and str(0x5EC2E7) in shared.read_text().split():
      found.append('memory of System V')
    return found

  def close(self) -> None:
    """Ends what was started, and removes marked files."""
    self._process.kill()
    self._process.wait()
    for opened in self._sockets.values():
      opened.close()
    for path in self._marked():
      path.unlink()
    del os.environ[VARIABLE]

  def _marked(self) -> list[pathlib.Path]:
    folders = map(pathlib.Path, FOLDERS)
    found = []
    for folder in {*folders, self._home, self._folder, REPO, pathlib.Path()}:
      with contextlib.suppress(OSError):
        found += folder.glob(f'*{self._mark}*')
    return found

  def _read_process(self) -> list[str]:
    """State, limits, niceness and processors of the canary process."""
    proc = pathlib.Path('/proc') / str(self._process.pid)
    deadline = time.monotonic() + 5
    fields = []
    while time.monotonic() < deadline:
      fields = (proc / 'stat').read_text().rpartition(')')[2].split()
      if fields[0] == 'S':  # it sleeps, unless it was stopped
        break
      time.sleep(0.01)
    status = (proc / 'status').read_text().splitlines()
    allowed = next(s for s in status if s.startswith('Cpus_allowed:'))
    return [fields[0], fields[16], allowed, (proc / 'limits').read_text()]

  def _listen(self) -> dict[str, socket.socket]:
    tcp = socket.create_server(('127.0.0.1', 0))
    udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(('127.0.0.1', 0))
    found = {'tcp': tcp, 'udp': udp}
    for name, address in (
      ('unix', str(self._folder / 'socket')),
      ('abstract', f'\0{self._mark}'),
    ):
      found[name] = socket.socket(socket.AF_UNIX)
      found[name].bind(address)
      found[name].listen()
    with contextlib.suppress(OSError):  # not every host has IPv6
      port = tcp.getsockname()[1]
      found['tcp6'] = socket.create_server(
        ('::1', port), family=socket.AF_INET6
      )
    return found
